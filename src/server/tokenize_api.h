// SGLang's endpoints between text and token ids: /v1/tokenize and /v1/detokenize, also without /v1.
#pragma once

#include <vector>

#include "net/http_server.h"
#include "server/api_key.h"
#include "server/request_desk.h"
#include "server/request_fields.h"

namespace causeway {

// Lives longer than the desk that has its requests.
class TokenizeApi {
 public:
  TokenizeApi(const ServedModel& model, ApiKey key);

  // For HttpServer::Listen; the work is done on the desk's text thread.
  std::vector<HttpRoute> Routes(RequestDesk& desk) const;

 private:
  const ServedModel model_;
  const ApiKey key_;
  // As log and metrics name them.
  const RequestDesk::Intake tokenize_;
  const RequestDesk::Intake detokenize_;
};

}  // namespace causeway
