// HTTP/1.0 and 1.1 server: one io thread hands requests to handlers; answers come from any thread.
//
// The life of a connection: it reads a request (idle -> reading), its handler owes an answer
// (exchange), the answer is written, and the next request is read or the connection lingers until
// the client has read everything, and closes. Requests that were sent ahead wait their turn.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "net/http_message.h"

namespace boost::asio {
class io_context;
}

namespace causeway {

// Runs tasks on the server's io thread, in the order of Post. Copies are cheap; it may outlive the
// server, and then drops the tasks.
class IoExecutor {
 public:
  class Mailbox;
  explicit IoExecutor(std::shared_ptr<Mailbox> mailbox) : mailbox_(std::move(mailbox)) {}

  // From any thread; never blocks.
  void Post(std::function<void()> task) const;
  // As Post, but at once if this is the io thread.
  void Run(std::function<void()> task) const;

 private:
  std::shared_ptr<Mailbox> mailbox_;  // shared: handles on other threads may outlive the server
};

class HttpCore;

// The right and duty to answer one request: either Send, or Begin, any number of Write, End. From
// any thread (one at a time); nothing blocks, and after the client has gone all calls are without
// effect. May outlive the server. One that is destroyed before the answer is complete answers 500,
// or cuts the connection if part of the answer has been sent.
class HttpResponder {
 public:
  // Made by the server, one for each request; `exchange` is the request's number there.
  HttpResponder(HttpCore* core, IoExecutor executor, uint64_t exchange)
      : core_(core), executor_(std::move(executor)), exchange_(exchange) {}
  HttpResponder(HttpResponder&& other) noexcept;
  HttpResponder& operator=(HttpResponder&& other) noexcept;
  ~HttpResponder() { Abandon(); }

  // The whole answer, with its Content-Length.
  void Send(HttpResponse response);
  // The body of `head` is ignored.
  void Begin(HttpResponse head);
  // Some more of the body. A client that leaves max_queued_bytes unread is cut off.
  void Write(std::string data);
  void End();
  // As End; the connection ends, too, when the client has read everything.
  void EndAndClose();
  // `gone` runs at most once, as a task of the io thread, when the connection ends (client gone,
  // reads too slowly, server stops) before Send or End, or if that has happened already.
  void OnClose(std::function<void()> gone);
  // On the io thread only: how much of the answer the client has not taken yet; 0 after it has
  // gone.
  size_t unsent() const;
  // `sent` runs at most once, as a task of the io thread, when unsent() has become 0, and not at
  // all once the connection has ended (see OnClose).
  void OnSent(std::function<void()> sent);
  // Kept until the answer is complete, or this is destroyed.
  void Hold(std::shared_ptr<void> lease) { lease_ = std::move(lease); }
  const IoExecutor& executor() const { return executor_; }

 private:
  void Abandon();

  HttpCore* core_;  // touched on the io thread only; null: nothing is owed any more
  IoExecutor executor_;
  uint64_t exchange_;
  std::shared_ptr<void> lease_ = nullptr;
};

// Called on the io thread; must not block.
using HttpHandler = std::function<void(HttpRequest, HttpResponder)>;

struct HttpRoute {
  std::string method;  // "GET", "POST", ...
  std::string path;    // exact, or "/prefix/*"; exact ones win
  HttpHandler handler;
};

struct HttpServerOptions {
  std::string host = "127.0.0.1";  // a name or an address, IPv4 or IPv6
  int port = 0;                    // 0: any free one
  size_t max_connections = 4096;   // more get 503
  uint64_t max_header_bytes = 64 << 10;
  size_t max_headers = 100;
  size_t max_target_bytes = 8 << 10;  // path and query
  uint64_t max_body_bytes = 64 << 20;
  int64_t idle_timeout_ms = 75'000;    // between requests
  int64_t header_timeout_ms = 15'000;  // for a header to arrive in whole, and for a TLS handshake
  int64_t read_timeout_ms = 60'000;    // for a body, and once more for each MiB that has arrived
  int64_t write_timeout_ms = 30'000;   // for 256 KiB of answer to be taken by the client
  size_t max_queued_bytes = 4 << 20;   // of a stream whose client reads too slowly; then it is cut
  // PEM files; both or none. With them the server speaks TLS only.
  std::string tls_certificate_file = "";
  std::string tls_key_file = "";
  std::string tls_key_password = "";
  // Whose scripts browsers let read the answers: an origin or "*"; empty: nobody's.
  std::string cors_origin = "";
  // The body of errors that the server itself answers (400, 404, 405, 408, 413, 414, 415, 417, 431,
  // 500, 501, 503); if empty, plain text.
  std::function<HttpResponse(int status, const std::string& message)> render_error = {};
};

class HttpServer {
 public:
  // Whether Listen would work, as far as that can be known; nobody can connect meanwhile.
  static Status CanListen(const HttpServerOptions& options);
  // Listens and starts the io thread. Errors name --host and --port.
  static StatusOr<std::unique_ptr<HttpServer>> Listen(const HttpServerOptions& options,
                                                      std::vector<HttpRoute> routes);
  // The same with handlers that have work of their own on the io thread. `make_routes` runs before
  // that thread starts. Stop waits for all work of the thread: it must end with the connections.
  static StatusOr<std::unique_ptr<HttpServer>> ListenWithIo(
      const HttpServerOptions& options,
      const std::function<std::vector<HttpRoute>(boost::asio::io_context&)>& make_routes);
  ~HttpServer();

  int port() const { return port_; }
  const std::string& url() const { return url_; }  // "http://127.0.0.1:30000", "http://[::1]:80"
  IoExecutor executor() const;

  // Connections end after their next answer from now on, idle ones at once. New ones are still
  // accepted, so that whoever asks can be told that the server is going away.
  void StartDraining();
  // No new connections, then waits for the answers under way; what is left at the deadline is cut.
  // False if something was. Ends the io thread; later calls do nothing.
  bool Stop(Deadline deadline);

 private:
  HttpServer() = default;

  std::unique_ptr<HttpCore> core_;
  int port_ = 0;
  std::string url_;
};

}  // namespace causeway
