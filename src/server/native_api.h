// SGLang's native HTTP API: /generate and what its clients and operators ask for around it.
#pragma once

#include <string>
#include <vector>

#include "net/http_server.h"
#include "server/api_key.h"
#include "server/json.h"
#include "server/request_desk.h"
#include "server/request_fields.h"

namespace causeway {

struct NativeOptions {
  ApiKey api_key;
  std::string model_path;
  std::string tokenizer_path;
  std::string model_type;  // of the checkpoint's config.json
  int64_t vocab_size = 0;
  std::string version;
  // The flags and what automatic ones came to, by SGLang's names: part of /server_info.
  Json server_args = Json::object();
  double weight_gb = 0;
  double kv_cache_gb = 0;
  bool enable_metrics = false;  // whether there is a /metrics
};

// Lives longer than the desk that has its requests.
class NativeApi {
 public:
  NativeApi(const ServedModel& model, NativeOptions options);

  // /generate, /abort_request, /flush_cache, /health_generate, /model_info, /server_info, both also
  // with get_ in front, /get_load, /v1/loads, and /metrics if that is enabled.
  // For HttpServer::Listen. The handlers refer to this object and to the desk and run on the io
  // thread. All but /health_generate and /metrics ask for the API key where there is one.
  std::vector<HttpRoute> Routes(RequestDesk& desk) const;

 private:
  RequestDesk::Intake GenerateIntake() const;
  RequestDesk::Intake ProbeIntake() const;

  Json ModelInfo() const;
  Json ServerInfo(RequestDesk& desk) const;
  // The handlers of the routes.
  static void Abort(RequestDesk& desk, const HttpRequest& request, HttpResponder responder);
  void Loads(RequestDesk& desk, const HttpRequest& request, HttpResponder responder) const;
  Json Load(RequestDesk& desk) const;

  const ServedModel model_;
  const NativeOptions options_;
  const ApiKey key_;
  const RequestDesk::Intake generate_;
  const RequestDesk::Intake probe_;
};

}  // namespace causeway
