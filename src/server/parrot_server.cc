// A server for tests with real clients: the API on a ParrotEngine. Never installed.
//
// Usage: parrot_server [CHAT_FORMAT [API_KEY]]     (default v3.2, none)
// Prints its URL and serves until its standard input ends.
#include <cstdio>

#include "server/openai_api.h"
#include "server/parrot_engine.h"
#include "server/parser_api.h"

namespace causeway {
namespace {

Status Serve(const std::string& format_name, const std::string& key) {
  constexpr int64_t kVocabulary = 512;
  constexpr int32_t kBos = 0;
  constexpr int32_t kEos = 1;
  CAUSEWAY_ASSIGN_OR_RETURN(const ChatFormat format, ParseChatFormat(format_name));
  CAUSEWAY_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Bytes(kVocabulary, kBos, kEos));
  const ServedModel model{.name = "parrot",
                          .tokenizer = *tokenizer,
                          .chat_format = format,
                          .context_length = 1 << 20,
                          .vocab_size = kVocabulary,
                          .bos_token = kBos};
  ParrotEngine engine(*tokenizer, kEos);
  ServeMetrics metrics({.model_name = model.name});
  const OpenAiApi api(model, key);
  RequestDesk desk(engine, metrics, {});
  std::vector<HttpRoute> routes = api.Routes(desk);
  for (HttpRoute& route : ParserRoutes(model, ApiKey(key))) routes.push_back(std::move(route));
  HttpServerOptions options;
  options.render_error = &OpenAiApi::RenderError;
  CAUSEWAY_ASSIGN_OR_RETURN(const auto server, HttpServer::Listen(options, std::move(routes)));
  std::printf("%s\n", server->url().c_str());
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  server->Stop(Deadline::AfterMs(1000));
  return Status();
}

}  // namespace
}  // namespace causeway

int main(int argc, char** argv) {
  const causeway::Status status =
      causeway::Serve(argc > 1 ? argv[1] : "v3.2", argc > 2 ? argv[2] : "");
  if (!status.ok()) std::fprintf(stderr, "parrot_server: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
