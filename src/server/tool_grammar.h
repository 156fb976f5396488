// The answers that "tool_choice" can force, as grammars: calls as the model writes them.
#pragma once

#include "grammar/grammar.h"
#include "server/openai_tools.h"
#include "server/tool_call_parser.h"

namespace causeway {

// At least one call of the tools (of the one that is named, exactly one; without parallel calls
// too), with arguments that their schemas accept, and nothing else. Errors say which schema can't
// be honoured, and why.
StatusOr<Grammar> ToolCallGrammar(ToolCallFormat format, const ToolFields& tools);

}  // namespace causeway
