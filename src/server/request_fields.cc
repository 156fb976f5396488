#include "server/request_fields.h"

#include <sys/random.h>

#include <cstdint>
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

int64_t RoomBehind(int64_t room, uint64_t count) {
  return static_cast<int64_t>((static_cast<uint64_t>(room) + count) & uint64_t{INT64_MAX});
}

std::vector<Bootstrap> ReadBootstrap(FieldReader& fields, ServerRole role, size_t prompts,
                                     int64_t n) {
  const auto each = [&](const char* name, const auto& read) {
    const Json* value = fields.Any(name);
    if (value == nullptr) return false;
    if (value->is_array() && value->size() != prompts) {
      fields.Fail(name, Text(name, " has ", value->size(), " values; the request has ", prompts,
                             " prompts"));
      return false;
    }
    for (size_t i = 0; i < prompts; ++i) read(i, value->is_array() ? (*value)[i] : *value);
    return true;
  };
  constexpr int kDefaultPort = 8998;
  std::vector<Bootstrap> out(prompts, Bootstrap{"", kDefaultPort, 0});
  const bool hosts = each("bootstrap_host", [&](size_t i, const Json& value) {
    if (value.is_string() && !value.get_ref<const std::string&>().empty()) {
      out[i].host = value.get<std::string>();
    } else {
      fields.Fail("bootstrap_host", Text("bootstrap_host is ", DescribeJson(value),
                                         "; expected the prefill server's host"));
    }
  });
  each("bootstrap_port", [&](size_t i, const Json& value) {
    if (value.is_null()) return;
    if (value.is_number_integer() && value.get<int64_t>() >= 1 && value.get<int64_t>() <= 65535) {
      out[i].port = value.get<int>();
    } else {
      fields.Fail("bootstrap_port",
                  Text("bootstrap_port is ", DescribeJson(value), "; expected 1 to 65535"));
    }
  });
  const Json* const room = fields.Any("bootstrap_room");
  const bool one_room = room != nullptr && !room->is_array();
  const bool rooms = each("bootstrap_room", [&](size_t i, const Json& value) {
    if (value.is_number_integer() &&
        !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) &&
        value.get<int64_t>() >= 0) {
      const uint64_t behind = one_room ? i * static_cast<uint64_t>(n) : 0;
      out[i].room = RoomBehind(value.get<int64_t>(), behind);
    } else {
      fields.Fail("bootstrap_room", Text("bootstrap_room is ", DescribeJson(value),
                                         "; expected an integer from 0 to ", INT64_MAX));
    }
  });
  if (role == ServerRole::kCombined) {
    for (const char* name : {"bootstrap_room", "bootstrap_host", "bootstrap_port"}) {
      const Json* value = fields.Any(name);
      if (value == nullptr) continue;
      fields.Fail(name, Text(name,
                             ": this server does all of a request itself; only one with "
                             "--disaggregation-mode prefill or decode takes it"));
    }
    return {};
  }
  if (!rooms) {
    fields.Fail("bootstrap_room",
                "bootstrap_room is missing: this server does only a part of each "
                "request; send it to the router");
  } else if (role == ServerRole::kDecode && !hosts) {
    fields.Fail("bootstrap_host", "bootstrap_host is missing: where the prompt's keys come from");
  }
  return out;
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
