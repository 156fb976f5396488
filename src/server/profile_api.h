// /start_profile and /stop_profile, as SGLang has them.
#pragma once

#include <string>
#include <vector>

#include "engine/request.h"
#include "net/http_server.h"
#include "server/api_key.h"

namespace causeway {

class ProfileApi {
 public:
  // Profiles of requests that name no output_dir go to `default_dir`. `engine` must outlive this.
  ProfileApi(RequestSink& engine, ApiKey api_key, std::string default_dir);

  // For HttpServer::Listen. The handlers refer to this object, run on the io thread and ask for the
  // API key where there is one.
  std::vector<HttpRoute> Routes() const;

 private:
  void Start(const HttpRequest& request, HttpResponder responder) const;
  void Stop(HttpResponder responder) const;

  RequestSink& engine_;
  const ApiKey key_;
  const std::string default_dir_;
};

}  // namespace causeway
