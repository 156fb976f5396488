// Requests that concern all workers: each is asked at once, and the answers become one.
#pragma once

#include "router/router_core.h"

namespace causeway {

// A handler that needs to wait, run on the io thread.
using AsyncHandler = boost::asio::awaitable<HttpResponse> (*)(RouterCore&, const HttpRequest&);
void StartHandler(AsyncHandler handler, ClientCall call);

// /v1/models: the models of all workers, each once.
boost::asio::awaitable<HttpResponse> AnswerModels(RouterCore& core, const HttpRequest& request);
// /model_info: that of the first worker that answers.
boost::asio::awaitable<HttpResponse> AnswerModelInfo(RouterCore& core, const HttpRequest& request);
// /server_info: {"internal_states": [...], "prefill": [...], "decode": [...], "regular": [...]}.
boost::asio::awaitable<HttpResponse> AnswerServerInfo(RouterCore& core, const HttpRequest& request);
// /get_loads: {"workers": [{"worker": ..., "load": tokens, ...}]}.
boost::asio::awaitable<HttpResponse> AnswerLoads(RouterCore& core, const HttpRequest& request);
// /flush_cache.
boost::asio::awaitable<HttpResponse> AnswerFlush(RouterCore& core, const HttpRequest& request);
// /abort_request.
boost::asio::awaitable<HttpResponse> AnswerAbort(RouterCore& core, const HttpRequest& request);
// /health_generate: every worker makes a token.
boost::asio::awaitable<HttpResponse> AnswerHealthGenerate(RouterCore& core,
                                                          const HttpRequest& request);
// /engine_metrics: those of all workers.
boost::asio::awaitable<HttpResponse> AnswerEngineMetrics(RouterCore& core,
                                                         const HttpRequest& request);

}  // namespace causeway
