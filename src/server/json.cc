// The walk over the text, with its checks of syntax, depth and double keys, is VisitJson's
// (checkpoint/json_text.h), shared with the checkpoint's files. Here its tokens become a tree that
// keeps the order of keys.
#include "server/json.h"

#include <vector>

#include "checkpoint/json_text.h"

namespace causeway {
namespace {

using Kind = JsonToken::Kind;

// A value takes up to 70 bytes of memory and two of text: without a limit, a body would grow
// thirtyfold here. Far more than the token ids of any batch of prompts.
constexpr int64_t kMaxValues = 2'000'000;

// Puts tokens together to a value. Open containers stay where they are while they grow: only the
// innermost gets new members.
class Builder {
 public:
  explicit Builder(Json& root) : root_(root) {}

  void Add(const JsonToken& token) {
    switch (token.kind) {
      case Kind::kNull:
        Place(Json());
        break;
      case Kind::kBoolean:
        Place(Json(token.boolean));
        break;
      case Kind::kInteger:
        Place(Json(token.integer));
        break;
      case Kind::kNumber:
        Place(Json(token.number));
        break;
      case Kind::kString:
        Place(Json(token.text));
        break;
      case Kind::kKey:
        key_ = token.text;
        break;
      case Kind::kObjectBegin:
        open_.push_back(&Place(Json::object()));
        break;
      case Kind::kArrayBegin:
        open_.push_back(&Place(Json::array()));
        break;
      case Kind::kObjectEnd:
      case Kind::kArrayEnd:
        open_.pop_back();
        break;
    }
  }

 private:
  Json& Place(Json value) {
    // The first value is the root; VisitJson refuses a second one.
    if (open_.empty()) return root_ = std::move(value);
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return parent.back();
    }
    // Appended as to a vector: the walk has refused double keys, and a search for each key would
    // make large objects quadratic.
    auto& members = parent.get_ref<Json::object_t&>();
    members.push_back({std::move(key_), std::move(value)});
    return members.back().second;
  }

  Json& root_;
  std::string key_;
  std::vector<Json*> open_;
};

}  // namespace

StatusOr<Json> ParseOrderedJson(std::string_view text, const std::string& source) {
  Json root;
  Builder builder(root);
  int64_t values = 0;
  CAUSEWAY_RETURN_IF_ERROR(VisitJson(text, source, [&](const JsonToken& token) {
    const bool begins =
        token.kind != Kind::kKey && token.kind != Kind::kArrayEnd && token.kind != Kind::kObjectEnd;
    if (begins && ++values > kMaxValues) {
      return InvalidArgument(Text(source, ": more than ", kMaxValues, " values"));
    }
    builder.Add(token);
    return Status();
  }));
  return root;
}

std::string Dump(const Json& json) {
  // -1: no indentation. Broken UTF-8 is replaced and not thrown: text of a client comes back in
  // messages.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string DescribeJson(const Json& json) {
  // An error message must not repeat a prompt: what is longer than a line's worth becomes its size.
  constexpr size_t kLongest = 60;
  if (json.is_object() && !json.empty()) return "an object";
  if (json.is_array() && json.size() > 4) return Text("a list of ", json.size());
  if (json.is_string() && json.get_ref<const std::string&>().size() > kLongest) {
    return Text("a string of ", json.get_ref<const std::string&>().size(), " bytes");
  }
  std::string text = Dump(json);
  return text.size() > kLongest ? std::string(json.type_name()) : text;
}

}  // namespace causeway
