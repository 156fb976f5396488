// Byte-level BPE as in tokenizer.json of the DeepSeek family.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace causeway {

// Immutable after Load; safe to use from several threads.
class Tokenizer {
 public:
  // Reads a Hugging Face tokenizer.json. Errors name the file, the key, what was found and what
  // Causeway supports (model BPE, byte-level, Split pre-tokenisers, no normaliser).
  static StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& path);
  // A tokenizer for models without tokenizer.json (demo and test models): one id per UTF-8 byte
  // after `reserved` special ids <s>=bos, </s>=eos; needs vocab_size >= 256 + reserved.
  static StatusOr<std::unique_ptr<Tokenizer>> Bytes(int64_t vocab_size, int32_t bos, int32_t eos);

  virtual ~Tokenizer();

  // Text to ids. Added (special) tokens that occur in the text become their ids if
  // `parse_special`, else they are encoded as plain text. Broken UTF-8 is replaced by U+FFFD
  // exactly as Python's bytes.decode("utf-8", "replace") does. Adds no BOS.
  virtual std::vector<int32_t> Encode(std::string_view text, bool parse_special = true) const = 0;
  // The bytes of one token (special tokens: their text); empty for an id without text.
  virtual std::string_view TokenBytes(int32_t id) const = 0;
  // Whether Decode leaves the token out with `skip_special`.
  virtual bool IsSpecial(int32_t id) const = 0;
  // Ids to text; invalid UTF-8 sequences become U+FFFD.
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special = true) const;
  // The id of an added token or vocabulary entry by its exact text.
  virtual std::optional<int32_t> TokenId(std::string_view text) const = 0;
  // One more than the largest id that has text: ids from here on must never be sampled.
  virtual int64_t size() const = 0;
};

}  // namespace causeway
