// The io thread: it accepts, runs the connections' coroutines and what other threads post to it,
// and nobody else touches a connection. Other threads hold an HttpResponder or the HttpServer,
// whose calls become tasks; only Stop() waits.
#include <algorithm>
#include <cstdio>

#include "net/http_core.h"

namespace causeway {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr size_t kRefusedConnections = 64;  // beyond max_connections, while they read their 503
constexpr int64_t kAcceptRetryMs = 100;     // after an error such as too many open files

auto Into(error_code& ec) { return asio::redirect_error(asio::use_awaitable, ec); }

std::string HostAndPort(const std::string& host, int port) {
  const bool v6 = host.find(':') != std::string::npos;
  return Text(v6 ? "[" : "", host, v6 ? "]" : "", ":", port);
}

}  // namespace

void IoExecutor::Post(std::function<void()> task) const { mailbox_->Post(std::move(task)); }

void IoExecutor::Run(std::function<void()> task) const {
  if (mailbox_->OnIoThread()) {
    task();
  } else {
    mailbox_->Post(std::move(task));
  }
}

void IoExecutor::Mailbox::Post(std::function<void()> task) {
  // Under the lock: once Close() has returned nobody is inside, and the io_context may go.
  const std::lock_guard lock(mutex_);
  if (io_ != nullptr) asio::post(*io_, std::move(task));
}

void IoExecutor::Mailbox::Close() {
  const std::lock_guard lock(mutex_);
  io_ = nullptr;
  thread_.store({});  // the system may give the thread's id to another
}

// HttpResponder: each call becomes a task that looks its connection up, since that may have ended.

HttpResponder::HttpResponder(HttpResponder&& other) noexcept
    : core_(std::exchange(other.core_, nullptr)),
      executor_(other.executor_),
      exchange_(other.exchange_),
      lease_(std::move(other.lease_)) {}

HttpResponder& HttpResponder::operator=(HttpResponder&& other) noexcept {
  if (this == &other) return *this;
  Abandon();
  core_ = std::exchange(other.core_, nullptr);
  executor_ = other.executor_;
  exchange_ = other.exchange_;
  lease_ = std::move(other.lease_);
  return *this;
}

void HttpResponder::Send(HttpResponse response) {
  // The duty is done: Abandon, from the destructor, finds nothing to do.
  HttpCore* core = std::exchange(core_, nullptr);
  if (core == nullptr) return;
  lease_.reset();  // first: who gets the answer may ask again at once
  executor_.Run([core, id = exchange_, response = std::move(response)]() mutable {
    if (HttpConnection* connection = core->Find(id)) connection->Send(std::move(response));
  });
}

void HttpResponder::Begin(HttpResponse head) {
  if (core_ == nullptr) return;
  executor_.Run([core = core_, id = exchange_, head = std::move(head)] {
    if (HttpConnection* connection = core->Find(id)) connection->Begin(head);
  });
}

void HttpResponder::Write(std::string data) {
  if (core_ == nullptr) return;
  executor_.Run([core = core_, id = exchange_, data = std::move(data)]() mutable {
    if (HttpConnection* connection = core->Find(id)) connection->Write(std::move(data));
  });
}

void HttpResponder::End() {
  HttpCore* core = std::exchange(core_, nullptr);
  if (core == nullptr) return;
  lease_.reset();
  executor_.Run([core, id = exchange_] {
    if (HttpConnection* connection = core->Find(id)) connection->End();
  });
}

void HttpResponder::EndAndClose() {
  HttpCore* core = std::exchange(core_, nullptr);
  if (core == nullptr) return;
  lease_.reset();
  executor_.Run([core, id = exchange_] {
    if (HttpConnection* connection = core->Find(id)) connection->EndAndClose();
  });
}

size_t HttpResponder::unsent() const {
  const HttpConnection* connection = core_ == nullptr ? nullptr : core_->Find(exchange_);
  return connection == nullptr ? 0 : connection->unsent();
}

void HttpResponder::OnSent(std::function<void()> sent) {
  if (core_ == nullptr) return;
  executor_.Run([core = core_, id = exchange_, sent = std::move(sent)]() mutable {
    if (HttpConnection* connection = core->Find(id)) connection->OnSent(std::move(sent));
  });
}

void HttpResponder::Abandon() {
  HttpCore* core = std::exchange(core_, nullptr);
  if (core == nullptr) return;
  lease_.reset();
  executor_.Run([core, id = exchange_] {
    if (HttpConnection* connection = core->Find(id)) connection->Abandon();
  });
}

void HttpResponder::OnClose(std::function<void()> gone) {
  if (core_ == nullptr) return;
  executor_.Run([core = core_, id = exchange_, gone = std::move(gone)]() mutable {
    if (HttpConnection* connection = core->Find(id)) {
      connection->OnClose(std::move(gone));
    } else {
      // The connection has ended already: said by a task, as for one that ends later.
      asio::post(core->io(), std::move(gone));
    }
  });
}

HttpCore::HttpCore(const HttpServerOptions& options, std::vector<HttpRoute> routes)
    : options_(options), routes_(std::move(routes)) {}

HttpCore::~HttpCore() {
  // Joins the thread: nothing runs any more when the members go.
  if (thread_.joinable()) Stop(Deadline::AfterMs(0));
  mailbox_->Close();
}

Status HttpCore::Bind(bool listen) {
  const auto failed = [this](const error_code& ec) {
    return Unavailable(Text("can't listen on ", HostAndPort(options_.host, options_.port),
                            " (--host, --port): ", ec.message()));
  };
  if (options_.port < 0 || options_.port > 65535) {
    return InvalidArgument(Text("--port is ", options_.port, "; expected 0 to 65535"));
  }
  if (!options_.tls_certificate_file.empty() || !options_.tls_key_file.empty()) {
    CAUSEWAY_ASSIGN_OR_RETURN(tls_,
                              MakeTlsContext(options_.tls_certificate_file, options_.tls_key_file,
                                             options_.tls_key_password));
  }
  error_code ec;
  tcp::resolver resolver(io_);
  const auto found = resolver.resolve(options_.host, std::to_string(options_.port),
                                      tcp::resolver::passive | tcp::resolver::numeric_service, ec);
  if (ec) return failed(ec);
  // Only the first address of a name is listened at.
  const tcp::endpoint endpoint = found.begin()->endpoint();
  acceptor_.open(endpoint.protocol(), ec);
  // A restarted server must not wait until the old one's connections have timed out.
  if (!ec) acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) acceptor_.bind(endpoint, ec);
  if (!ec && listen) acceptor_.listen(asio::socket_base::max_listen_connections, ec);
  return ec ? failed(ec) : Status();
}

void HttpCore::StartThread() {
  asio::co_spawn(io_, AcceptLoop(), asio::detached);
  asio::co_spawn(io_, SweepLoop(), asio::detached);
  thread_ = std::thread([this] {
    mailbox_->BindToThisThread();
    for (bool ended = false; !ended;) {
      try {
        io_.run();
        ended = true;
      } catch (const std::exception& failure) {  // of one task, such as no memory: the rest go on
        std::fprintf(stderr, "event=io_task_failed error=\"%s\"\n", failure.what());
      }
    }
    ended_.set_value();
  });
}

asio::awaitable<void> HttpCore::AcceptLoop() {
  asio::steady_timer retry(io_);
  while (acceptor_.is_open()) {
    error_code ec;
    tcp::socket socket = co_await acceptor_.async_accept(Into(ec));
    if (!ec) {
      try {
        Accept(std::move(socket));
      } catch (const std::bad_alloc&) {  // this client is dropped, the next may fit
      }
    } else if (acceptor_.is_open()) {
      retry.expires_after(std::chrono::milliseconds(kAcceptRetryMs));
      co_await retry.async_wait(Into(ec));
    }
  }
}

void HttpCore::Accept(tcp::socket socket) {
  error_code ec;
  const tcp::endpoint peer = socket.remote_endpoint(ec);
  if (ec) return;  // gone already
  Adopt(std::move(socket), HostAndPort(peer.address().to_string(), peer.port()));
}

void HttpCore::Adopt(tcp::socket socket, std::string peer) {
  // Somewhat beyond the limit, connections are taken to tell them 503; past that the socket is
  // closed here without a word.
  if (connections_.size() >= options_.max_connections + kRefusedConnections) return;
  const bool full = connections_.size() >= options_.max_connections;
  auto connection = std::make_unique<HttpConnection>(*this, std::move(socket), std::move(peer));
  HttpConnection* raw = connection.get();
  connections_[raw] = std::move(connection);
  raw->Start(full ? Text("the server has ", options_.max_connections,
                         " connections, its limit; try again later")
                  : "");
}

asio::awaitable<void> HttpCore::SweepLoop() {
  // Late by at most a quarter of the shortest time-out, half a second at most.
  const int64_t shortest = std::min({options_.idle_timeout_ms, options_.header_timeout_ms,
                                     options_.read_timeout_ms, options_.write_timeout_ms});
  const std::chrono::milliseconds interval(
      std::clamp<int64_t>(shortest / 4, int64_t{10}, int64_t{500}));
  // Until the last connection has ended: nobody else checks deadlines.
  while (!(stopping_ && connections_.empty())) {
    error_code ignored;
    sweep_.expires_after(interval);
    co_await sweep_.async_wait(Into(ignored));
    const auto now = Deadline::Clock::now();
    for (const auto& [connection, owned] : connections_) connection->CheckDeadlines(now);
  }
}

HttpResponse HttpCore::RenderError(int status, const std::string& message) const {
  if (options_.render_error) return options_.render_error(status, message);
  return {.status = status, .content_type = "text/plain", .body = message + "\n"};
}

uint64_t HttpCore::AddExchange(HttpConnection* connection) {
  exchanges_[++last_exchange_] = connection;
  return last_exchange_;
}

HttpConnection* HttpCore::Find(uint64_t exchange) const {
  const auto found = exchanges_.find(exchange);
  return found == exchanges_.end() ? nullptr : found->second;
}

void HttpCore::Remove(HttpConnection* connection) {
  connections_.erase(connection);
  // The loop would sleep out its interval before io_.run() could return.
  if (stopping_ && connections_.empty()) sweep_.cancel();
}

void HttpCore::Drain() {
  draining_ = true;
  // Only closes sockets. Connections leave the map later, when their loops have ended, so that it
  // does not change under this loop.
  for (const auto& [connection, owned] : connections_) connection->CloseWhenIdle();
}

void HttpCore::StartDraining() {
  executor_.Post([this] { Drain(); });
}

void HttpCore::RunReady() {
  mailbox_->BindToThisThread();
  io_.restart();
  io_.poll();
}

bool HttpCore::Stop(Deadline deadline) {
  if (!thread_.joinable()) return true;
  executor_.Post([this] {
    stopping_ = true;
    error_code ignored;
    acceptor_.close(ignored);
    Drain();
    if (connections_.empty()) sweep_.cancel();
  });
  const bool in_time = has_ended_.wait_until(deadline.at()) == std::future_status::ready;
  // With their sockets closed the loops end by themselves, and with them io_.run().
  if (!in_time) {
    executor_.Post([this] {
      for (const auto& [connection, owned] : connections_) connection->Close();
    });
  }
  thread_.join();  // nothing is left to wait for
  return in_time;
}

Status HttpServer::CanListen(const HttpServerOptions& options) {
  return HttpCore(options).Bind(/*listen=*/false);
}

StatusOr<std::unique_ptr<HttpServer>> HttpServer::Listen(const HttpServerOptions& options,
                                                         std::vector<HttpRoute> routes) {
  return ListenWithIo(options, [&routes](asio::io_context&) { return std::move(routes); });
}

StatusOr<std::unique_ptr<HttpServer>> HttpServer::ListenWithIo(
    const HttpServerOptions& options,
    const std::function<std::vector<HttpRoute>(asio::io_context&)>& make_routes) {
  std::unique_ptr<HttpServer> server(new HttpServer);
  server->core_ = std::make_unique<HttpCore>(options);
  CAUSEWAY_RETURN_IF_ERROR(server->core_->Bind(/*listen=*/true));
  server->core_->SetRoutes(make_routes(server->core_->io()));
  // In this order: once the thread runs, the acceptor is its own.
  server->port_ = server->core_->port();
  server->url_ = (options.tls_certificate_file.empty() ? "http://" : "https://") +
                 HostAndPort(options.host, server->port_);
  server->core_->StartThread();
  return server;
}

HttpServer::~HttpServer() = default;

IoExecutor HttpServer::executor() const { return core_->executor(); }

void HttpServer::StartDraining() { core_->StartDraining(); }

bool HttpServer::Stop(Deadline deadline) { return core_->Stop(deadline); }

}  // namespace causeway
