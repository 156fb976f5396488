// Finds the calls of tools in the text of an answer, as it comes.
//
//   V3 <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n{...}\n```
//         <｜tool▁call▁end｜> ... <｜tool▁calls▁end｜>
//   V3.1  the same with NAME<｜tool▁sep｜>{...} as the call
//   V3.2  <｜DSML｜function_calls>, then for each call <｜DSML｜invoke name="NAME">, its parameters
//         <｜DSML｜parameter name="KEY" string="true|false">VALUE</｜DSML｜parameter>, and the ends
//
// White space between the marks is free. What does not follow the grammar, names a tool that was
// not offered or has arguments that are no JSON object is content, with its marks: nothing of an
// answer is lost.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "server/string_matcher.h"
#include "text/chat_format.h"

namespace causeway {

enum class ToolCallFormat { kV3, kV31, kV32 };
// SGLang's names: "deepseekv3", "deepseekv31" or "deepseekv32"; an error lists them.
StatusOr<ToolCallFormat> ParseToolCallFormat(const std::string& name);
const char* NameOf(ToolCallFormat format);
// The one that a model writes whose prompts have this format.
ToolCallFormat ToolCallFormatOf(ChatFormat format);

// Whether a special token is part of a call, so that its text must be kept.
bool IsToolMark(std::string_view token);

struct ToolEvent {
  enum class Kind {
    kContent,
    kCall,       // a call begins; the text is its name
    kArguments,  // a piece of the arguments, a JSON object
    kEnd,        // the call is whole
    kBroken,     // it does not become one: its text follows as content
  };
  Kind kind;
  std::string text = {};
  bool operator==(const ToolEvent&) const = default;
};

// The events joined are a function of the whole text, however it is cut in pieces. Time is linear
// in the text.
class ToolCallParser {
 public:
  // `tools`: the names that may be called; none: any.
  ToolCallParser(ToolCallFormat format, std::vector<std::string> tools);

  std::vector<ToolEvent> Push(std::string_view text);
  // At the end of the text.
  std::vector<ToolEvent> Flush();

 private:
  // What comes next. The first four are common, then V3 and V3.1, then V3.2.
  enum class State {
    kContent,
    kSection,    // a call, or the end of the calls
    kCallStart,  // the rest of what stands before the name
    kName,
    kOpen,       // what stands before the arguments
    kBracket,    // their {
    kObject,     // the arguments
    kClose,      // what stands after them
    kParameter,  // a parameter, or the end of the call
    kKey,
    kType,  // true"> or false">
    kString,
    kJson,
  };
  struct Grammar;
  enum class Found { kYes, kNo, kWait };  // kWait: more text decides

  static const Grammar& GrammarOf(ToolCallFormat format);
  // One step; false if it needs more text.
  bool Step();
  bool StepContent();
  bool StepSection();
  bool StepName();
  bool StepBracket();
  bool StepObject();
  bool StepParameter();
  bool StepKey();
  bool StepType();
  bool StepValue();
  // Takes the literals of a list one after the other, then goes to `next`.
  bool StepLiterals(const std::vector<std::string_view>& literals, State next);

  std::string_view rest() const { return std::string_view(pending_).substr(at_); }
  // Takes a literal after white space.
  Found Take(std::string_view literal);
  // Takes the text before `end` and `end` itself, if there is so little of it as names have.
  Found TakeName(std::string_view end, std::string& name);
  void Consume(size_t bytes);
  void Begin();
  void End();
  void Break();
  void Emit(ToolEvent::Kind kind, std::string_view text = {});

  const Grammar& grammar_;
  const std::vector<std::string> tools_;
  State state_ = State::kContent;
  std::vector<ToolEvent> events_;
  std::string pending_;  // text that no step has taken: from at_ on
  size_t at_ = 0;
  std::string raw_;  // what has been taken since the last content or whole call

  StringMatcher marker_;  // of the start of the calls, or the end of a value
  size_t literal_ = 0;    // the next of a list
  std::string name_;
  bool called_ = false;     // there was a whole call since the start of the calls
  bool begun_ = false;      // kCall has been said
  size_t object_at_ = 0;    // in raw_, of the arguments
  int64_t depth_ = 0;       // of brackets in them
  bool in_string_ = false;  // of JSON
  bool after_escape_ = false;
  std::vector<std::string> keys_;  // of the call's parameters
  std::string value_;              // of a parameter that is JSON
};

// Events to whole calls, with empty ids; broken ones leave nothing but their text.
class ToolCallCollector {
 public:
  void Add(const std::vector<ToolEvent>& events);
  const std::string& content() const { return content_; }
  const std::vector<ToolCall>& calls() const { return calls_; }

 private:
  std::string content_;
  std::vector<ToolCall> calls_;
  ToolCall open_;
};

}  // namespace causeway
