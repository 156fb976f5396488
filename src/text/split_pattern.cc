// Patterns run on PCRE2 over sound UTF-8, so its checks are off. A split must make progress:
// patterns that may match the empty text are refused.
#include "text/split_pattern.h"

#include <cstdint>
#include <limits>
#include <new>

#include "base/check.h"
#include "checkpoint/json_text.h"

namespace causeway {

const char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

SplitPattern::Scratch::Scratch() : data_(pcre2_match_data_create(1, nullptr)) {
  if (data_ == nullptr) throw std::bad_alloc();
}

StatusOr<SplitPattern> SplitPattern::Regex(std::string_view pattern, const std::string& where) {
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string translated, TranslateRegex(pattern, where));
  return Compile(translated, 0, where);
}

StatusOr<SplitPattern> SplitPattern::Literal(std::string_view pattern, const std::string& where) {
  return Compile(std::string(pattern), PCRE2_LITERAL, where);
}

StatusOr<SplitPattern> SplitPattern::Compile(const std::string& pattern, uint32_t options,
                                             const std::string& where) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  SplitPattern result;
  result.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | options, &error, &offset, nullptr));
  if (result.code_ == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof message);
    return InvalidArgument(Text(where, ": pattern ", Quoted(pattern), ": ",
                                reinterpret_cast<const char*>(message), " at byte ", offset));
  }
  uint32_t may_be_empty = 0;
  pcre2_pattern_info(result.code_.get(), PCRE2_INFO_MATCHEMPTY, &may_be_empty);
  if (may_be_empty != 0)
    return InvalidArgument(Text(where, ": pattern ", Quoted(pattern),
                                " can match nothing, expected one that matches characters"));
  // Without machine code (a system that forbids it) matching is slower and otherwise the same.
  result.compiled_ = pcre2_jit_compile(result.code_.get(), PCRE2_JIT_COMPLETE) == 0;
  result.no_limits_.reset(pcre2_match_context_create(nullptr));
  if (result.no_limits_ == nullptr) throw std::bad_alloc();
  constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  // The limits guard against patterns that take for ever on some texts; here a search that gave up
  // would cut the text differently.
  pcre2_set_match_limit(result.no_limits_.get(), kNone);
  pcre2_set_depth_limit(result.no_limits_.get(), kNone);
  pcre2_set_heap_limit(result.no_limits_.get(), kNone);
  return result;
}

bool SplitPattern::Find(std::string_view text, size_t from, const Scratch& scratch, size_t* begin,
                        size_t* end) const {
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int found = PCRE2_ERROR_JIT_STACKLIMIT;
  if (compiled_)
    found = pcre2_jit_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                            scratch.get(), no_limits_.get());
  // The machine code's stack is small: a long match is done again by the interpreter.
  if (found == PCRE2_ERROR_JIT_STACKLIMIT || found == PCRE2_ERROR_MATCHLIMIT)
    found = pcre2_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        scratch.get(), no_limits_.get());
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found == PCRE2_ERROR_NOMEMORY || found == PCRE2_ERROR_HEAPLIMIT) throw std::bad_alloc();
  CHECK(found >= 0, "pcre2_match ", found);  // with no limits nothing else can go wrong
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(scratch.get());
  *begin = offsets[0];
  *end = offsets[1];
  return true;
}

}  // namespace causeway
