// Byte-pair encoding as tokenizer.json defines it: of all neighbouring pairs the one whose merge
// has the lowest rank is merged first, the leftmost of equals, until none is left. Vocabulary texts
// are decoded from the byte-level alphabet once, here; afterwards all is bytes and ids.
#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <queue>

#include "base/check.h"
#include "checkpoint/json_text.h"
#include "text/utf8.h"

namespace causeway {
namespace {

// Up to here merging looks at every pair again after each merge, which needs no memory.
constexpr size_t kShortPiece = 32;
constexpr int32_t kNoMerge = std::numeric_limits<int32_t>::max();

// The byte that a character of the byte-level alphabet stands for, -1 if none. Printable Latin-1
// characters stand for themselves; the other 68 bytes, in order, are U+0100 and following.
int ByteOf(uint32_t character) {
  const auto printable = [](uint32_t c) {
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
  };
  if (character < 0x100) return printable(character) ? static_cast<int>(character) : -1;
  uint32_t left = character - 0x100;
  for (uint32_t byte = 0; byte < 0x100; ++byte) {
    if (printable(byte)) continue;
    if (left == 0) return static_cast<int>(byte);
    --left;
  }
  return -1;
}

uint64_t PairOf(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

// Spreads pairs over the table (the finaliser of MurmurHash3).
uint64_t HashOf(uint64_t pair) {
  pair ^= pair >> 33;
  pair *= 0xff51afd7ed558ccdull;
  pair ^= pair >> 33;
  return pair;
}

}  // namespace

std::optional<std::string> ByteLevelDecode(std::string_view text) {
  std::string bytes;
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(i));
    if (!step.valid || step.bytes > 2) return std::nullopt;  // the alphabet ends below U+0200
    uint32_t character = static_cast<uint8_t>(text[i]);
    if (step.bytes == 2)
      character = (character & 0x1f) << 6 | (static_cast<uint8_t>(text[i + 1]) & 0x3f);
    const int byte = ByteOf(character);
    if (byte < 0) return std::nullopt;
    bytes += static_cast<char>(byte);
    i += step.bytes;
  }
  return bytes;
}

StatusOr<Bpe> Bpe::Make(const BpeModel& model, const std::string& source) {
  Bpe bpe;
  CAUSEWAY_RETURN_IF_ERROR(bpe.AddTokens(model, source));
  CAUSEWAY_RETURN_IF_ERROR(bpe.AddMerges(model, source));
  // Last, as it encodes every entry with the tables made before.
  bpe.FindDirect(model.ignore_merges);
  return bpe;
}

Status Bpe::AddTokens(const BpeModel& model, const std::string& source) {
  int64_t size = 0;
  for (const auto& token : model.vocabulary) {
    if (token.id < 0 || token.id >= kMaxTokens)
      return InvalidArgument(Text(source, ": model.vocab: ", Quoted(token.text), " has id ",
                                  token.id, ", expected 0 to ", kMaxTokens - 1));
    // Ids need not be consecutive: an id between has no bytes.
    size = std::max<int64_t>(size, token.id + 1);
  }
  spans_.resize(size);
  std::vector<int32_t> in_alphabet;
  std::vector<bool> used(size);
  for (const auto& token : model.vocabulary) {
    if (token.text.empty())
      return InvalidArgument(
          Text(source, ": model.vocab: id ", token.id, " has no text, expected at least one byte"));
    if (used[token.id])
      return InvalidArgument(Text(source, ": model.vocab: ", Quoted(token.text), " has id ",
                                  token.id, ", which another entry has too"));
    used[token.id] = true;
    const std::optional<std::string> decoded = ByteLevelDecode(token.text);
    const std::string& bytes = decoded ? *decoded : token.text;
    spans_[token.id] = {static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(bytes.size())};
    bytes_ += bytes;
    // Spans are 32-bit; the limit of the file's size keeps it far below.
    CHECK(bytes_.size() <= std::numeric_limits<uint32_t>::max(), bytes_.size());
    if (decoded) in_alphabet.push_back(token.id);
  }
  // Only now that bytes_ has stopped growing can views into it be kept.
  by_bytes_.reserve(in_alphabet.size());
  for (const int32_t id : in_alphabet) {
    by_bytes_.emplace(TokenBytes(id), id);
    longest_ = std::max(longest_, TokenBytes(id).size());
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    const std::optional<int32_t> id = Find(std::string_view(&c, 1));
    if (!id)
      return InvalidArgument(Text(source, ": model.vocab: no entry for byte ", byte,
                                  ", expected all 256 in the byte-level alphabet"));
    byte_ids_[byte] = *id;
  }
  return Status();
}

Status Bpe::AddMerges(const BpeModel& model, const std::string& source) {
  // A power of two, at most half full: probing ends soon, and always at an empty slot.
  merges_.resize(std::bit_ceil(std::max<size_t>(2 * model.merges.size(), 2)));
  int32_t rank = 0;
  for (const auto& [left, right] : model.merges) {
    // Entries outside the alphabet never arise from bytes, and a merge of them would do nothing.
    int32_t ids[3];
    int i = 0;
    for (const std::string& text : {left, right, left + right}) {
      const std::optional<std::string> bytes = ByteLevelDecode(text);
      const std::optional<int32_t> id = bytes ? Find(*bytes) : std::nullopt;
      if (!id)
        return InvalidArgument(Text(source, ": model.merges[", rank, "]: ", Quoted(text),
                                    i == 2 ? ", the result," : "",
                                    " is not in model.vocab, expected a byte-level entry"));
      ids[i++] = *id;
    }
    const uint64_t pair = PairOf(ids[0], ids[1]);
    size_t slot = HashOf(pair) & (merges_.size() - 1);
    while (merges_[slot].pair != kNoPair && merges_[slot].pair != pair)
      slot = (slot + 1) & (merges_.size() - 1);
    merges_[slot] = {pair, rank, ids[2]};  // of a merge that is there twice the later one counts
    ++rank;
  }
  return Status();
}

void Bpe::FindDirect(bool ignore_merges) {
  direct_.assign(spans_.size(), false);
  std::vector<int32_t> ids;
  for (const auto& [bytes, id] : by_bytes_) {
    ids.clear();
    if (!ignore_merges) Encode(bytes, &ids);
    // True where encoding the entry's own bytes gives the entry: Encode then need not merge.
    direct_[id] = ignore_merges || (ids.size() == 1 && ids[0] == id);
  }
}

std::string_view Bpe::TokenBytes(int32_t id) const {
  if (id < 0 || id >= size()) return {};
  return std::string_view(bytes_).substr(spans_[id].begin, spans_[id].bytes);
}

std::optional<int32_t> Bpe::Find(std::string_view bytes) const {
  const auto found = by_bytes_.find(bytes);
  if (found == by_bytes_.end()) return std::nullopt;
  return found->second;
}

const Bpe::Merge* Bpe::FindMerge(int32_t left, int32_t right) const {
  const uint64_t pair = PairOf(left, right);
  for (size_t slot = HashOf(pair) & (merges_.size() - 1);;
       slot = (slot + 1) & (merges_.size() - 1)) {
    if (merges_[slot].pair == pair) return &merges_[slot];
    if (merges_[slot].pair == kNoPair) return nullptr;
  }
}

void Bpe::Encode(std::string_view piece, std::vector<int32_t>* ids) const {
  // Most pieces are words that have a token of their own.
  if (piece.size() <= longest_) {
    const auto found = by_bytes_.find(piece);
    if (found != by_bytes_.end() && direct_[found->second]) {
      ids->push_back(found->second);
      return;
    }
  }
  if (piece.size() <= kShortPiece) {
    MergeShort(piece, ids);
  } else {
    MergeLong(piece, ids);
  }
}

void Bpe::MergeShort(std::string_view piece, std::vector<int32_t>* ids) const {
  struct Part {
    int32_t id;
    int32_t rank;    // of merging this part with the next
    int32_t merged;  // the id that gives
  };
  Part parts[kShortPiece];
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) parts[i].id = byte_ids_[static_cast<uint8_t>(piece[i])];
  const auto look = [&](size_t i) {
    const Merge* merge = i + 1 < count ? FindMerge(parts[i].id, parts[i + 1].id) : nullptr;
    parts[i].rank = merge != nullptr ? merge->rank : kNoMerge;
    parts[i].merged = merge != nullptr ? merge->id : 0;
  };
  for (size_t i = 0; i < count; ++i) look(i);
  while (count > 1) {
    // The lowest rank, the leftmost of equals, as `<` keeps the first.
    size_t best = 0;
    for (size_t i = 1; i < count; ++i)
      if (parts[i].rank < parts[best].rank) best = i;
    if (parts[best].rank == kNoMerge) break;
    parts[best].id = parts[best].merged;
    std::copy(parts + best + 2, parts + count, parts + best + 1);
    --count;
    // Only the merged part and the one before it have a new neighbour.
    look(best);
    if (best > 0) look(best - 1);
  }
  for (size_t i = 0; i < count; ++i) ids->push_back(parts[i].id);
}

void Bpe::MergeLong(std::string_view piece, std::vector<int32_t>* ids) const {
  // Parts form a list: merging takes the next part out, and the others keep their numbers.
  struct Part {
    int32_t id;  // -1: taken out
    uint32_t previous;
    uint32_t next;
  };
  struct Candidate {
    int32_t rank;
    uint32_t part;
    int32_t left, right, merged;
    // std::priority_queue has the greatest on top: the lowest rank, then the leftmost part.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : part > other.part;
    }
  };
  CHECK(piece.size() < std::numeric_limits<uint32_t>::max(), piece.size());
  const auto count = static_cast<uint32_t>(piece.size());
  std::vector<Part> parts(count);
  for (uint32_t i = 0; i < count; ++i)
    // The first part's `previous` wraps around and is never used.
    parts[i] = {byte_ids_[static_cast<uint8_t>(piece[i])], i - 1, i + 1};
  std::vector<Candidate> storage;
  storage.reserve(count);
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(storage));
  const auto look = [&](uint32_t i) {
    if (parts[i].next >= count) return;
    const int32_t right = parts[parts[i].next].id;
    if (const Merge* merge = FindMerge(parts[i].id, right))
      queue.push({merge->rank, i, parts[i].id, right, merge->id});
  };
  for (uint32_t i = 0; i < count; ++i) look(i);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Part& part = parts[top.part];
    // Outdated if one of the two has since been merged with something else.
    // Pairs are not taken out of the queue when they vanish, only skipped here.
    if (part.id != top.left || part.next >= count || parts[part.next].id != top.right) continue;
    part.id = top.merged;
    parts[part.next].id = -1;
    part.next = parts[part.next].next;
    if (part.next < count) parts[part.next].previous = top.part;
    look(top.part);
    if (top.part > 0) look(part.previous);
  }
  for (uint32_t i = 0; i < count; i = parts[i].next) ids->push_back(parts[i].id);
}

}  // namespace causeway
