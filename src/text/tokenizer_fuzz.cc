// libFuzzer entry: any bytes as a tokenizer.json give an error or a tokenizer that encodes and
// decodes; any bytes as a text, with a good tokenizer, give ids that decode to that text; any
// bytes as a pattern give an error or a pattern that ends on every text.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "text/bpe_tokenizer.h"
#include "text/chat_format.h"
#include "text/detokenizer.h"
#include "text/split_pattern.h"
#include "text/tokenizer_json_builder.h"
#include "text/utf8.h"

namespace causeway {
namespace {

// Encodes and decodes, which must give the text back with broken UTF-8 replaced.
void RoundTrip(const Tokenizer& tokenizer, std::string_view text) {
  std::string sound;
  AppendUtf8(text, &sound);
  for (const bool parse_special : {true, false}) {
    const auto ids = tokenizer.Encode(text, parse_special);
    Detokenizer detokenizer(tokenizer, /*skip_special=*/false);
    std::string incremental;
    for (const int32_t id : ids) {
      CHECK(id >= 0 && id < tokenizer.size(), id);
      incremental += detokenizer.Push(id);
    }
    incremental += detokenizer.Flush();
    CHECK(tokenizer.Decode(ids, false) == sound && incremental == sound, sound);
  }
}

}  // namespace
}  // namespace causeway

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace causeway;
  const std::string text(reinterpret_cast<const char*>(data), size);

  static const auto small = MakeBpeTokenizer(SmallTokenizerJson().dump(), "small");
  CHECK(small.ok(), small.status().message());
  RoundTrip(**small, text);

  const auto tokenizer = MakeBpeTokenizer(text, "fuzz");
  if (tokenizer.ok()) RoundTrip(**tokenizer, "Hello,  <a> world 123\n \xe4\xbd\xa0\xff");

  // Short patterns and texts: backtracking is polynomial in the text.
  if (const auto pattern = SplitPattern::Regex(text.substr(0, 24), "fuzz"); pattern.ok()) {
    const SplitPattern::Scratch scratch;
    std::string subject = "aab  b1\n\xc3\xa9 .,";
    size_t begin = 0, end = 0;
    for (size_t from = 0; pattern->Find(subject, from, scratch, &begin, &end); from = end)
      CHECK(begin >= from && end > begin && end <= subject.size(), begin, " ", end);
  }

  ChatMessage assistant{"assistant", "", "", {{"id", "f", text}}, ""};
  ChatOptions options;
  options.tools = {text};
  for (const ChatFormat format : {ChatFormat::kV3, ChatFormat::kV31, ChatFormat::kV32}) {
    options.response_schema = format == ChatFormat::kV32 ? text : "";
    (void)RenderChat(format, {{"user", text, "", {}, ""}}, options).ok();
    options.tools.clear();
    options.response_schema.clear();
    options.finished = true;
    (void)RenderChat(format, {{"user", "u", "", {}, ""}, assistant}, options).ok();
  }
  return 0;
}
