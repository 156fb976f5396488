#include "router/worker_api.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace causeway {
namespace {

using Json = nlohmann::ordered_json;

const char* NameOfHealth(const Worker& worker) {
  switch (worker.health.state()) {
    case WorkerHealth::State::kStarting:
      return "starting";
    case WorkerHealth::State::kUp:
      return "up";
    case WorkerHealth::State::kDown:
      return "down";
  }
  return "unknown";
}

Json Describe(const Worker& worker) {
  Json out = {{"id", worker.id},
              {"url", worker.spec.url},
              {"worker_type", NameOf(worker.spec.type)},
              {"is_healthy", worker.health.up()},
              {"health", NameOfHealth(worker)},
              {"circuit_breaker", NameOf(worker.breaker.state(Deadline::Clock::now()))},
              {"load", worker.requests},
              {"connection_mode", "HTTP"}};
  if (worker.spec.type == WorkerType::kPrefill) {
    out["bootstrap_port"] =
        worker.spec.bootstrap_port ? Json(*worker.spec.bootstrap_port) : Json(nullptr);
  }
  return out;
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

HttpResponse Unknown(const std::string& name) {
  return RouterError(404, "worker_not_found",
                     Text("there is no worker with the id or URL ", name, "; see /workers"));
}

// Fields of SGLang's router that change nothing here.
constexpr std::array kWithoutEffect = {"model_id",        "priority",         "cost",
                                       "labels",          "runtime",          "runtime_type",
                                       "tokenizer_path",  "reasoning_parser", "tool_parser",
                                       "chat_template",   "dp_size",          "dp_rank",
                                       "connection_mode", "metadata"};

StatusOr<WorkerSpec> ReadSpec(const RouterCore& core, const std::string& body) {
  const Json json = Json::parse(body, nullptr, false);
  if (!json.is_object()) return InvalidArgument("the request's body is not a JSON object");
  WorkerSpec spec;
  spec.type = core.options().pd_disaggregation ? WorkerType::kDecode : WorkerType::kRegular;
  bool typed = false;
  for (const auto& [name, value] : json.items()) {
    const auto text = [&, &name = name, &value = value](std::string& out) {
      if (value.is_string()) out = value.get<std::string>();
      return value.is_string()
                 ? Status()
                 : InvalidArgument(Text(name, " is ", Dump(value), "; expected a string"));
    };
    if (name == "url") {
      CAUSEWAY_RETURN_IF_ERROR(text(spec.url));
    } else if (name == "worker_type") {
      std::string type;
      CAUSEWAY_RETURN_IF_ERROR(text(type));
      CAUSEWAY_ASSIGN_OR_RETURN(spec.type, ParseWorkerType(type));
      typed = true;
    } else if (name == "api_key") {
      if (!value.is_null()) CAUSEWAY_RETURN_IF_ERROR(text(spec.api_key));
    } else if (name == "bootstrap_port") {
      if (value.is_null()) continue;
      if (!value.is_number_integer() || value < 1 || value > 65535) {
        return InvalidArgument(
            Text("bootstrap_port is ", Dump(value), "; expected null or 1 to 65535"));
      }
      spec.bootstrap_port = value.get<int>();
    } else if (std::find(kWithoutEffect.begin(), kWithoutEffect.end(), name) ==
               kWithoutEffect.end()) {
      return InvalidArgument(Text("there is no field '", name,
                                  "'; expected url, worker_type, bootstrap_port or api_key"));
    }
  }
  if (spec.url.empty()) return InvalidArgument("url is missing; expected http://HOST:PORT");
  if (spec.api_key.find_first_of("\r\n") != std::string::npos) {
    return InvalidArgument("api_key has a line break");
  }
  if (core.options().pd_disaggregation && !typed) {
    return InvalidArgument("worker_type is missing; expected prefill or decode");
  }
  return spec;
}

}  // namespace

HttpResponse ListWorkers(const RouterCore& core) {
  Json list = Json::array();
  int counts[3] = {0, 0, 0};
  for (const auto& worker : core.workers().all()) {
    list.push_back(Describe(*worker));
    ++counts[static_cast<size_t>(worker->spec.type)];
  }
  const Json out = {{"workers", list},
                    {"total", list.size()},
                    {"stats",
                     {{"prefill_count", counts[static_cast<size_t>(WorkerType::kPrefill)]},
                      {"decode_count", counts[static_cast<size_t>(WorkerType::kDecode)]},
                      {"regular_count", counts[static_cast<size_t>(WorkerType::kRegular)]}}}};
  return {.body = Dump(out)};
}

HttpResponse AddWorker(RouterCore& core, const std::string& body) {
  const StatusOr<WorkerSpec> spec = ReadSpec(core, body);
  const StatusOr<Worker*> worker =
      spec.ok() ? core.AddWorker(*spec) : StatusOr<Worker*>(spec.status());
  if (!worker.ok()) {
    const bool there = worker.status().code() == StatusCode::kUnavailable;
    return there ? RouterError(409, "worker_exists", worker.status().message())
                 : RouterError(400, "invalid_worker", worker.status().message());
  }
  const std::string location = "/workers/" + (*worker)->id;
  const Json out = {{"status", "accepted"},
                    {"worker_id", (*worker)->id},
                    {"url", (*worker)->spec.url},
                    {"location", location},
                    {"message", "it gets requests once its health check is good"}};
  return {.status = 202, .headers = {{"Location", location}}, .body = Dump(out)};
}

HttpResponse ShowWorker(RouterCore& core, const std::string& name) {
  const Worker* worker = core.workers().Find(name);
  if (worker == nullptr) return Unknown(name);
  return {.body = Dump(Describe(*worker))};
}

HttpResponse RemoveWorker(RouterCore& core, const std::string& name) {
  Worker* worker = core.workers().Find(name);
  if (worker == nullptr) return Unknown(name);
  const Json out = {
      {"status", "accepted"},
      {"worker_id", worker->id},
      {"url", worker->spec.url},
      {"message", Text("it gets no more requests; ", worker->requests, " under way may end")}};
  core.RemoveWorker(worker);
  return {.status = 202, .body = Dump(out)};
}

HttpResponse ListUrls(const RouterCore& core) {
  Json urls = Json::array();
  for (const auto& worker : core.workers().all()) urls.push_back(worker->spec.url);
  const Json out = {{"urls", urls}};
  return {.body = Dump(out)};
}

}  // namespace causeway
