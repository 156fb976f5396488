// First everything is looked up and checked, and memory taken; then tasks, in any order, read,
// dequantise and pack into it on all threads. A checkpoint that lacks something is refused before
// the long part begins.
#include "model/weights.h"

#include <atomic>
#include <cmath>
#include <mutex>

#include "base/thread_team.h"
#include "base/trace.h"
#include "checkpoint/quant_format.h"

namespace causeway {
namespace {

// Rows dequantised at a time by one loading thread; a panel, as fp8 packs them.
constexpr int64_t kLoadRows = kPanel;

}  // namespace

// Collects what to read as tasks, then runs them on a team. Tasks write disjoint memory.
class WeightLoader {
 public:
  WeightLoader(Weights& weights, int threads) : weights_(weights), threads_(threads) {}

  Status Run(const LoadProgress& progress);

 private:
  using Task = std::function<Status()>;

  const ModelConfig& config() const { return weights_.config_; }
  const Checkpoint& checkpoint() const { return *weights_.checkpoint_; }

  Status AddLayer(int64_t index);
  Status AddAttention(const std::string& prefix, AttentionWeights& out);
  Status AddIndexer(const std::string& prefix, IndexerWeights& out);
  Status AddHeads(const std::string& module, AttentionWeights& out);
  // The columns `part` of an MLP's `inner` ones.
  Status AddMlp(const std::string& prefix, int64_t inner, Range part, bool row_parallel,
                bool floating, MlpWeights& out);
  Status AddMoe(const std::string& prefix, const std::vector<bool>& held, MoeWeights& out);

  // A vector of f32 values.
  Status AddVector(const std::string& name, int64_t size, std::vector<float>& out);
  // A stored matrix [n, k] and the rows of it that are packed.
  struct Source {
    std::string module;
    int64_t n;
    Range rows;
    Source(std::string module_in, int64_t n_in) : Source(std::move(module_in), n_in, {0, n_in}) {}
    Source(std::string module_in, int64_t n_in, Range rows_in)
        : module(std::move(module_in)), n(n_in), rows(rows_in) {}
  };
  // One or several matrices with the same k, stacked along n. `floating`: int8 and fp8 are
  // dequantised.
  Status AddMatrix(const std::vector<Source>& sources, int64_t k, bool floating, Weight& out) {
    return AddPart(sources, k, {0, k}, /*segments=*/false, floating, out);
  }
  // Their columns `part`; with `segments` as a row-parallel matrix.
  Status AddPart(const std::vector<Source>& sources, int64_t k, Range part, bool segments,
                 bool floating, Weight& out);
  // A matrix that stays f32, times a factor.
  Status AddExact(const std::string& module, int64_t n, int64_t k, float factor, Weight& out);
  // True if every one of these modules is stored so and the mode keeps it.
  StatusOr<bool> AllAre(MatrixFormat format, const std::vector<Source>& sources, int64_t k);

  void AddTask(int64_t bytes, Task task) {
    tasks_.push_back({bytes, std::move(task)});
    total_bytes_ += bytes;
  }

  struct Pending {
    int64_t bytes;
    Task task;
  };

  Weights& weights_;
  const int threads_;
  std::vector<Pending> tasks_;
  int64_t total_bytes_ = 0;
};

StatusOr<std::unique_ptr<Weights>> Weights::Load(std::unique_ptr<Checkpoint> checkpoint,
                                                 const ModelConfig& config, DType mode,
                                                 const WeightShare& share, int threads,
                                                 const LoadProgress& progress) {
  CHECK(mode == DType::kF32 || mode == DType::kBf16, NameOf(mode));
  std::unique_ptr<Weights> weights(new Weights);
  weights->config_ = config;
  weights->mode_ = mode;
  weights->share_ = share;
  weights->checkpoint_ = std::move(checkpoint);
  CAUSEWAY_RETURN_IF_ERROR(WeightLoader(*weights, threads).Run(progress));
  return weights;
}

void Weights::Embed(int32_t token, float* out) const {
  CHECK(token >= 0 && token < config_.vocab_size, token);
  CopyToF32(embedding_, token * config_.hidden_size, config_.hidden_size, out);
}

Status WeightLoader::Run(const LoadProgress& progress) {
  const std::string embed = "model.embed_tokens.weight";
  CAUSEWAY_ASSIGN_OR_RETURN(weights_.embedding_,
                            checkpoint().Find(embed, {config().vocab_size, config().hidden_size}));
  // Rows of the embedding are read from the mapped file whenever a token needs them; there is no
  // place for scales.
  if (weights_.embedding_.type == StoredType::kI8 ||
      weights_.embedding_.type == StoredType::kF8E4m3) {
    return InvalidArgument(Text(weights_.embedding_.file, ": ", embed, " is ",
                                NameOf(weights_.embedding_.type),
                                "; embeddings must be F32, F16 or BF16"));
  }
  CAUSEWAY_RETURN_IF_ERROR(
      AddVector("model.norm.weight", config().hidden_size, weights_.final_norm_));
  const std::string head = config().tie_word_embeddings ? "model.embed_tokens" : "lm_head";
  const Range panels = weights_.share_.head_panels;
  CAUSEWAY_RETURN_IF_ERROR(
      AddMatrix({{head,
                  config().vocab_size,
                  {panels.begin * kPanel, std::min(panels.end * kPanel, config().vocab_size)}}},
                config().hidden_size, /*floating=*/true, weights_.head_));
  weights_.layers_.resize(static_cast<size_t>(config().num_hidden_layers));
  for (int64_t i = 0; i < config().num_hidden_layers; ++i) CAUSEWAY_RETURN_IF_ERROR(AddLayer(i));

  // Threads of its own: the ranks do not exist yet.
  ThreadTeam team(threads_);
  std::mutex mutex;  // guards first_error and the order of progress
  Status first_error;
  int64_t done = 0;
  std::atomic<bool> failed{false};
  team.ParallelFor(static_cast<int64_t>(tasks_.size()), [&](int64_t i, int) {
    // The rest is skipped, since the result is an error whatever they do.
    if (failed.load(std::memory_order_relaxed)) return;
    const Pending& pending = tasks_[static_cast<size_t>(i)];
    const Status status = pending.task();
    const std::lock_guard lock(mutex);
    done += pending.bytes;
    if (!status.ok() && first_error.ok()) {
      first_error = status;
      failed.store(true, std::memory_order_relaxed);
    }
    if (progress && first_error.ok()) progress(done, total_bytes_);
  });
  weights_.packed_bytes_ = total_bytes_;
  return first_error;
}

Status WeightLoader::AddLayer(int64_t index) {
  LayerWeights& out = weights_.layers_[static_cast<size_t>(index)];
  const std::string prefix = Text("model.layers.", index, ".");
  const int64_t hidden = config().hidden_size;
  CAUSEWAY_RETURN_IF_ERROR(AddVector(prefix + "input_layernorm.weight", hidden, out.input_norm));
  CAUSEWAY_RETURN_IF_ERROR(
      AddVector(prefix + "post_attention_layernorm.weight", hidden, out.post_attention_norm));
  CAUSEWAY_RETURN_IF_ERROR(AddAttention(prefix + "self_attn.", out.attention));
  out.is_moe = config().IsMoe(index);
  if (out.is_moe) {
    return AddMoe(prefix + "mlp.", weights_.share_.experts[static_cast<size_t>(index)], out.moe);
  }
  return AddMlp(prefix + "mlp.", config().intermediate_size, weights_.share_.inner,
                /*row_parallel=*/true, /*floating=*/false, out.mlp);
}

Status WeightLoader::AddAttention(const std::string& prefix, AttentionWeights& out) {
  const ModelConfig& c = config();
  const int64_t q_rows = c.num_attention_heads * c.qk_head_dim();
  const Range heads = weights_.share_.heads;
  // Whole heads: rows of q, and columns of o.
  const Range q_part = {heads.begin * c.qk_head_dim(), heads.end * c.qk_head_dim()};
  if (c.q_lora_rank > 0) {
    CAUSEWAY_RETURN_IF_ERROR(
        AddMatrix({{prefix + "q_a_proj", c.q_lora_rank}}, c.hidden_size, false, out.q_a));
    CAUSEWAY_RETURN_IF_ERROR(
        AddVector(prefix + "q_a_layernorm.weight", c.q_lora_rank, out.q_a_norm));
    CAUSEWAY_RETURN_IF_ERROR(
        AddMatrix({{prefix + "q_b_proj", q_rows, q_part}}, c.q_lora_rank, false, out.q_b));
  } else {
    CAUSEWAY_RETURN_IF_ERROR(
        AddMatrix({{prefix + "q_proj", q_rows, q_part}}, c.hidden_size, false, out.q_b));
  }
  CAUSEWAY_RETURN_IF_ERROR(
      AddMatrix({{prefix + "kv_a_proj_with_mqa", c.latent_dim()}}, c.hidden_size, false, out.kv_a));
  CAUSEWAY_RETURN_IF_ERROR(
      AddVector(prefix + "kv_a_layernorm.weight", c.kv_lora_rank, out.kv_a_norm));
  CAUSEWAY_RETURN_IF_ERROR(AddHeads(prefix + "kv_b_proj", out));
  CAUSEWAY_RETURN_IF_ERROR(AddPart({{prefix + "o_proj", c.hidden_size}},
                                   c.num_attention_heads * c.v_head_dim,
                                   {heads.begin * c.v_head_dim, heads.end * c.v_head_dim},
                                   /*segments=*/true, false, out.o));
  return c.sparse() ? AddIndexer(prefix + "indexer.", out.indexer) : Status();
}

Status WeightLoader::AddIndexer(const std::string& prefix, IndexerWeights& out) {
  const ModelConfig& c = config();
  CAUSEWAY_RETURN_IF_ERROR(AddMatrix({{prefix + "wq_b", c.index_n_heads * c.index_head_dim}},
                                     c.q_lora_rank, false, out.wq_b));
  CAUSEWAY_RETURN_IF_ERROR(
      AddMatrix({{prefix + "wk", c.index_head_dim}}, c.hidden_size, false, out.wk));
  CAUSEWAY_RETURN_IF_ERROR(AddVector(prefix + "k_norm.weight", c.index_head_dim, out.norm));
  CAUSEWAY_RETURN_IF_ERROR(AddVector(prefix + "k_norm.bias", c.index_head_dim, out.bias));
  // Both factors of the scores, 1/sqrt(heads) and 1/sqrt(dim), are put into the weights.
  const double factor = 1.0 / std::sqrt(static_cast<double>(c.index_n_heads * c.index_head_dim));
  return AddExact(prefix + "weights_proj", c.index_n_heads, c.hidden_size,
                  static_cast<float>(factor), out.weights_proj);
}

// kv_b_proj, head by head: rows [nope + value] of a head expand a latent to its key and value. The
// absorbed form needs the key rows transposed and the value rows by themselves.
Status WeightLoader::AddHeads(const std::string& module, AttentionWeights& out) {
  const ModelConfig& c = config();
  const int64_t nope = c.qk_nope_head_dim;
  const int64_t value = c.v_head_dim;
  const int64_t rank = c.kv_lora_rank;
  const Range share = weights_.share_.heads;
  const auto heads = static_cast<size_t>(share.size());
  CAUSEWAY_ASSIGN_OR_RETURN(
      const StoredMatrix stored,
      FindMatrix(checkpoint(), c, module, c.num_attention_heads * (nope + value), rank));
  out.w_uk.resize(heads);
  out.w_uv.resize(heads);
  out.kv_b.resize(heads);
  const DType mode = weights_.mode_;
  // All heads of a kind in one piece of memory, in the order in which a decode step reads them.
  for (Weight& w : out.w_uk) w = Weight(mode, rank, nope, 1, {}, &weights_.memory_);
  for (Weight& w : out.w_uv) w = Weight(mode, value, rank, 1, {}, &weights_.memory_);
  for (Weight& w : out.kv_b) w = Weight(mode, nope + value, rank, 1, {}, &weights_.memory_);
  for (size_t head = 0; head < heads; ++head) {
    AddTask(2 * (nope + value) * rank * SizeOf(mode), [=, &out] {
      std::vector<float> rows(static_cast<size_t>((nope + value) * rank));
      const int64_t first = (share.begin + static_cast<int64_t>(head)) * (nope + value);
      DequantizeRows(stored, first, first + nope + value, rows.data());
      std::vector<float> transposed(static_cast<size_t>(rank * nope));
      for (int64_t i = 0; i < nope; ++i) {
        for (int64_t j = 0; j < rank; ++j) {
          transposed[static_cast<size_t>(j * nope + i)] = rows[static_cast<size_t>(i * rank + j)];
        }
      }
      out.w_uk[head].PackRows(0, rank, transposed.data());
      out.w_uv[head].PackRows(0, value, rows.data() + nope * rank);
      out.kv_b[head].PackRows(0, nope + value, rows.data());
      return Status();
    });
  }
  return Status();
}

Status WeightLoader::AddMlp(const std::string& prefix, int64_t inner, Range part, bool row_parallel,
                            bool floating, MlpWeights& out) {
  // One product makes both: gate and up have the same input.
  CAUSEWAY_RETURN_IF_ERROR(
      AddMatrix({{prefix + "gate_proj", inner, part}, {prefix + "up_proj", inner, part}},
                config().hidden_size, floating, out.gate_up));
  return AddPart({{prefix + "down_proj", config().hidden_size}}, inner, part, row_parallel,
                 floating, out.down);
}

// `held`: which of the experts this host holds.
Status WeightLoader::AddMoe(const std::string& prefix, const std::vector<bool>& held,
                            MoeWeights& out) {
  const ModelConfig& c = config();
  const int64_t inner = c.moe_intermediate_size;
  CAUSEWAY_RETURN_IF_ERROR(
      AddExact(prefix + "gate", c.n_routed_experts, c.hidden_size, 1.0f, out.gate));
  if (c.topk_method == GateMethod::kNoAuxTc) {
    CAUSEWAY_RETURN_IF_ERROR(
        AddVector(prefix + "gate.e_score_correction_bias", c.n_routed_experts, out.bias));
  }
  // The experts of a layer share their input, so either all of them keep int8 or none; fp8
  // likewise, so that all take the same memory.
  std::vector<Source> in;
  std::vector<Source> down;
  for (int64_t e = 0; e < c.n_routed_experts; ++e) {
    const std::string expert = Text(prefix, "experts.", e, ".");
    in.emplace_back(expert + "gate_proj", inner);
    in.emplace_back(expert + "up_proj", inner);
    down.emplace_back(expert + "down_proj", c.hidden_size);
  }
  const auto all_are = [&](MatrixFormat format) -> StatusOr<bool> {
    CAUSEWAY_ASSIGN_OR_RETURN(const bool all_in, AllAre(format, in, c.hidden_size));
    CAUSEWAY_ASSIGN_OR_RETURN(const bool all_down, AllAre(format, down, inner));
    return all_in && all_down;
  };
  CAUSEWAY_ASSIGN_OR_RETURN(const bool int8, all_are(MatrixFormat::kInt8Channel));
  CAUSEWAY_ASSIGN_OR_RETURN(const bool fp8, all_are(MatrixFormat::kFp8Block));
  out.input_type = out.down_type = int8 ? DType::kI8 : weights_.mode_;
  out.experts.resize(static_cast<size_t>(c.n_routed_experts));
  for (int64_t e = 0; e < c.n_routed_experts; ++e) {
    // An expert that this host lacks stays empty; nobody may ask for it.
    if (!held[static_cast<size_t>(e)]) continue;
    CAUSEWAY_RETURN_IF_ERROR(AddMlp(Text(prefix, "experts.", e, "."), inner, {0, inner}, false,
                                    !int8 && !fp8, out.experts[static_cast<size_t>(e)]));
  }
  if (c.n_shared_experts == 0) return Status();
  const int64_t shared = inner * c.n_shared_experts;
  return AddMlp(prefix + "shared_experts.", shared, {0, shared}, false, false, out.shared);
}

Status WeightLoader::AddVector(const std::string& name, int64_t size, std::vector<float>& out) {
  CAUSEWAY_ASSIGN_OR_RETURN(const StoredTensor stored, checkpoint().Find(name, {size}));
  out.resize(static_cast<size_t>(size));
  CopyToF32(stored, 0, size, out.data());
  return Status();
}

StatusOr<bool> WeightLoader::AllAre(MatrixFormat format, const std::vector<Source>& sources,
                                    int64_t k) {
  bool all = weights_.mode_ == DType::kBf16;
  for (const Source& source : sources) {
    CAUSEWAY_ASSIGN_OR_RETURN(const StoredMatrix stored,
                              FindMatrix(checkpoint(), config(), source.module, source.n, k));
    all = all && stored.format == format;
  }
  return all;
}

bool FitsFp8(int64_t block, const MatrixPart& part) {
  const int64_t k = part.columns.size();
  // A panel of kPanel rows begins where a block can.
  return block % kPanel == 0 && part.rows.begin % kPanel == 0 && part.to % kPanel == 0 &&
         part.columns.begin % 4 == 0 && k % (4 * part.segments) == 0 &&
         (part.segments == 1 || k / part.segments <= kFp8Run);
}

Status WeightLoader::AddPart(const std::vector<Source>& sources, int64_t k, Range part,
                             bool segments, bool floating, Weight& out) {
  CAUSEWAY_ASSIGN_OR_RETURN(const bool int8, AllAre(MatrixFormat::kInt8Channel, sources, k));
  CAUSEWAY_ASSIGN_OR_RETURN(const bool fp8, AllAre(MatrixFormat::kFp8Block, sources, k));
  bool fits = true;
  // A part of k has its part of the runs that the whole has. fp8 sums as bf16 does, int8 in one
  // run.
  const int64_t runs = segments && !int8
                           ? std::max<int64_t>(SegmentsFor(weights_.mode_, k) * part.size() / k, 1)
                           : 1;
  int64_t total = 0;
  for (const Source& source : sources) {
    fits = fits && FitsFp8(config().quant_block,
                           {.rows = source.rows, .to = total, .columns = part, .segments = runs});
    total += source.rows.size();
  }
  if (total == 0) return Status();  // a host may hold no part of the vocabulary
  if (!floating && fp8 && !fits) weights_.fp8_excluded_.push_back(sources.front().module);
  DType type = weights_.mode_;
  Fp8Blocks blocks;
  if (!floating && int8) type = DType::kI8;
  if (!floating && fp8 && fits) {
    type = DType::kF8;
    blocks = {.columns = config().quant_block, .offset = part.begin % config().quant_block};
  }
  if (type == DType::kI8 && part.size() < k && part.size() % 4 != 0) {
    return InvalidArgument(Text(sources.front().module,
                                ".weight is int8 in a checkpoint whose "
                                "config.json names no int8 quantisation; attention TP would cut "
                                "its ",
                                k, " columns in parts of ", part.size(),
                                ", expected a multiple of 4"));
  }
  out = Weight(type, total, part.size(), static_cast<int32_t>(runs), blocks, &weights_.memory_);
  int64_t to = 0;  // row of `out`
  for (const Source& source : sources) {
    CAUSEWAY_ASSIGN_OR_RETURN(const StoredMatrix stored,
                              FindMatrix(checkpoint(), config(), source.module, source.n, k));
    // In tasks of a few hundred rows, so that the head does not keep one thread busy alone.
    constexpr int64_t kTaskRows = 16 * kLoadRows;
    for (int64_t begin = source.rows.begin; begin < source.rows.end; begin += kTaskRows) {
      const int64_t end = std::min(source.rows.end, begin + kTaskRows);
      const int64_t at = to + begin - source.rows.begin;
      AddTask((end - begin) * part.size() * SizeOf(type),
              [stored, begin, end, at, k, part, type, &out] {
                const bool kept = type == DType::kI8 || type == DType::kF8;
                std::vector<float> rows(kept ? 0 : static_cast<size_t>(kLoadRows * k));
                for (int64_t b = begin; b < end; b += kLoadRows) {
                  const int64_t e = std::min(end, b + kLoadRows);
                  if (type == DType::kI8) {
                    out.PackRows(at + b - begin, e - b, stored.Int8Row(b) + part.begin, k,
                                 stored.scales.data() + b);
                  } else if (type == DType::kF8) {
                    out.PackRows(at + b - begin, e - b, stored.Fp8Row(b) + part.begin, k,
                                 stored.Fp8Scales(b) + part.begin / stored.block);
                  } else {
                    DequantizeRows(stored, b, e, rows.data());
                    out.PackRows(at + b - begin, e - b, rows.data() + part.begin, k);
                  }
                }
                return Status();
              });
    }
    to += source.rows.size();
  }
  return Status();
}

Status WeightLoader::AddExact(const std::string& module, int64_t n, int64_t k, float factor,
                              Weight& out) {
  CAUSEWAY_ASSIGN_OR_RETURN(const StoredMatrix stored,
                            FindMatrix(checkpoint(), config(), module, n, k));
  out = Weight(DType::kF32, n, k, 1, {}, &weights_.memory_);
  AddTask(n * k * 4, [stored, n, k, factor, &out] {
    std::vector<float> rows(static_cast<size_t>(n * k));
    DequantizeRows(stored, 0, n, rows.data());
    for (float& value : rows) value *= factor;
    out.PackRows(0, n, rows.data());
    return Status();
  });
  return Status();
}

}  // namespace causeway
