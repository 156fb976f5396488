// Workers whose every word a test says, a router before them, and clients of it.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "net/http_client.h"
#include "net/http_server.h"
#include "router/router.h"

namespace causeway {

inline Deadline Soon() { return Deadline::AfterMs(15'000); }

// Polls until `done`; false if it never is.
template <typename Condition>
bool Eventually(const Condition& done) {
  const Deadline deadline = Soon();
  while (!done()) {
    if (deadline.Passed()) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

// A request that a worker has, for the test to answer.
struct HeldRequest {
  HttpRequest request;
  HttpResponder responder;
  std::shared_ptr<std::atomic<bool>> gone = std::make_shared<std::atomic<bool>>(false);

  nlohmann::json body() const { return nlohmann::json::parse(request.body, nullptr, false); }
  void Send(int status, const std::string& text) {
    responder.Send({.status = status, .body = text});
  }
  void BeginStream() { responder.Begin({.content_type = "text/event-stream"}); }
  // The connection ends in the midst of the answer, after its head at the earliest: one that ends
  // without a byte may be a kept one that was closed, and then the request may come again.
  void Die() {
    responder.Begin({.content_type = "application/json"});
    auto sent = std::make_shared<std::atomic<bool>>(false);
    responder.OnSent([sent] { sent->store(true); });
    EXPECT_TRUE(Eventually([&] { return sent->load() || gone->load(); }));
    const HttpResponder dropped = std::move(responder);
  }
  bool WaitForGone() {
    return Eventually([this] { return gone->load(); });
  }
};

// Answers all but requests to generate by itself.
class ScriptedWorker {
 public:
  explicit ScriptedWorker(HttpServerOptions options = {}) {
    std::vector<HttpRoute> routes;
    for (const char* path : {"/generate", "/v1/chat/completions", "/v1/completions", "/tokenize"}) {
      routes.push_back({"POST", path, [this](HttpRequest request, HttpResponder responder) {
                          Hold(std::move(request), std::move(responder));
                        }});
    }
    const auto fixed = [&](const char* method, const char* path, const char* body) {
      routes.push_back({method, path, [this, body](HttpRequest request, HttpResponder responder) {
                          Note(request);
                          responder.Send({.status = health.load(), .body = body});
                        }});
    };
    fixed("GET", "/health", "");
    fixed("GET", "/health_generate", "");
    fixed("GET", "/v1/models", R"({"object":"list","data":[{"id":"m","object":"model"}]})");
    fixed("GET", "/get_model_info", R"({"model_path":"m"})");
    fixed("GET", "/get_server_info", R"({"internal_states":[{"x":1}]})");
    fixed("GET", "/get_load", R"([{"dp_rank":0,"num_reqs":2,"num_tokens":30}])");
    fixed("GET", "/metrics", "# TYPE sglang:a counter\nsglang:a 1\n");
    fixed("POST", "/flush_cache", "");
    fixed("POST", "/abort_request", "");
    StatusOr<std::unique_ptr<HttpServer>> server = HttpServer::Listen(options, std::move(routes));
    EXPECT_TRUE(server.ok()) << server.status().message();
    server_ = std::move(server).value();
  }
  ~ScriptedWorker() { Stop(); }
  // Refuses connections from now on.
  void Stop() {
    if (server_) server_->Stop(Deadline::AfterMs(0));
    const std::lock_guard lock(mutex_);
    held_.clear();
  }

  std::atomic<int> health{200};  // the status of all that it answers by itself

  const std::string& url() const { return server_->url(); }
  // The next request, when it has come.
  HeldRequest Take() {
    std::unique_lock lock(mutex_);
    const bool came = changed_.wait_until(lock, Soon().at(), [this] { return !held_.empty(); });
    EXPECT_TRUE(came) << "no request came to " << server_->url();
    if (!came) throw std::runtime_error("no request came");
    HeldRequest out = std::move(held_.front());
    held_.pop_front();
    return out;
  }
  size_t waiting() const {
    const std::lock_guard lock(mutex_);
    return held_.size();
  }
  // "GET /health" of all that it has answered by itself.
  int Count(const std::string& what) const {
    const std::lock_guard lock(mutex_);
    return static_cast<int>(std::count(noted_.begin(), noted_.end(), what));
  }
  std::string last_authorization() const {
    const std::lock_guard lock(mutex_);
    return last_authorization_;
  }

 private:
  void Hold(HttpRequest request, HttpResponder responder) {
    HeldRequest held{.request = std::move(request), .responder = std::move(responder)};
    held.responder.OnClose([gone = held.gone] { gone->store(true); });
    const std::lock_guard lock(mutex_);
    held_.push_back(std::move(held));
    changed_.notify_all();
  }
  void Note(const HttpRequest& request) {
    const std::lock_guard lock(mutex_);
    noted_.push_back(request.method + " " + request.path);
    const std::string* header = FindHeader(request.headers, "authorization");
    last_authorization_ = header != nullptr ? *header : "";
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<HeldRequest> held_;
  std::vector<std::string> noted_;
  std::string last_authorization_;
  std::unique_ptr<HttpServer> server_;
};

// Options whose times fit tests.
inline RouterOptions FastOptions() {
  RouterOptions out;
  out.policy = "round_robin";
  out.retry.initial_backoff_ms = 1;
  out.health.interval_ms = 60;
  out.health.retry_interval_ms = 60;
  out.log_requests = false;
  return out;
}

// A router that serves when its constructor returns.
class RouterFixture {
 public:
  explicit RouterFixture(const RouterOptions& options, bool wait = true) {
    StatusOr<std::unique_ptr<Router>> router = Router::Start(options);
    EXPECT_TRUE(router.ok()) << router.status().message();
    router_ = std::move(router).value();
    if (wait && !options.workers.empty()) {
      const size_t count = options.workers.size();
      const bool ready = Eventually([&] {
        const auto json = nlohmann::json::parse(Get("/readiness").body, nullptr, false);
        return json.value("healthy_workers", size_t{0}) == count;
      });
      EXPECT_TRUE(ready) << Get("/workers").body;
    }
  }

  Router& router() { return *router_; }
  HttpClient Connect() {
    StatusOr<HttpClient> client = HttpClient::Connect("127.0.0.1", router_->port(), Soon());
    EXPECT_TRUE(client.ok()) << client.status().message();
    return std::move(client).value();
  }
  HttpReply Call(std::string_view method, std::string_view target, std::string_view body = "",
                 const std::vector<HttpHeader>& headers = {}) {
    HttpClient client = Connect();
    StatusOr<HttpReply> reply = client.Call(method, target, body, Soon(), headers);
    EXPECT_TRUE(reply.ok()) << reply.status().message();
    return reply.ok() ? *reply : HttpReply();
  }
  HttpReply Get(std::string_view target) { return Call("GET", target); }
  // A request whose answer the test reads itself.
  HttpClient Post(std::string_view target, std::string_view body,
                  std::vector<HttpHeader> headers = {}) {
    HttpClient client = Connect();
    const Status sent =
        client.SendBytes(FormatRequest("POST", target, "router", headers, body), Soon());
    EXPECT_TRUE(sent.ok()) << sent.message();
    return client;
  }

 private:
  std::unique_ptr<Router> router_;
};

// The rest of an answer whose head has been read.
inline std::string ReadToEnd(HttpClient& client) {
  std::string out;
  for (;;) {
    const StatusOr<std::string> piece = client.ReadBody(Soon());
    if (!piece.ok()) return out + "<" + piece.status().message() + ">";
    if (piece->empty()) return out;
    out += *piece;
  }
}

inline HttpReply ReadReply(HttpClient& client) {
  StatusOr<HttpReply> head = client.ReadHead(Soon());
  EXPECT_TRUE(head.ok()) << head.status().message();
  if (!head.ok()) return {};
  head->body = ReadToEnd(client);
  return *head;
}

// Body bytes until `end` stands at their end.
inline std::string ReadUntil(HttpClient& client, std::string_view end) {
  std::string out;
  while (!out.ends_with(end)) {
    const StatusOr<std::string> piece = client.ReadBody(Soon());
    EXPECT_TRUE(piece.ok()) << piece.status().message() << " after " << out;
    if (!piece.ok() || piece->empty()) break;
    out += *piece;
  }
  return out;
}

}  // namespace causeway
