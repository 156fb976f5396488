// The inside of HttpServer: the io thread's loop and its connections. Only the server's own files
// include this, since Asio takes long to compile.
#pragma once

#include <utility>  // Asio 1.74 needs it and does not include it

#include <atomic>
#include <boost/asio.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "net/client_socket.h"
#include "net/http_route.h"
#include "net/http_server.h"

namespace causeway {

// Where other threads leave tasks for the io thread.
class IoExecutor::Mailbox {
 public:
  explicit Mailbox(boost::asio::io_context& io) : io_(&io) {}

  void Post(std::function<void()> task);
  void BindToThisThread() { thread_.store(std::this_thread::get_id()); }
  bool OnIoThread() const { return std::this_thread::get_id() == thread_.load(); }
  // Tasks are dropped from now on.
  void Close();

 private:
  std::mutex mutex_;
  boost::asio::io_context* io_;  // guarded by mutex_; null after Close
  std::atomic<std::thread::id> thread_{};
};

// One client. Used on the io thread only.
class HttpConnection {
 public:
  HttpConnection(HttpCore& core, boost::asio::ip::tcp::socket socket, std::string peer);

  // Reads requests; with a `refusal`, answers 503 with that text instead.
  void Start(const std::string& refusal);
  void CheckDeadlines(Deadline::Clock::time_point now);
  void Close();          // at once
  void CloseWhenIdle();  // at once if nothing is owed, else after the answer under way

  // What HttpResponder says about the exchange under way.
  void Send(HttpResponse response);
  void Begin(HttpResponse head);
  void Write(std::string data);
  void End();
  void EndAndClose();
  void Abandon();
  void OnClose(std::function<void()> gone) { on_close_ = std::move(gone); }
  size_t unsent() const { return queued_bytes_; }
  void OnSent(std::function<void()> sent);

 private:
  enum class State { kReading, kExchange, kLingering, kClosed };

  // The TLS handshake, if there is one, and then ReadLoop.
  boost::asio::awaitable<void> Serve(std::string refusal);
  // Runs until the connection ends; waits on resume_ where enough has been read ahead.
  boost::asio::awaitable<void> ReadLoop();
  // Runs until output_ is empty; Queue starts it again.
  boost::asio::awaitable<void> WriteLoop();
  boost::asio::awaitable<void> ShutdownSend();
  void Spawn(boost::asio::awaitable<void> loop);

  // Feeds the parser as far as the state allows.
  void ProcessInput();
  // One request's header is there: false if it has been refused.
  bool AcceptHeader();
  // The parts of AcceptHeader: what the server can't or won't read, and what needs no handler.
  bool AcceptForm();
  bool AcceptRoute(const std::string& method);
  // Time for more of the body, where enough of it has come since the last time.
  void ExtendBodyDeadline(size_t arrived);
  // The whole request is there: begins an exchange and calls the handler.
  void Dispatch();
  void Refuse(int status, const std::string& message, std::vector<HttpHeader> headers = {});
  void RefuseParse(const boost::system::error_code& error);

  // Whether another request may follow the answer under way.
  bool KeepAlive() const;
  // Appends to the output and starts WriteLoop if it does not run.
  void Queue(std::string bytes);
  void QueueResponse(HttpResponse response, bool with_body);
  void AddCors(std::vector<HttpHeader>& headers) const;
  // The answer is complete: reads the next request, or lets the connection end.
  void FinishExchange();
  // No more requests: flush, then wait for the client to close.
  void Linger();

  HttpCore& core_;
  ClientSocket socket_;
  const std::string peer_;
  State state_ = State::kReading;
  int loops_ = 0;  // coroutines that still refer to this
  bool read_ended_ = false;
  bool shut_ = false;  // the sending side has been, or is being, ended
  Deadline::Clock::time_point read_deadline_;
  Deadline::Clock::time_point write_deadline_;

  // Input.
  boost::beast::flat_buffer input_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  size_t body_bytes_ = 0;  // arrived since the deadline was last extended
  RouteMatch match_;
  HttpTarget target_;
  boost::asio::steady_timer resume_;  // cancelled when reading may go on
  bool processing_ = false;

  // The exchange under way, or the request being read.
  uint64_t exchange_ = 0;  // 0: none
  bool client_keep_alive_ = false;
  bool head_only_ = false;
  bool version_11_ = true;
  bool begun_ = false;
  std::function<void()> on_close_;
  std::function<void()> on_sent_;

  // Output.
  std::deque<std::string> output_;
  size_t queued_bytes_ = 0;  // in output_ and in the write under way
  bool writing_ = false;
};

// The io thread and all that it owns.
class HttpCore {
 public:
  explicit HttpCore(const HttpServerOptions& options, std::vector<HttpRoute> routes = {});
  ~HttpCore();
  // Before StartThread.
  void SetRoutes(std::vector<HttpRoute> routes) { routes_ = std::move(routes); }

  // From the owner's thread.
  // listen: else the port is only tried, and nobody can connect.
  Status Bind(bool listen);
  int port() const { return acceptor_.local_endpoint().port(); }
  void StartThread();
  void StartDraining();
  bool Stop(Deadline deadline);
  const IoExecutor& executor() const { return executor_; }

  // On the io thread.
  const HttpServerOptions& options() const { return options_; }
  const std::vector<HttpRoute>& routes() const { return routes_; }
  boost::asio::io_context& io() { return io_; }
  boost::asio::ssl::context* tls() const { return tls_.get(); }  // null: plain TCP
  bool draining() const { return draining_; }                    // answers end their connections
  HttpResponse RenderError(int status, const std::string& message) const;
  // A number for an exchange that begins; none is used twice.
  uint64_t AddExchange(HttpConnection* connection);
  void RemoveExchange(uint64_t exchange) { exchanges_.erase(exchange); }
  HttpConnection* Find(uint64_t exchange) const;  // null: its connection has ended
  void Remove(HttpConnection* connection);
  // A client that has connected.
  void Adopt(boost::asio::ip::tcp::socket socket, std::string peer);

  // For tests without an io thread: binds to the calling thread and runs what can run now.
  void RunReady();
  size_t connections() const { return connections_.size(); }

 private:
  // Until the acceptor is closed.
  boost::asio::awaitable<void> AcceptLoop();
  // Checks the connections' deadlines until the server stops and none is left.
  boost::asio::awaitable<void> SweepLoop();
  void Accept(boost::asio::ip::tcp::socket socket);
  void Drain();

  const HttpServerOptions options_;
  std::unique_ptr<boost::asio::ssl::context> tls_;
  std::vector<HttpRoute> routes_;  // unchanged once the thread runs
  boost::asio::io_context io_{1};
  boost::asio::ip::tcp::acceptor acceptor_{io_};
  boost::asio::steady_timer sweep_{io_};
  bool draining_ = false;
  bool stopping_ = false;
  uint64_t last_exchange_ = 0;
  std::unordered_map<HttpConnection*, std::unique_ptr<HttpConnection>> connections_;
  std::unordered_map<uint64_t, HttpConnection*> exchanges_;
  const std::shared_ptr<IoExecutor::Mailbox> mailbox_ = std::make_shared<IoExecutor::Mailbox>(io_);
  const IoExecutor executor_{mailbox_};
  std::promise<void> ended_;
  std::future<void> has_ended_ = ended_.get_future();
  std::thread thread_;
};

}  // namespace causeway
