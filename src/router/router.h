// The router as a server: it listens, keeps workers in sight and passes requests on, all on one io
// thread.
#pragma once

#include <memory>
#include <string>

#include "base/deadline.h"
#include "base/status.h"
#include "router/router_core.h"

namespace causeway {

class Router {
 public:
  // Listens and starts. Errors name the flag.
  static StatusOr<std::unique_ptr<Router>> Start(const RouterOptions& options);
  ~Router();

  const std::string& url() const { return server_->url(); }
  int port() const { return server_->port(); }
  IoExecutor executor() const { return server_->executor(); }

  // Answers /metrics on another server, such as one with a port of its own. That one must end
  // first.
  HttpHandler MetricsHandler() const;
  // New requests get 503 from now on, and connections end after their next answer.
  void StartDraining();
  // Requests under way; waits for the io thread.
  int64_t UnderWay() const;
  // Requests under way may go on until the deadline, then they are cut. False if some were.
  bool Stop(Deadline deadline);

 private:
  Router() = default;

  // The core's sockets belong to the server's io_context: the core goes first.
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<RouterCore> core_;
  bool stopped_ = false;
};

}  // namespace causeway
