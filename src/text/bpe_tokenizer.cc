#include "text/bpe_tokenizer.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/split_pattern.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace causeway {
namespace {

// Text goes through these stages, each cutting what it gets into smaller pieces:
//   added tokens that are not normalised, then those that are -> ids
//   one split pattern after the other
//   byte-pair encoding -> ids
class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(Bpe bpe, TokenizerParts parts)
      : bpe_(std::move(bpe)), splits_(std::move(parts.splits)) {
    size_ = bpe_.size();
    for (AddedToken& token : parts.added) {
      (token.normalized ? normalized_ : plain_).Add(token.text, token.id);
      by_text_.emplace(token.text, token.id);
      size_ = std::max<int64_t>(size_, token.id + 1);
      added_.emplace(token.id, std::move(token));
    }
    // Entries outside the byte-level alphabet never come out of Encode but have a text too.
    for (const BpeModel::Token& token : parts.model.vocabulary)
      if (!ByteLevelDecode(token.text)) by_text_.emplace(token.text, token.id);
  }

  std::vector<int32_t> Encode(std::string_view text, bool parse_special) const override {
    // UTF-8 that is broken becomes U+FFFD first: patterns and merges see sound text only.
    std::string sound;
    AppendUtf8(text, &sound);
    Work work{SplitPattern::Scratch(), {}};
    // A token has about three bytes or more in most texts.
    work.ids.reserve(sound.size() / 3);
    if (parse_special) {
      FindAdded(sound, 0, &work);
    } else {
      Split(sound, 0, &work);
    }
    return std::move(work.ids);
  }

  std::string_view TokenBytes(int32_t id) const override {
    if (const auto token = added_.find(id); token != added_.end()) return token->second.text;
    return bpe_.TokenBytes(id);
  }

  bool IsSpecial(int32_t id) const override {
    const auto token = added_.find(id);
    return token != added_.end() && token->second.special;
  }

  std::optional<int32_t> TokenId(std::string_view text) const override {
    if (const auto id = by_text_.find(std::string(text)); id != by_text_.end()) return id->second;
    return bpe_.Find(text);
  }

  int64_t size() const override { return size_; }

 private:
  struct Work {
    SplitPattern::Scratch scratch;
    std::vector<int32_t> ids;
  };

  void FindAdded(std::string_view text, int pass, Work* work) const {
    // Pass 0 looks for tokens as written, pass 1 for normalised ones, then the rest is split.
    if (pass == 2) return Split(text, 0, work);
    const TokenFinder& finder = pass == 0 ? plain_ : normalized_;
    if (finder.empty()) return FindAdded(text, pass + 1, work);
    size_t from = 0;
    while (const auto match = finder.Find(text, from)) {
      FindAdded(text.substr(from, match->begin - from), pass + 1, work);
      work->ids.push_back(match->id);
      from = match->end;
    }
    FindAdded(text.substr(from), pass + 1, work);
  }

  // Each pattern sees one piece of the pattern before it as a whole text, so that "(?!\S)" holds at
  // the end of a piece.
  void Split(std::string_view piece, size_t step, Work* work) const {
    if (piece.empty()) return;
    if (step == splits_.size()) return bpe_.Encode(piece, &work->ids);
    size_t from = 0, begin = 0, end = 0;
    while (from < piece.size() && splits_[step].Find(piece, from, work->scratch, &begin, &end)) {
      Split(piece.substr(from, begin - from), step + 1, work);
      Split(piece.substr(begin, end - begin), step + 1, work);
      from = end;
    }
    Split(piece.substr(from), step + 1, work);
  }

  Bpe bpe_;
  std::vector<SplitPattern> splits_;
  TokenFinder plain_, normalized_;
  std::unordered_map<int32_t, AddedToken> added_;
  std::unordered_map<std::string, int32_t> by_text_;
  int64_t size_ = 0;
};

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> MakeBpeTokenizer(std::string_view json,
                                                      const std::string& source) {
  CAUSEWAY_ASSIGN_OR_RETURN(TokenizerParts parts, ParseTokenizerJson(json, source));
  CAUSEWAY_ASSIGN_OR_RETURN(Bpe bpe, Bpe::Make(parts.model, source));
  return std::unique_ptr<Tokenizer>(new BpeTokenizer(std::move(bpe), std::move(parts)));
}

}  // namespace causeway
