#include "server/request_fields.h"

#include <sys/random.h>

#include <memory>
#include <random>

namespace causeway {
namespace {

constexpr size_t kMaxStopTokens = 1024;

}  // namespace

uint64_t RandomSeed() {
  // For requests without a seed: two answers to the same prompt shall differ.
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

std::function<uint64_t()> SeedsFrom(uint64_t seed) {
  // Shared: copies of the function go on with one sequence.
  return [numbers = std::make_shared<std::mt19937_64>(seed)] { return (*numbers)(); };
}

std::string RandomName() {
  uint8_t bytes[12] = {};
  CHECK(getrandom(bytes, sizeof(bytes), 0) == sizeof(bytes), "no random numbers");
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (uint8_t byte : bytes) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

std::vector<int32_t> ReadTokens(FieldReader& fields, std::string_view field, const Json& list,
                                const std::string& where, int64_t vocab_size) {
  std::vector<int32_t> out;
  out.reserve(list.size());
  for (const Json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab_size) {
      fields.Fail(field, Text(where, "[", out.size(), "] is ", DescribeJson(id),
                              "; expected a token id 0 to ", vocab_size - 1));
      return {};
    }
    out.push_back(id.get<int32_t>());
  }
  return out;
}

std::vector<std::string> ReadStopStrings(FieldReader& fields, std::string_view field, int64_t max) {
  const Json* stop = fields.Any(field);
  if (stop == nullptr) return {};
  const std::string path = fields.Path(field);
  // Both APIs allow one string as well as a list.
  const Json list = stop->is_array() ? *stop : Json::array({*stop});
  if (list.size() > static_cast<size_t>(max)) {
    fields.Fail(field, Text(path, " has ", list.size(), " strings; at most ", max, " are allowed"));
    return {};
  }
  std::vector<std::string> out;
  for (const Json& one : list) {
    if (!one.is_string() || one.get_ref<const std::string&>().empty()) {
      fields.Fail(
          field, Text(path, " holds ", DescribeJson(one), "; expected strings that are not empty"));
      return {};
    }
    out.push_back(one.get<std::string>());
  }
  return out;
}

std::vector<int32_t> ReadStopTokens(FieldReader& fields, std::string_view field,
                                    int64_t vocab_size) {
  const Json* ids = fields.Any(field);
  if (ids == nullptr) return {};
  const std::string path = fields.Path(field);
  if (!ids->is_array() || ids->size() > kMaxStopTokens) {
    fields.Fail(field, Text(path, " is ", DescribeJson(*ids), "; expected a list of at most ",
                            kMaxStopTokens, " token ids"));
    return {};
  }
  return ReadTokens(fields, field, *ids, path, vocab_size);
}

std::vector<int32_t> EncodePrompt(const ServedModel& model, const std::string& text) {
  std::vector<int32_t> ids = model.tokenizer.Encode(text);
  // A prompt that brings the token along, as text of a template may, does not get it twice.
  if (model.bos_token >= 0 && (ids.empty() || ids.front() != model.bos_token)) {
    ids.insert(ids.begin(), model.bos_token);
  }
  return ids;
}

}  // namespace causeway
