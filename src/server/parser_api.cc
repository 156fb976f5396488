#include "server/parser_api.h"

#include "server/native_reply.h"
#include "server/openai_tools.h"

namespace causeway {
namespace {

constexpr size_t kMaxBytes = 1 << 20;

// The value of a field that names a parser, or what the server uses itself.
template <typename Format>
void ReadFormat(FieldReader& fields, const char* field,
                StatusOr<Format> (*parse)(const std::string&), Format& out) {
  std::string name;
  if (!fields.String(field, name)) return;
  const StatusOr<Format> found = parse(name);
  if (found.ok()) {
    out = *found;
  } else {
    fields.Fail(field, found.status().message());
  }
}

std::string ReadText(FieldReader& fields) {
  std::string text;
  if (!fields.String("text", text)) fields.Fail("text", "text is missing");
  return text;
}

Json ParseFunctionCall(FieldReader& fields, FirstError& error, ToolCallFormat format) {
  const std::string text = ReadText(fields);
  ToolFields tools;
  ReadToolList(fields, error, tools);
  ReadFormat(fields, "tool_call_parser", &ParseToolCallFormat, format);
  fields.Finish();
  if (!error.ok()) return {};
  ToolCallParser parser(format, tools.names);
  ToolCallCollector collector;
  collector.Add(parser.Push(text));
  collector.Add(parser.Flush());
  Json calls = Json::array();
  for (const ToolCall& call : collector.calls()) {
    calls.push_back(
        {{"tool_index", calls.size()}, {"name", call.name}, {"parameters", call.arguments}});
  }
  return {{"normal_text", collector.content()}, {"calls", std::move(calls)}};
}

Json SeparateReasoning(FieldReader& fields, const FirstError& error, ReasoningFormat format) {
  const std::string text = ReadText(fields);
  ReadFormat(fields, "reasoning_parser", &ParseReasoningFormat, format);
  fields.Finish();
  if (!error.ok()) return {};
  // A text has no prompt: as V3's answer it reasons if it says so.
  ReasoningParser parser(StartOfAnswer(format, /*thinking=*/true, /*prompt=*/""));
  TextPiece piece = parser.Push(text);
  piece.Append(parser.Flush());
  return {{"reasoning_text", piece.reasoning}, {"text", piece.content}};
}

// Body to answer, whatever `read` makes of the fields.
HttpHandler Handler(std::function<Json(FieldReader&, FirstError&)> read) {
  return [read = std::move(read)](const HttpRequest& request, HttpResponder responder) {
    if (request.body.size() > kMaxBytes) {
      responder.Send(
          NativeErrorResponse({.http_status = 413,
                               .message = Text("the body has ", request.body.size(),
                                               " bytes; expected at most ", kMaxBytes)}));
      return;
    }
    const StatusOr<Json> json = ParseOrderedJson(request.body, "the request's body");
    if (!json.ok()) {
      responder.Send(NativeErrorResponse(ToApiError(json.status())));
      return;
    }
    FirstError error;
    FieldReader fields(*json, "", error);
    const Json answer = read(fields, error);
    if (error.ok()) {
      responder.Send({.body = Dump(answer)});
    } else {
      responder.Send(NativeErrorResponse(*error.get()));
    }
  };
}

}  // namespace

std::vector<HttpRoute> ParserRoutes(const ServedModel& model, const ApiKey& key) {
  const ToolCallFormat calls = model.tool_call_format;
  const ReasoningFormat reasoning = model.reasoning_format;
  return {{"POST", "/parse_function_call",
           key.Guard(Handler([calls](FieldReader& fields, FirstError& error) {
             return ParseFunctionCall(fields, error, calls);
           }))},
          {"POST", "/separate_reasoning",
           key.Guard(Handler([reasoning](FieldReader& fields, FirstError& error) {
             return SeparateReasoning(fields, error, reasoning);
           }))}};
}

}  // namespace causeway
