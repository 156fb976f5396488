#include "server/grammar_store.h"

#include <algorithm>

#include "grammar/ebnf.h"
#include "grammar/json_schema.h"
#include "grammar/regex.h"

namespace causeway {
namespace {

StatusOr<std::shared_ptr<const Vocabulary>> VocabularyOf(const Tokenizer& tokenizer) {
  std::vector<std::string_view> texts;
  for (int64_t i = 0; i < tokenizer.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    texts.push_back(tokenizer.IsSpecial(id) ? std::string_view() : tokenizer.TokenBytes(id));
  }
  CAUSEWAY_ASSIGN_OR_RETURN(Vocabulary made, Vocabulary::Make(texts));
  return std::shared_ptr<const Vocabulary>(std::make_shared<Vocabulary>(std::move(made)));
}

}  // namespace

GrammarStore::GrammarStore(const Tokenizer& tokenizer) : vocabulary_(VocabularyOf(tokenizer)) {}

StatusOr<std::shared_ptr<TokenGrammar>> GrammarStore::Of(
    const std::string& key, const std::function<StatusOr<Grammar>()>& compile) {
  if (!vocabulary_.ok()) return vocabulary_.status();
  const auto find = [&]() -> std::shared_ptr<TokenGrammar> {
    const auto found = std::find_if(entries_.begin(), entries_.end(),
                                    [&](const Entry& entry) { return entry.key == key; });
    if (found == entries_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found);
    return found->grammar;
  };
  {
    const std::lock_guard lock(mutex_);
    if (std::shared_ptr<TokenGrammar> known = find()) return known;
  }
  // Without the mutex: two threads may both compile it, and one is kept.
  CAUSEWAY_ASSIGN_OR_RETURN(Grammar grammar, compile());
  auto made = std::make_shared<TokenGrammar>(std::move(grammar), *vocabulary_);
  const std::lock_guard lock(mutex_);
  if (std::shared_ptr<TokenGrammar> known = find()) return known;
  entries_.push_front({key, made});
  // Answers that are under way keep theirs.
  if (entries_.size() > kMost) entries_.pop_back();
  return made;
}

StatusOr<std::shared_ptr<TokenGrammar>> GrammarStore::OfRegex(const std::string& pattern) {
  return Of(Text("regex ", pattern), [&] { return CompileRegex(pattern); });
}

StatusOr<std::shared_ptr<TokenGrammar>> GrammarStore::OfEbnf(const std::string& text) {
  return Of(Text("ebnf ", text), [&] { return CompileEbnf(text); });
}

StatusOr<std::shared_ptr<TokenGrammar>> GrammarStore::OfSchema(const Json& schema) {
  const std::string text = Dump(schema);
  if (text.size() > kMaxBytes) {
    return InvalidArgument(
        Text("the schema has ", text.size(), " bytes; at most ", kMaxBytes, " are allowed"));
  }
  return Of(Text("schema ", text), [&] { return CompileJsonSchema(schema); });
}

StatusOr<std::shared_ptr<TokenGrammar>> GrammarStore::OfAnyObject() {
  return Of("object", [] { return CompileJsonObject(); });
}

}  // namespace causeway
