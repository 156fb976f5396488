// Multi-head latent attention in both forms. Equations and names: docs/model.md, "Attention".
#include <algorithm>
#include <cstring>
#include <set>

#include "model/forward.h"

namespace causeway {
namespace {

// Heads of a tile of the absorbed kernel (kernels/cpu/absorbed_attention.inc): items are whole
// tiles.
constexpr int64_t kHeadTile = 4;
// Of the weights that are read after attention, what may come to the second-level cache before.
constexpr int64_t kAhead = 640 << 10;

// Heads of one item of absorbed attention: all, unless that leaves workers without an item.
int64_t HeadsOfItem(int64_t heads, int64_t rows, int64_t workers) {
  if (rows >= workers) return heads;
  const int64_t even = (heads * rows + workers - 1) / workers;
  return std::min(heads, (even + kHeadTile - 1) / kHeadTile * kHeadTile);
}

}  // namespace

void Forward::PublishKeys(int64_t layer, const LocalStep& step, View<const float, 2> x) {
  const AttentionWeights& w = weights_.layer(layer).attention;
  // The ranks of a TP group on this host write to one cache, so each stores some of the rows, and
  // unless all make all of them together, makes no others.
  const Range stored = tp_.HostRows(step.rows());
  const Range mine = together_ ? Range{0, step.rows()} : stored;
  for (int64_t begin = mine.begin; begin < mine.end; begin += kProjectRows) {
    const ArenaScope scope(arena_);
    const int64_t end = std::min(mine.end, begin + kProjectRows);
    const View<const float, 2> rows = x.Slice(begin, end);
    const TraceZone zone(trace_, "kv latent", static_cast<int32_t>(layer));
    const Activation h = NormedInput(rows, weights_.layer(layer).input_norm, w.kv_a.type());
    const View<float, 2> a = arena_.Floats(end - begin, config_.latent_dim());
    Project({"kv_a", static_cast<int32_t>(layer)}, h, w.kv_a, Rows::Of(a));
    ops_.ForEach(end - begin, [&](int64_t i, void* scratch) {
      if (stored.Contains(begin + i)) {
        StoreLatent(layer, step, begin + i, a.row(i), static_cast<float*>(scratch));
      }
    });
    if (config_.sparse()) PublishIndexKeys(layer, step, begin, stored, h);
  }
}

// The cached row: the normed latent, then the rotated key that all heads share. Both are rounded
// once, to the cache's type, on their way into it; all readers, this rank too, see what it holds.
void Forward::StoreLatent(int64_t layer, const LocalStep& step, int64_t row, const float* a,
                          float* scratch) const {
  const KvShape& shape = cache_.shape();
  const int64_t rank = config_.kv_lora_rank;
  const int64_t rope = config_.qk_rope_head_dim;
  const int64_t p = step.PositionOf(row);
  const int32_t page = step.ExtendOf(row).pages[static_cast<size_t>(p / kPage)];
  char* to = static_cast<char*>(cache_.LatentPage(layer, page)) + p % kPage * shape.latent_bytes();
  // An int8 row is made from the row in f32.
  const Rows out = shape.int8_kv ? Rows::Dense(scratch, DType::kF32, 1, rank + rope)
                                 : Rows::Dense(to, type_, 1, rank + rope);
  NormArgs norm{.x = a,
                .x_stride = rank,
                .m = 1,
                .n = rank,
                .weight = weights_.layer(layer).attention.kv_a_norm.data(),
                .eps = static_cast<float>(config_.rms_norm_eps)};
  (out.type == DType::kF32 ? norm.out_f32_stride : norm.out_bf16_stride) = rank;
  if (out.type == DType::kF32) {
    norm.out_f32 = static_cast<float*>(out.data);
  } else {
    norm.out_bf16 = static_cast<uint16_t*>(out.data);
  }
  ops_.table().rms_norm(norm);
  const int32_t position = step.position[static_cast<size_t>(row)];
  ops_.table().rotate({.x = a + rank,
                       .x_stride = rope,
                       .m = 1,
                       .heads = 1,
                       .head_dim = rope,
                       .rope_begin = 0,
                       .rope_dim = rope,
                       .interleaved = true,
                       .cos = rope_.view().cos,
                       .sin = rope_.view().sin,
                       .positions = &position,
                       .type = out.type,
                       .out = out.Columns(rank, rank + rope).data,
                       .out_stride = rope});
  if (!shape.int8_kv) return;
  // As DequantizeArgs reads them: both parts, then the scale of each.
  float scale[2];
  for (int part = 0; part < 2; ++part) {
    const int64_t begin = part == 0 ? 0 : rank;
    const int64_t count = part == 0 ? rank : rope;
    ops_.table().quantize({.type = DType::kF32,
                           .x = scratch + begin,
                           .x_stride = count,
                           .m = 1,
                           .k = count,
                           .out = reinterpret_cast<int8_t*>(to) + begin,
                           .out_stride = count,
                           .scale = &scale[part]});
  }
  std::memcpy(to + rank + rope, scale, sizeof(scale));
}

Forward::Queries Forward::MakeQueries(int64_t layer, const LocalStep& step,
                                      const LocalStep::Block& block, View<const float, 2> x) {
  const TraceZone zone(trace_, "query projections", static_cast<int32_t>(layer));
  const AttentionWeights& w = weights_.layer(layer).attention;
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  const int64_t dim = config_.qk_head_dim();
  const bool low_rank = config_.q_lora_rank > 0;
  Queries out;
  out.heads = arena_.Matrix(type_, block.rows(), heads_.size() * dim);
  if (low_rank) {
    // Quantised once for heads and indexer, if either reads it so.
    const bool int8 =
        w.q_b.type() == DType::kI8 || (config_.sparse() && w.indexer.wq_b.type() == DType::kI8);
    out.latent =
        Activation::Of(type_, int8 ? DType::kI8 : type_, block.rows(), config_.q_lora_rank, arena_);
  }
  for (int64_t begin = 0; begin < block.rows(); begin += kProjectRows) {
    const ArenaScope scope(arena_);
    const int64_t end = std::min(block.rows(), begin + kProjectRows);
    Activation h = NormedInput(x.Slice(begin, end), weights_.layer(layer).input_norm,
                               low_rank ? w.q_a.type() : w.q_b.type());
    if (low_rank) {
      const View<float, 2> a = arena_.Floats(end - begin, config_.q_lora_rank);
      Project({"q_a", static_cast<int32_t>(layer)}, h, w.q_a, Rows::Of(a));
      h = out.latent.Slice(begin, end);
      ops_.NormInput(a, w.q_a_norm.data(), eps, h);
    }
    const View<float, 2> q =
        ops_.LinearColumns(h, w.q_b, heads_.begin * dim, heads_.end * dim, arena_);
    ops_.Rotate(q, heads_.size(), config_.qk_nope_head_dim, /*interleaved=*/true, rope_.view(),
                step.position.data() + block.begin + begin, out.heads.Slice(begin, end));
  }
  return out;
}

void Forward::Project(CollectiveName name, const Activation& x, const Weight& w, const Rows& out) {
  if (!together_) {
    ops_.Linear(x, w, out);
    return;
  }
  const Range panels = tp_.HostRows(w.panels());
  ops_.LinearPanels(x, w, panels.begin, panels.end, out);
  ShareProduct(name, out);
}

void Forward::Attend(int64_t layer, const LocalStep& step, int64_t block_index,
                     View<const float, 2> x, const Queries& queries, const LayerPages& pages,
                     const Rows& out) {
  const LocalStep::Block& block = step.blocks[static_cast<size_t>(block_index)];
  const bool shares = block_index < static_cast<int64_t>(step.sharing.size());
  if (block.materialised) {
    KeyMask mask;
    const HeadQueries with{queries.heads, mask, out};
    const auto select = [&] { mask = SelectMask(layer, step, block, x, queries, pages); };
    if (shares) {
      AttendShared(layer, step, block_index, &block, &with, select);
    } else {
      select();
      const TraceZone zone(trace_, "attention", static_cast<int32_t>(layer));
      AttendMaterialised(layer, step, block, with);
    }
    return;
  }
  // Others' blocks of this number may be materialised.
  if (shares) AttendShared(layer, step, block_index, nullptr, nullptr, [] {});
  const Selection selection = Select(layer, step, block, x, queries, pages);
  const TraceZone zone(trace_, "attention", static_cast<int32_t>(layer));
  const AttentionWeights& w = weights_.layer(layer).attention;
  for (int64_t begin = 0; begin < block.rows(); begin += pass_rows_.absorb) {
    const int64_t end = std::min(block.rows(), begin + pass_rows_.absorb);
    AttendAbsorbed(w, step, block.begin + begin, queries.heads.Slice(begin, end), selection, begin,
                   pages, out.Slice(begin, end));
  }
}

// The indexer's choice for a block of materialised heads, which is longer than the blocks that
// Select is made for: some rows at a time.
Forward::KeyMask Forward::SelectMask(int64_t layer, const LocalStep& step,
                                     const LocalStep::Block& block, View<const float, 2> x,
                                     const Queries& queries, const LayerPages& pages) {
  KeyMask mask;
  if (!config_.sparse()) return mask;
  int64_t last = 0;
  for (int64_t row = block.begin; row < block.end; ++row) {
    last = std::max(last, step.PositionOf(row));
  }
  mask.stride = last / kPage + 1;
  auto* words = arena_.Array<uint64_t>(block.rows() * mask.stride);
  mask.words = words;
  for (int64_t begin = 0; begin < block.rows(); begin += kSelectRows) {
    const ArenaScope scope(arena_);
    const int64_t end = std::min(block.rows(), begin + kSelectRows);
    const LocalStep::Block part{block.begin + begin, block.begin + end, true};
    const Queries part_queries{queries.latent.Slice(begin, end), {}};
    const Selection chosen = Select(layer, step, part, x.Slice(begin, end), part_queries, pages);
    const TraceZone zone(trace_, "indexer", static_cast<int32_t>(layer));
    ops_.ForEach(end - begin, [&](int64_t row, void*) {
      uint64_t* to = words + (begin + row) * mask.stride;
      const int32_t* positions = chosen.positions + row * chosen.width;
      const int32_t count = chosen.count[row];
      std::fill_n(to, mask.stride, count == 0 ? ~uint64_t{0} : 0);
      for (int32_t i = 0; i < count; ++i) {
        to[positions[i] / kPage] |= uint64_t{1} << positions[i] % kPage;
      }
    });
    // No rows: a barrier. Ranks of the TP group have read each other's choices, whose memory ends
    // here.
    tp_.ShareHostRows({"selected_read", static_cast<int32_t>(layer)}, nullptr, 0, 0);
  }
  return mask;
}

// ql = q_nope W_uk, attention over the cached latents, out = (sum p c) W_uv^T.
void Forward::AttendAbsorbed(const AttentionWeights& w, const LocalStep& step, int64_t first_row,
                             const Rows& queries, const Selection& selection, int64_t selection_row,
                             const LayerPages& pages, const Rows& out) {
  const ArenaScope scope(arena_);
  const int64_t rows = queries.rows;
  const int64_t heads = heads_.size();
  const int64_t rank = config_.kv_lora_rank;
  const int64_t nope = config_.qk_nope_head_dim;
  const int64_t dim = config_.latent_dim();
  const auto rope_bytes = static_cast<size_t>(config_.qk_rope_head_dim * SizeOf(type_));
  const Epilogue store = type_ == DType::kBf16 ? Epilogue::kStoreBf16 : Epilogue::kStoreF32;

  const Rows absorbed = arena_.Matrix(type_, rows, heads * dim);   // [rows, heads, rank + rope]
  const Rows weighted = arena_.Matrix(type_, rows, heads * rank);  // [rows, heads, rank]
  ops_.ForEach(heads, [&](int64_t head, void* scratch) {
    const Rows q =
        queries.Columns(head * config_.qk_head_dim(), (head + 1) * config_.qk_head_dim());
    const Rows ql = absorbed.Columns(head * dim, (head + 1) * dim);
    GemmArgs args = GemmOf({q.Columns(0, nope)}, w.w_uk[static_cast<size_t>(heads_.begin + head)]);
    args.c = ql.data;
    args.c_stride = ql.stride;
    args.epilogue = store;
    args.scratch = scratch;
    ops_.table().gemm(args);
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(ql.Columns(rank, dim).row(row), q.Columns(nope, config_.qk_head_dim()).row(row),
                  rope_bytes);
    }
  });

  // The value weights of all heads lie in one piece. One row reads them from memory; more find them
  // in the cache but for the first.
  const Weight& first_value = w.w_uv[static_cast<size_t>(heads_.begin)];
  const int64_t group = HeadsOfItem(heads, rows, ops_.team().size());
  const int64_t groups = (heads + group - 1) / group;
  ops_.ForEach(rows * groups, [&](int64_t item, void* scratch) {
    const int64_t row = item / groups;
    const int64_t head = item % groups * group;
    const auto slice = static_cast<size_t>(step.slice[static_cast<size_t>(first_row + row)]);
    const int32_t chosen =
        selection.width == 0 ? 0 : selection.count[static_cast<size_t>(selection_row + row)];
    ops_.table().absorbed_attention(
        {.type = type_,
         .q = absorbed.Columns(head * dim, heads * dim).row(row),
         .q_stride = dim,
         .heads = std::min(group, heads - head),
         .latent = rank,
         .rope = config_.qk_rope_head_dim,
         .pages = pages.latents[slice].data(),
         .positions =
             chosen == 0 ? nullptr : selection.positions + (selection_row + row) * selection.width,
         .count = chosen == 0 ? step.PositionOf(first_row + row) + 1 : chosen,
         .scale = softmax_scale_,
         .out = weighted.Columns(head * rank, heads * rank).row(row),
         .out_stride = rank,
         .scratch = scratch,
         .int8_rows = cache_.shape().int8_kv,
         .next = first_value.packed(),
         .next_bytes =
             rows == 1 && groups == 1 ? std::min(heads * first_value.bytes(), kAhead) : 0});
  });

  ops_.ForEach(heads, [&](int64_t head, void* scratch) {
    const Rows o = out.Columns(head * config_.v_head_dim, (head + 1) * config_.v_head_dim);
    GemmArgs args = GemmOf({weighted.Columns(head * rank, (head + 1) * rank)},
                           w.w_uv[static_cast<size_t>(heads_.begin + head)]);
    args.c = o.data;
    args.c_stride = o.stride;
    args.epilogue = store;
    args.scratch = scratch;
    ops_.table().gemm(args);
  });
}

std::vector<Forward::QueryBlock> Forward::QueryBlocksOf(const LocalStep& step,
                                                        const LocalStep::Block& block,
                                                        int32_t extend) const {
  std::vector<QueryBlock> out;
  for (size_t s = 0; s < step.slices.size(); ++s) {
    const Slice& slice = step.slices[s];
    if (slice.extend != extend) continue;
    // The part of the slice that lies in this block: local rows [row, row_end).
    const int64_t first = step.slice_row[s];
    const int64_t row = std::max(first, block.begin);
    const int64_t row_end = std::min(first + slice.end - slice.begin, block.end);
    const int64_t end = slice.begin + row_end - first;
    for (int64_t p = slice.begin + row - first; p < end;) {
      const int64_t next = std::min(end, (p / kPage + 1) * kPage);
      out.push_back({first + p - slice.begin - block.begin, p, next - p});
      p = next;
    }
  }
  return out;
}

// Expands keys and values of a group of heads once, then lets all the block's queries attend.
void Forward::AttendMaterialised(int64_t layer, const LocalStep& step,
                                 const LocalStep::Block& block, const HeadQueries& with) {
  std::set<int32_t> extends;  // those with rows in the block
  for (int64_t row = block.begin; row < block.end; ++row) {
    extends.insert(step.SliceOf(row).extend);
  }
  const int64_t heads = heads_.size();
  for (const int32_t extend : extends) {
    const std::vector<QueryBlock> query_blocks = QueryBlocksOf(step, block, extend);
    const int64_t pages = query_blocks.back().position / kPage + 1;
    const ArenaScope scope(arena_);
    const int64_t group = std::clamp(kExpandBytes / HeadBytes(pages), int64_t{1}, heads);
    auto* memory = arena_.Array<char>(group * HeadBytes(pages));
    for (int64_t head = 0; head < heads; head += group) {
      const Range range{head, std::min(heads, head + group)};
      ExpandHeads(layer, step.batch.extends[static_cast<size_t>(extend)], range, pages, memory);
      AttendHeads(query_blocks, PanelsAt(memory, range, pages), with);
    }
  }
}

void Forward::ReserveSharedKeys(const LocalStep& step) {
  const int64_t most = HeadBytes(MostSharedPages(step.sharing));
  if (most == 0) return;
  size_t uses = 0;
  for (const auto& round : step.sharing) uses += round.size();
  const auto ranks = static_cast<int64_t>(context_group_.size());
  const int64_t share = (heads_.size() + ranks - 1) / ranks;  // of the rank that has most heads
  // One turn a layer needs no second memory: all ranks have read it when the next layer's keys are
  // there.
  const bool once = uses == 1 && share * most <= kSharedKeyBytes;
  shared_keys_.bytes =
      once ? share * most : std::min(share * most, std::max(kSharedKeyBytes / 2, most));
  shared_keys_.turns[0] = arena_.Array<char>(shared_keys_.bytes);
  shared_keys_.turns[1] = once ? shared_keys_.turns[0] : arena_.Array<char>(shared_keys_.bytes);
}

void Forward::AttendShared(int64_t layer, const LocalStep& step, int64_t round,
                           const LocalStep::Block* block, const HeadQueries* with,
                           const std::function<void()>& select) {
  const CollectiveName name{"head_keys", static_cast<int32_t>(layer)};
  const auto ranks = static_cast<int64_t>(context_group_.size());
  const int64_t heads = heads_.size();
  const auto heads_of = [&](int64_t rank, int64_t first, int64_t count) {
    const Range share = ShareOf(heads, rank, ranks);
    return Range{std::min(share.end, share.begin + first),
                 std::min(share.end, share.begin + first + count)};
  };
  bool selected = false;
  for (const SharedKeys& keys : step.sharing[static_cast<size_t>(round)]) {
    const Extend& extend = step.batch.extends[static_cast<size_t>(keys.extend)];
    const int64_t pages = keys.most();
    const int64_t most_heads = (heads + ranks - 1) / ranks;
    const int64_t together =
        std::clamp(shared_keys_.bytes / HeadBytes(pages), int64_t{1}, most_heads);
    std::vector<QueryBlock> query_blocks;
    if (block != nullptr) query_blocks = QueryBlocksOf(step, *block, keys.extend);
    for (int64_t first = 0; first < most_heads; first += together) {
      char* memory = shared_keys_.turns[shared_keys_.used++ % 2];
      const Range own = heads_of(context_->index(), first, together);
      {
        const TraceZone zone(trace_, "attention", name.layer);
        ExpandHeads(layer, extend, own, pages, memory);
      }
      context_->Arrive(name, memory);
      // The choice of keys does not need them: meanwhile the others expand theirs.
      if (!selected) select();
      selected = true;
      {
        const TraceZone zone(trace_, "head keys wait", name.layer);
        context_->Wait();
      }
      if (query_blocks.empty()) continue;
      // In the same order on every rank: what one reads of a head, others find in the cache that
      // cores share.
      std::vector<HeadPanels> panels;
      for (int rank = 0; rank < context_->size(); ++rank) {
        const std::vector<HeadPanels> part =
            PanelsAt(context_->Shared<char>(rank), heads_of(rank, first, together), pages);
        panels.insert(panels.end(), part.begin(), part.end());
      }
      const int64_t others = static_cast<int64_t>(panels.size()) - own.size();
      reads_.Add(name.operation, others * HeadBytes(query_blocks.back().position / kPage + 1));
      const TraceZone zone(trace_, "attention", name.layer);
      AttendHeads(query_blocks, panels, *with);
    }
  }
}

std::vector<Forward::HeadPanels> Forward::PanelsAt(const char* memory, Range heads,
                                                   int64_t pages) const {
  std::vector<HeadPanels> out;
  for (int64_t head = heads.begin; head < heads.end; ++head) {
    out.push_back({head, memory, memory + pages * KeyPanel() * SizeOf(type_)});
    memory += HeadBytes(pages);
  }
  return out;
}

void Forward::ExpandHeads(int64_t layer, const Extend& extend, Range heads, int64_t pages,
                          char* memory) {
  const AttentionWeights& w = weights_.layer(layer).attention;
  const ArenaScope scope(arena_);
  const int64_t rank = config_.kv_lora_rank;
  const int64_t expanded = config_.qk_nope_head_dim + config_.v_head_dim;
  const View<float, 2> kv = arena_.Floats(ops_.team().size() * kPage, expanded);
  Rows dequantized;  // a page of an int8 cache for each worker
  if (cache_.shape().int8_kv) {
    dequantized = arena_.Matrix(type_, ops_.team().size() * kPage, config_.latent_dim());
  }
  const int64_t size = SizeOf(type_);
  ops_.ForEachWorker(heads.size() * pages, [&](int64_t item, int worker, void* scratch) {
    const int64_t page = item % pages;
    const int64_t head = item / pages;  // among `heads`
    void* stored = cache_.LatentPage(layer, extend.pages[static_cast<size_t>(page)]);
    Rows latents = Rows::Dense(stored, type_, kPage, config_.latent_dim());
    if (cache_.shape().int8_kv) {  // for every head again: 2 % of what follows
      latents = dequantized.Slice(worker * kPage, (worker + 1) * kPage);
      ops_.table().dequantize({.rows = stored,
                               .m = kPage,
                               .latent = rank,
                               .rope = config_.qk_rope_head_dim,
                               .out = static_cast<uint16_t*>(latents.data),
                               .out_stride = latents.stride});
    }
    const View<float, 2> head_kv = kv.Slice(worker * kPage, (worker + 1) * kPage);
    GemmArgs args = GemmOf({latents.Columns(0, rank)},
                           w.kv_b[static_cast<size_t>(heads_.begin + heads.begin + head)]);
    args.c = head_kv.data();
    args.c_stride = expanded;
    args.epilogue = Epilogue::kStoreF32;
    args.scratch = scratch;
    ops_.table().gemm(args);
    char* const k = memory + head * HeadBytes(pages);
    char* const v = k + pages * KeyPanel() * size;
    ops_.table().pack_head({.type = type_,
                            .kv = head_kv.data(),
                            .kv_stride = expanded,
                            .nope = config_.qk_nope_head_dim,
                            .value = config_.v_head_dim,
                            .rope = config_.qk_rope_head_dim,
                            .k_pe = latents.Columns(rank, latents.cols).data,
                            .k_pe_stride = latents.stride,
                            .valid = std::min(kPage, extend.end() - page * kPage),
                            .k_panel = k + page * KeyPanel() * size,
                            .v_panel = v + page * ValuePanel() * size});
  });
}

// Some blocks of queries of a head walk its pages together, so that a page comes into a core's
// cache once for all of them; fewer if that left threads without an item.
void Forward::AttendHeads(const std::vector<QueryBlock>& query_blocks,
                          const std::vector<HeadPanels>& heads, const HeadQueries& with) {
  const ArenaScope scope(arena_);
  const int64_t key_dim = config_.qk_head_dim();
  const int64_t value_dim = config_.v_head_dim;
  const View<float, 2> states =
      arena_.Floats(ops_.team().size() * kBlocksTogether, kDenseStateFloats + ValuePanel());
  const auto count = static_cast<int64_t>(heads.size());
  const auto blocks = static_cast<int64_t>(query_blocks.size());
  const int64_t together =
      std::clamp(count * blocks / (4 * ops_.team().size()), int64_t{1}, kBlocksTogether);
  const int64_t groups = (blocks + together - 1) / together;
  // Head by head, so that its keys and values stay in the cache that cores share; the longest
  // blocks first, so that the team ends together.
  ops_.ForEachWorker(count * groups, [&](int64_t item, int worker, void* scratch) {
    const int64_t begin = (groups - 1 - item % groups) * together;
    const int64_t end = std::min(blocks, begin + together);
    const HeadPanels& panels = heads[static_cast<size_t>(item / groups)];
    const Rows q = with.queries.Columns(panels.head * key_dim, (panels.head + 1) * key_dim);
    const Rows o = with.out.Columns(panels.head * value_dim, (panels.head + 1) * value_dim);
    const int64_t last_page = query_blocks[static_cast<size_t>(end - 1)].position / kPage;
    for (int64_t page = 0; page <= last_page; page += kPagesTogether) {
      for (int64_t i = begin; i < end; ++i) {
        const QueryBlock& b = query_blocks[static_cast<size_t>(i)];
        if (page > b.position / kPage) continue;
        const uint64_t* selected =
            with.mask.words == nullptr ? nullptr : with.mask.words + b.row * with.mask.stride;
        ops_.table().dense_attention(
            {.type = type_,
             .q = q.row(b.row),
             .q_stride = q.stride,
             .m = b.count,
             .first_position = b.position,
             .key_dim = key_dim,
             .value_dim = value_dim,
             .k_panels = panels.keys,
             .k_page_stride = KeyPanel(),
             .v_panels = panels.values,
             .v_page_stride = ValuePanel(),
             .scale = softmax_scale_,
             .out = o.row(b.row),
             .out_stride = o.stride,
             .scratch = scratch,
             .selected = selected,
             .selected_stride = with.mask.stride,
             .state = states.row(worker * kBlocksTogether + i - begin),
             .page_begin = page,
             .page_end = std::min(page + kPagesTogether, b.position / kPage + 1)});
      }
    }
  });
}

}  // namespace causeway
