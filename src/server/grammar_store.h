// The grammars that requests ask for, compiled once for all that ask alike.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "grammar/token_grammar.h"
#include "server/json.h"
#include "text/tokenizer.h"

namespace causeway {

// For any thread. Compiling is limited in time by the limits of grammars and belongs on the text
// thread. The last kMost grammars are kept, with the states and masks that answers have needed.
class GrammarStore {
 public:
  static constexpr size_t kMost = 32;
  static constexpr size_t kMaxBytes = 256 << 10;  // of a schema's text

  // Special tokens are in no grammar. `tokenizer` must outlive this.
  explicit GrammarStore(const Tokenizer& tokenizer);

  // All: errors say what is wrong with the expression, the schema or the tokenizer.
  StatusOr<std::shared_ptr<TokenGrammar>> OfRegex(const std::string& pattern);
  StatusOr<std::shared_ptr<TokenGrammar>> OfEbnf(const std::string& text);
  StatusOr<std::shared_ptr<TokenGrammar>> OfSchema(const Json& schema);
  StatusOr<std::shared_ptr<TokenGrammar>> OfAnyObject();
  // Of any other grammar; `key` tells it from others.
  StatusOr<std::shared_ptr<TokenGrammar>> Of(const std::string& key,
                                             const std::function<StatusOr<Grammar>()>& compile);

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<TokenGrammar> grammar;
  };

  StatusOr<std::shared_ptr<const Vocabulary>> vocabulary_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // the last used first
};

}  // namespace causeway
