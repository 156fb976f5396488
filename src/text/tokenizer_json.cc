// Reads what tokenizers of the model family use, and refuses the rest by name: an option that was
// ignored would give other ids without anybody noticing.
#include "text/tokenizer_json.h"

#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "checkpoint/json_text.h"
#include "text/json_value.h"
#include "text/utf8.h"

namespace causeway {
namespace {

constexpr size_t kMaxAddedBytes = 256;  // of one added token's text: bounds the search for it
constexpr size_t kMaxSplits = 16;

// An object of the file and where it is, for messages.
struct Section {
  const JsonValue& value;
  std::string path;  // "model", "pre_tokenizer.pretokenizers[1]"
  const std::string& source;

  Status Error(std::string_view key, const std::string& found, const std::string& expected) const {
    return InvalidArgument(Text(source, ": ", path, path.empty() || key.empty() ? "" : ".", key,
                                ": found ", found, ", expected ", expected));
  }
  std::string Found(std::string_view key) const {
    const JsonValue* member = value.Find(key);
    return member != nullptr ? Describe(*member) : "nothing";
  }

  // The key's value if it is of this kind.
  StatusOr<const JsonValue*> Get(std::string_view key, JsonValue::Kind kind,
                                 const std::string& expected) const {
    const JsonValue* member = value.Find(key);
    if (member == nullptr || member->kind != kind) return Error(key, Found(key), expected);
    return member;
  }
  StatusOr<std::string> String(std::string_view key, const std::string& expected) const {
    CAUSEWAY_ASSIGN_OR_RETURN(const JsonValue* member,
                              Get(key, JsonValue::Kind::kString, expected));
    return member->text;
  }
  // A boolean, or `fallback` if the key is absent or null.
  StatusOr<bool> Flag(std::string_view key, bool fallback) const {
    const JsonValue* member = value.Find(key);
    if (member == nullptr || member->IsNull()) return fallback;
    if (member->kind != JsonValue::Kind::kBoolean)
      return Error(key, Describe(*member), "true or false");
    return member->boolean;
  }
  // An error unless the flag, `fallback` if absent, has this value.
  Status NeedFlag(std::string_view key, bool fallback, bool wanted) const {
    CAUSEWAY_ASSIGN_OR_RETURN(const bool flag, Flag(key, fallback));
    if (flag != wanted) return Error(key, flag ? "true" : "false", wanted ? "true" : "false");
    return Status();
  }
  // An error unless the key is absent, null or an empty string.
  Status NeedNothing(std::string_view key) const {
    const JsonValue* member = value.Find(key);
    if (member == nullptr || member->IsNull() || (member->IsString() && member->text.empty()))
      return Status();
    return Error(key, Describe(*member), "null");
  }
};

// A normaliser is null or a sequence of none.
Status CheckNormalizer(const Section& file) {
  const JsonValue* normalizer = file.value.Find("normalizer");
  if (normalizer == nullptr || normalizer->IsNull()) return Status();
  const JsonValue* steps = normalizer->Find("normalizers");
  if (steps != nullptr && steps->IsArray() && steps->values.empty()) return Status();
  const JsonValue* type = normalizer->Find("type");
  return file.Error("normalizer", type != nullptr ? Describe(*type) : Describe(*normalizer),
                    "null: Causeway supports no normaliser");
}

Status ReadVocabulary(const Section& model, BpeModel* bpe) {
  CAUSEWAY_ASSIGN_OR_RETURN(
      const JsonValue* vocabulary,
      model.Get("vocab", JsonValue::Kind::kObject, "an object of entries and their ids"));
  bpe->vocabulary.reserve(vocabulary->keys.size());
  for (size_t i = 0; i < vocabulary->keys.size(); ++i) {
    const std::optional<int64_t> id = vocabulary->values[i].Integer();
    // Ids bound the tables made of them.
    if (!id || *id < 0 || *id >= kMaxTokens)
      return model.Error(Text("vocab[", Quoted(vocabulary->keys[i]), "]"),
                         Describe(vocabulary->values[i]), Text("an id of 0 to ", kMaxTokens - 1));
    bpe->vocabulary.push_back({vocabulary->keys[i], static_cast<int32_t>(*id)});
  }
  return Status();
}

// Merges are ["a", "b"] or, in older files, "a b".
Status ReadMerges(const Section& model, BpeModel* bpe) {
  CAUSEWAY_ASSIGN_OR_RETURN(const JsonValue* merges,
                            model.Get("merges", JsonValue::Kind::kArray, "an array"));
  bpe->merges.reserve(merges->values.size());
  for (size_t i = 0; i < merges->values.size(); ++i) {
    const JsonValue& merge = merges->values[i];
    if (merge.IsArray() && merge.values.size() == 2 && merge.values[0].IsString() &&
        merge.values[1].IsString()) {
      bpe->merges.emplace_back(merge.values[0].text, merge.values[1].text);
      continue;
    }
    const size_t space = merge.IsString() ? merge.text.find(' ') : std::string::npos;
    if (space == std::string::npos || merge.text.find(' ', space + 1) != std::string::npos)
      return model.Error(Text("merges[", i, "]"), Describe(merge), R"("a b" or ["a", "b"])");
    bpe->merges.emplace_back(merge.text.substr(0, space), merge.text.substr(space + 1));
  }
  return Status();
}

Status ReadModel(const Section& model, BpeModel* bpe) {
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string type, model.String("type", "\"BPE\""));
  if (type != "BPE") return model.Error("type", Quoted(type), "\"BPE\"");
  // Dropout other than 0 would make encoding random.
  if (const JsonValue* dropout = model.value.Find("dropout"))
    if (!dropout->IsNull() && dropout->text != "0" && dropout->text != "0.0")
      return model.Error("dropout", Describe(*dropout), "null");
  CAUSEWAY_RETURN_IF_ERROR(model.NeedNothing("continuing_subword_prefix"));
  CAUSEWAY_RETURN_IF_ERROR(model.NeedNothing("end_of_word_suffix"));
  // unk_token, fuse_unk and byte_fallback are about bytes without an entry: there are none.
  CAUSEWAY_ASSIGN_OR_RETURN(bpe->ignore_merges, model.Flag("ignore_merges", false));
  CAUSEWAY_RETURN_IF_ERROR(ReadVocabulary(model, bpe));
  return ReadMerges(model, bpe);
}

StatusOr<SplitPattern> ReadSplit(const Section& step) {
  constexpr char kPattern[] = R"({"Regex": "..."} or {"String": "..."})";
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string behavior, step.String("behavior", "\"Isolated\""));
  if (behavior != "Isolated") return step.Error("behavior", Quoted(behavior), "\"Isolated\"");
  CAUSEWAY_RETURN_IF_ERROR(step.NeedFlag("invert", false, false));
  CAUSEWAY_ASSIGN_OR_RETURN(const JsonValue* pattern,
                            step.Get("pattern", JsonValue::Kind::kObject, kPattern));
  if (pattern->keys.size() != 1 || !pattern->values[0].IsString())
    return step.Error("pattern", "another object", kPattern);
  const std::string& text = pattern->values[0].text;
  const std::string where = Text(step.source, ": ", step.path);
  if (text.empty()) return step.Error("pattern", "an empty text", kPattern);
  if (pattern->keys[0] == "Regex") return SplitPattern::Regex(text, where);
  if (pattern->keys[0] == "String") return SplitPattern::Literal(text, where);
  return step.Error("pattern", Quoted(pattern->keys[0]), kPattern);
}

// Splits, then one ByteLevel; or a ByteLevel alone.
Status ReadPreTokenizer(const Section& file, std::vector<SplitPattern>* splits) {
  constexpr char kExpected[] = "a Sequence of Split steps and a last ByteLevel, or a ByteLevel";
  CAUSEWAY_ASSIGN_OR_RETURN(const JsonValue* root,
                            file.Get("pre_tokenizer", JsonValue::Kind::kObject, kExpected));
  std::vector<Section> steps;
  const Section outer{*root, "pre_tokenizer", file.source};
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string outer_type, outer.String("type", kExpected));
  if (outer_type == "Sequence") {
    CAUSEWAY_ASSIGN_OR_RETURN(const JsonValue* list,
                              outer.Get("pretokenizers", JsonValue::Kind::kArray, kExpected));
    for (size_t i = 0; i < list->values.size(); ++i)
      steps.push_back({list->values[i], Text("pre_tokenizer.pretokenizers[", i, "]"), file.source});
  } else {
    steps.push_back(outer);
  }
  if (steps.empty() || steps.size() > kMaxSplits)
    return outer.Error("pretokenizers", Text(steps.size(), " steps"),
                       Text("1 to ", kMaxSplits, " steps"));
  // Split steps in order, then ByteLevel, which may bring a last split of its own.
  for (size_t i = 0; i < steps.size(); ++i) {
    const Section& step = steps[i];
    const bool last = i + 1 == steps.size();
    CAUSEWAY_ASSIGN_OR_RETURN(const std::string type, step.String("type", kExpected));
    if (type != (last ? "ByteLevel" : "Split"))
      return step.Error("type", Quoted(type),
                        last ? "\"ByteLevel\" as the last step" : "\"Split\" before the last step");
    if (!last) {
      CAUSEWAY_ASSIGN_OR_RETURN(SplitPattern split, ReadSplit(step));
      splits->push_back(std::move(split));
      continue;
    }
    // Absent, add_prefix_space means true, and that is not supported.
    CAUSEWAY_RETURN_IF_ERROR(step.NeedFlag("add_prefix_space", true, false));
    CAUSEWAY_ASSIGN_OR_RETURN(const bool use_regex, step.Flag("use_regex", true));
    if (!use_regex) continue;
    CAUSEWAY_ASSIGN_OR_RETURN(SplitPattern split, SplitPattern::Regex(kGpt2Pattern, step.path));
    splits->push_back(std::move(split));
  }
  return Status();
}

Status CheckDecoder(const Section& file) {
  CAUSEWAY_ASSIGN_OR_RETURN(const JsonValue* decoder, file.Get("decoder", JsonValue::Kind::kObject,
                                                               "an object of type \"ByteLevel\""));
  const JsonValue* type = decoder->Find("type");
  if (type == nullptr || type->text != "ByteLevel")
    return file.Error("decoder.type", type != nullptr ? Describe(*type) : "nothing",
                      "\"ByteLevel\"");
  return Status();
}

StatusOr<AddedToken> ReadAddedToken(const Section& entry) {
  AddedToken token;
  const JsonValue* id = entry.value.Find("id");
  const std::optional<int64_t> number = id != nullptr ? id->Integer() : std::nullopt;
  if (!number || *number < 0 || *number >= kMaxTokens)
    return entry.Error("id", entry.Found("id"), Text("an id of 0 to ", kMaxTokens - 1));
  token.id = static_cast<int32_t>(*number);
  CAUSEWAY_ASSIGN_OR_RETURN(token.text, entry.String("content", "a text"));
  if (token.text.empty() || token.text.size() > kMaxAddedBytes)
    return entry.Error("content", Text(token.text.size(), " bytes"),
                       Text("1 to ", kMaxAddedBytes, " bytes"));
  CAUSEWAY_ASSIGN_OR_RETURN(token.special, entry.Flag("special", false));
  CAUSEWAY_ASSIGN_OR_RETURN(token.normalized, entry.Flag("normalized", false));
  // Options about the text around the token: none of them is supported.
  for (const char* key : {"single_word", "lstrip", "rstrip"})
    CAUSEWAY_RETURN_IF_ERROR(entry.NeedFlag(key, false, false));
  return token;
}

// A text that is also in the vocabulary has one id in both places, any other one has its own.
Status ReadAddedTokens(const Section& file, const BpeModel& model, std::vector<AddedToken>* added) {
  const JsonValue* list = file.value.Find("added_tokens");
  if (list == nullptr || list->IsNull()) return Status();
  if (!list->IsArray()) return file.Error("added_tokens", Describe(*list), "an array");
  std::unordered_map<std::string_view, int32_t> ids;
  std::unordered_map<int32_t, std::string_view> texts;
  for (const BpeModel::Token& token : model.vocabulary) {
    ids[token.text] = token.id;
    texts[token.id] = token.text;
  }
  std::unordered_set<std::string> seen;
  for (size_t i = 0; i < list->values.size(); ++i) {
    const Section entry{list->values[i], Text("added_tokens[", i, "]"), file.source};
    CAUSEWAY_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(entry));
    // Listed once, with one id, which no other text has.
    if (!seen.insert(token.text).second)
      return entry.Error("content", Quoted(token.text), "a text that is listed once");
    if (const auto id = ids.find(token.text); id != ids.end() && id->second != token.id)
      return entry.Error("id", Text(token.id),
                         Text(id->second, ", the id of ", Quoted(token.text), " in model.vocab"));
    if (const auto text = texts.find(token.id); text != texts.end() && text->second != token.text)
      return entry.Error("id", Text(token.id),
                         Text("another one: this is the id of ", Quoted(text->second)));
    added->push_back(std::move(token));
    // The keys of `texts` must outlive the vector's growth: they stand in the file's tree.
    texts[added->back().id] = entry.value.Find("content")->text;
  }
  return Status();
}

}  // namespace

StatusOr<TokenizerParts> ParseTokenizerJson(std::string_view json, const std::string& source) {
  CAUSEWAY_ASSIGN_OR_RETURN(const JsonValue root, ParseJson(json, source));
  const Section file{root, "", source};
  if (!root.IsObject()) return file.Error("", Describe(root), "an object");
  // truncation and padding change what Encode returns, so they must be off.
  CAUSEWAY_RETURN_IF_ERROR(file.NeedNothing("truncation"));
  CAUSEWAY_RETURN_IF_ERROR(file.NeedNothing("padding"));
  CAUSEWAY_RETURN_IF_ERROR(CheckNormalizer(file));
  CAUSEWAY_RETURN_IF_ERROR(CheckDecoder(file));
  TokenizerParts parts;
  CAUSEWAY_RETURN_IF_ERROR(ReadPreTokenizer(file, &parts.splits));
  CAUSEWAY_ASSIGN_OR_RETURN(const JsonValue* model,
                            file.Get("model", JsonValue::Kind::kObject, "an object"));
  CAUSEWAY_RETURN_IF_ERROR(ReadModel({*model, "model", source}, &parts.model));
  CAUSEWAY_RETURN_IF_ERROR(ReadAddedTokens(file, parts.model, &parts.added));
  return parts;
}

}  // namespace causeway
