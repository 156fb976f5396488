// /workers: the router's workers, which can be added and removed at run time.
#pragma once

#include "router/router_core.h"

namespace causeway {

HttpResponse ListWorkers(const RouterCore& core);
// {"url": ..., "worker_type": ..., "bootstrap_port": ..., "api_key": ...}
HttpResponse AddWorker(RouterCore& core, const std::string& body);
// By id or URL.
HttpResponse ShowWorker(RouterCore& core, const std::string& name);
HttpResponse RemoveWorker(RouterCore& core, const std::string& name);
// {"urls": [...]}
HttpResponse ListUrls(const RouterCore& core);

}  // namespace causeway
