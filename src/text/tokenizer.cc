// The two kinds of tokenizer: the one of tokenizer.json (bpe_tokenizer.cc), and one token per byte
// for models without one.
#include "text/tokenizer.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "checkpoint/json_text.h"
#include "text/bpe_tokenizer.h"
#include "text/utf8.h"

namespace causeway {
namespace {

constexpr int64_t kMaxFileBytes = 128 << 20;

// One id per byte. The special ids come first, and the bytes after them.
class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer(int32_t bos, int32_t eos) : bos_(bos), eos_(eos), first_(std::max(bos, eos) + 1) {
    // TokenBytes returns views: every byte needs a place of its own.
    for (size_t byte = 0; byte < bytes_.size(); ++byte) bytes_[byte] = static_cast<char>(byte);
  }

  std::vector<int32_t> Encode(std::string_view text, bool parse_special) const override {
    std::string sound;
    AppendUtf8(text, &sound);
    std::vector<int32_t> ids;
    ids.reserve(sound.size());
    for (size_t i = 0; i < sound.size();) {
      const std::string_view rest = std::string_view(sound).substr(i);
      // Special tokens by their texts, as in a prompt that a chat format rendered.
      if (parse_special && (rest.starts_with(kBos) || rest.starts_with(kEos))) {
        const bool bos = rest.starts_with(kBos);
        ids.push_back(bos ? bos_ : eos_);
        i += bos ? kBos.size() : kEos.size();
      } else {
        ids.push_back(first_ + static_cast<uint8_t>(rest[0]));
        ++i;
      }
    }
    return ids;
  }

  std::string_view TokenBytes(int32_t id) const override {
    if (id == bos_) return kBos;
    if (id == eos_) return kEos;
    if (id < first_ || id >= size()) return {};
    return {&bytes_[static_cast<size_t>(id - first_)], 1};
  }

  bool IsSpecial(int32_t id) const override { return id == bos_ || id == eos_; }

  std::optional<int32_t> TokenId(std::string_view text) const override {
    if (text == kBos) return bos_;
    if (text == kEos) return eos_;
    if (text.size() == 1) return first_ + static_cast<uint8_t>(text[0]);
    return std::nullopt;
  }

  int64_t size() const override { return first_ + 256; }

 private:
  static constexpr std::string_view kBos = "<s>";
  static constexpr std::string_view kEos = "</s>";

  const int32_t bos_, eos_;
  const int32_t first_;  // the id of byte 0
  std::array<char, 256> bytes_;
};

}  // namespace

Tokenizer::~Tokenizer() = default;

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path) {
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string json, ReadTextFile(path, kMaxFileBytes));
  return MakeBpeTokenizer(json, path);
}

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Bytes(int64_t vocab_size, int32_t bos,
                                                      int32_t eos) {
  constexpr int32_t kMaxId = 1 << 30;
  if (bos < 0 || eos < 0 || bos == eos || bos > kMaxId || eos > kMaxId)
    return InvalidArgument(Text("byte tokenizer: bos ", bos, " and eos ", eos,
                                ", expected two different ids of 0 to ", kMaxId));
  const int64_t needed = int64_t{std::max(bos, eos)} + 1 + 256;
  if (vocab_size < needed)
    return InvalidArgument(Text("byte tokenizer: vocab_size ", vocab_size, ", expected at least ",
                                needed, " (bos ", bos, ", eos ", eos, ", 256 bytes)"));
  return std::unique_ptr<Tokenizer>(new ByteTokenizer(bos, eos));
}

std::string Tokenizer::Decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids)
    if (!(skip_special && IsSpecial(id))) bytes += TokenBytes(id);
  // Joined before they are made sound: characters may be cut between tokens.
  std::string text;
  AppendUtf8(bytes, &text);
  return text;
}

}  // namespace causeway
