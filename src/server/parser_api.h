// SGLang's endpoints that divide a text as answers are divided: /parse_function_call and
// /separate_reasoning.
#pragma once

#include <vector>

#include "net/http_server.h"
#include "server/api_key.h"
#include "server/request_fields.h"

namespace causeway {

// For HttpServer::Listen. They run on the io thread, so that texts above 1 MiB are refused.
std::vector<HttpRoute> ParserRoutes(const ServedModel& model, const ApiKey& key);

}  // namespace causeway
