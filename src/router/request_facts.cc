#include "router/request_facts.h"

#include <charconv>

#include "base/check.h"
#include "router/json_scan.h"

namespace causeway {
namespace {

constexpr std::string_view kBootstrap = "bootstrap_";

bool IsString(std::string_view value) { return value.starts_with('"'); }
bool IsList(std::string_view value) { return value.starts_with('['); }

std::string Prefixed(char kind, std::string_view text) {
  std::string out;
  out.reserve(text.size() + 1);
  out += kind;
  return out.append(text);
}

// Token ids, four bytes each; anything else in the list ends them.
std::string IdsPrefix(std::string_view list) {
  std::string out = "i";
  const JsonProblem none = ScanArray(list, [&out](std::string_view value) {
    uint32_t id = 0;
    std::from_chars(value.data(), value.data() + value.size(), id);
    out.append(reinterpret_cast<const char*>(&id), sizeof id);
  });
  CHECK(!none, "it was valid as a part of the body");
  return out;
}

// A prompt: a text, ids, or a list of either.
void ReadPrompt(std::string_view value, RequestFacts& facts) {
  if (IsString(value)) {
    facts.prefix = Prefixed('t', value.substr(1, value.size() - 2));
    return;
  }
  if (!IsList(value)) return;
  size_t count = 0;
  std::string_view first;
  const JsonProblem none = ScanArray(value, [&](std::string_view entry) {
    if (count++ == 0) first = entry;
  });
  if (none || count == 0) return;
  if (!IsString(first) && !IsList(first)) {
    facts.prefix = IdsPrefix(value);
    return;
  }
  facts.batch = count;
  // The first prompt stands for all of them.
  facts.prefix =
      IsString(first) ? Prefixed('t', first.substr(1, first.size() - 2)) : IdsPrefix(first);
}

}  // namespace

StatusOr<RequestFacts> ReadFacts(RequestKind kind, std::string_view body) {
  RequestFacts facts;
  facts.empty = true;
  std::string_view text;
  std::string_view ids;
  std::string_view prompt;
  std::string_view messages;
  const JsonProblem problem = ScanObject(body, [&](const JsonMember& member) {
    facts.empty = false;
    const auto is = [&member](std::string_view name) { return IsKey(member.key, name); };
    if (is("stream")) {
      facts.stream = member.value == "true";
    } else if (is("return_logprob")) {
      // A list for a batch: one that wants them is enough.
      facts.return_logprob =
          member.value == "true" ||
          (IsList(member.value) && member.value.find("true") != std::string_view::npos);
    } else if (is("model")) {
      if (IsString(member.value)) {
        facts.model = UnescapeJson(member.value.substr(1, member.value.size() - 2));
      }
    } else if (is("text")) {
      text = member.value;
    } else if (is("input_ids")) {
      ids = member.value;
    } else if (is("prompt")) {
      prompt = member.value;
    } else if (is("messages")) {
      messages = member.value;
    } else if (is("bootstrap_host") || is("bootstrap_port") || is("bootstrap_room")) {
      facts.bootstrap.push_back({member.begin, member.end});
    }
  });
  if (problem) {
    return InvalidArgument(Text("the request's body is not a JSON object: ", *problem));
  }
  facts.insert_at = body.rfind('}');
  switch (kind) {
    case RequestKind::kGenerate:
      ReadPrompt(text.empty() || text == "null" ? ids : text, facts);
      break;
    case RequestKind::kCompletion:
      ReadPrompt(prompt, facts);
      break;
    case RequestKind::kChat:
      // The next turn of a conversation begins with this one's messages, up to the last bracket.
      if (IsList(messages)) facts.prefix = Prefixed('m', messages.substr(0, messages.size() - 1));
      break;
    case RequestKind::kOther:
      break;
  }
  return facts;
}

std::string WithBootstrap(std::string_view body, const RequestFacts& facts,
                          const Bootstrap& bootstrap, const std::vector<uint64_t>& rooms) {
  CHECK(rooms.size() == facts.batch.value_or(1), rooms.size());
  // A value for each prompt, as a list where the prompts are one.
  const auto list = [&](const auto& value_of) {
    std::string out = facts.batch ? "[" : "";
    for (size_t i = 0; i < rooms.size(); ++i) {
      out += i == 0 ? "" : ",";
      out += value_of(i);
    }
    return facts.batch ? out + "]" : out;
  };
  const std::string host = QuoteJson(bootstrap.host);
  const std::string port = bootstrap.port ? std::to_string(*bootstrap.port) : "null";

  std::string out;
  out.reserve(body.size() + 256 + rooms.size() * (host.size() + port.size() + 24));
  out = body.substr(0, facts.insert_at);
  bool empty = facts.empty;
  // From the back, so that the places in front stay right. With a member goes the comma behind it,
  // or, for the last one, the comma before it.
  for (size_t i = facts.bootstrap.size(); i-- > 0;) {
    size_t begin = facts.bootstrap[i].begin;
    size_t end = facts.bootstrap[i].end;
    const size_t next = out.find_first_not_of(" \t\r\n", end);
    const size_t before = out.find_last_not_of(" \t\r\n", begin - 1);
    if (next != std::string::npos && out[next] == ',') {
      end = next + 1;
    } else if (out[before] == ',') {
      begin = before;
    } else {
      empty = true;  // the only member
    }
    out.erase(begin, end - begin);
  }
  out += empty ? "" : ",";
  out += "\"bootstrap_host\":" + list([&](size_t) { return host; });
  out += ",\"bootstrap_port\":" + list([&](size_t) { return port; });
  out += ",\"bootstrap_room\":" + list([&](size_t i) { return std::to_string(rooms[i]); });
  out += body.substr(facts.insert_at);
  return out;
}

}  // namespace causeway
