// One client's connection: a read loop that feeds the parser, a write loop while there is output,
// and deadlines that the server's sweep checks.
#include <algorithm>
#include <array>

#include "net/http_core.h"

namespace causeway {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using Clock = Deadline::Clock;

constexpr auto kNever = Clock::time_point::max();
constexpr size_t kReadBytes = 16 << 10;
constexpr size_t kMaxAheadBytes = 64 << 10;  // of later requests, read while one is answered
constexpr size_t kWriteBytes = 256 << 10;    // what the write time-out is for
constexpr size_t kBodyBytes = 1 << 20;       // what the read time-out is for
constexpr int64_t kLingerMs = 2000;

auto Into(error_code& ec) { return asio::redirect_error(asio::use_awaitable, ec); }
Clock::time_point AfterMs(int64_t ms) { return Clock::now() + std::chrono::milliseconds(ms); }

// True while in scope.
class ScopedFlag {
 public:
  explicit ScopedFlag(bool& flag) : flag_(flag) { flag_ = true; }
  ~ScopedFlag() { flag_ = false; }
  ScopedFlag(const ScopedFlag&) = delete;
  ScopedFlag& operator=(const ScopedFlag&) = delete;

 private:
  bool& flag_;
};

std::string Copy(boost::beast::string_view text) { return {text.data(), text.size()}; }

// Names of headers with commas between them.
bool IsNameList(std::string_view text) {
  return !text.empty() && text.size() < 1024 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == ',' || c == ' ';
  });
}

}  // namespace

HttpConnection::HttpConnection(HttpCore& core, asio::ip::tcp::socket socket, std::string peer)
    : core_(core),
      socket_(std::move(socket), core.tls()),
      peer_(std::move(peer)),
      read_deadline_(AfterMs(core.options().idle_timeout_ms)),
      write_deadline_(kNever),
      resume_(core.io(), kNever) {}

void HttpConnection::Start(const std::string& refusal) { Spawn(Serve(refusal)); }

asio::awaitable<void> HttpConnection::Serve(std::string refusal) {
  if (core_.tls() != nullptr) {
    read_deadline_ = AfterMs(core_.options().header_timeout_ms);
    const ClientSocket::Hello hello = co_await socket_.Greet();
    if (state_ == State::kClosed) co_return;
    if (hello == ClientSocket::Hello::kFailed) {
      Close();
      co_return;
    }
    read_deadline_ = AfterMs(core_.options().idle_timeout_ms);
    if (hello == ClientSocket::Hello::kPlainText) {
      Refuse(400, "this port speaks HTTPS, and the request came without TLS: use https://");
    }
  }
  if (!refusal.empty() && state_ == State::kReading) Refuse(503, refusal, {{"Retry-After", "1"}});
  co_await ReadLoop();
}

void HttpConnection::Spawn(asio::awaitable<void> loop) {
  ++loops_;
  asio::co_spawn(core_.io(), std::move(loop), [this](const std::exception_ptr& failure) {
    if (failure) Close();                   // no memory for a buffer: this client's problem only
    if (--loops_ == 0) core_.Remove(this);  // the end of *this
  });
}

asio::awaitable<void> HttpConnection::ReadLoop() {
  while (state_ != State::kClosed) {
    // Enough is read ahead: a client that sends and does not read must not fill the memory.
    if (state_ != State::kLingering && input_.size() >= kMaxAheadBytes &&
        (state_ == State::kExchange || queued_bytes_ > core_.options().max_queued_bytes)) {
      error_code ignored;
      co_await resume_.async_wait(Into(ignored));
      continue;
    }
    error_code ec;
    const size_t count = co_await socket_.Read(input_.prepare(kReadBytes), ec);
    if (ec) {
      read_ended_ = true;
      // A client that only ends its sending side still gets the answers that are under way to it,
      // but one that is waited for by a handler counts as gone.
      if (ec == asio::error::eof && writing_ && state_ != State::kExchange) {
        Linger();
      } else {
        Close();
      }
      break;
    }
    input_.commit(count);
    ProcessInput();
  }
}

void HttpConnection::ProcessInput() {
  if (processing_) return;  // an answer given inside its handler: the loop below goes on
  const ScopedFlag processing(processing_);
  while (state_ == State::kReading && input_.size() > 0 &&
         queued_bytes_ <= core_.options().max_queued_bytes) {
    // The first byte of a request: the time for it to arrive runs from here.
    if (!parser_) {
      parser_.emplace();
      parser_->header_limit(static_cast<uint32_t>(core_.options().max_header_bytes));
      parser_->body_limit(core_.options().max_body_bytes);
      read_deadline_ = AfterMs(core_.options().header_timeout_ms);
    }
    const bool had_header = parser_->is_header_done();
    error_code ec;
    const size_t used = parser_->put(input_.data(), ec);
    input_.consume(used);
    if (ec && ec != http::error::need_more) {
      RefuseParse(ec);
      break;
    }
    if (had_header) ExtendBodyDeadline(used);
    if (!had_header && parser_->is_header_done() && !AcceptHeader()) continue;
    if (parser_->is_done()) {
      Dispatch();
    } else if (ec == http::error::need_more || used == 0) {
      break;
    }
  }
  // What a client still sends after the last answer is thrown away.
  if (state_ == State::kLingering) input_.consume(input_.size());
}

void HttpConnection::RefuseParse(const error_code& error) {
  if (error == http::error::header_limit) {
    Refuse(431, Text("the request's header is longer than ", core_.options().max_header_bytes,
                     " bytes"));
  } else if (error == http::error::body_limit) {
    const std::string length = Copy(parser_->get()[http::field::content_length]);
    Refuse(413, Text("the request's body is ", length, length.empty() ? "" : " bytes, ",
                     "more than the limit of ", core_.options().max_body_bytes, " bytes"));
  } else {
    Refuse(400, Text("not a valid HTTP request: ", error.message()));
  }
}

bool HttpConnection::AcceptHeader() {
  const auto& request = parser_->get();
  version_11_ = request.version() >= 11;
  client_keep_alive_ = request.keep_alive();
  const std::string method = Copy(request.method_string());
  head_only_ = method == "HEAD";
  if (!AcceptForm() || !AcceptRoute(method)) return false;
  if (const auto expect = request.find(http::field::expect); expect != request.end()) {
    if (!boost::beast::iequals(expect->value(), "100-continue")) {
      Refuse(417, "the only supported Expect is 100-continue");
      return false;
    }
    if (version_11_ && !parser_->is_done() && input_.size() == 0) {
      Queue("HTTP/1.1 100 Continue\r\n\r\n");
    }
  }
  body_bytes_ = 0;
  read_deadline_ = AfterMs(core_.options().read_timeout_ms);
  return true;
}

bool HttpConnection::AcceptForm() {
  const auto& request = parser_->get();
  const HttpServerOptions& options = core_.options();
  const auto refuse = [this](int status, const std::string& message) {
    Refuse(status, message);
    return false;
  };
  if (request.target().size() > options.max_target_bytes) {
    return refuse(414, Text("the request's target has ", request.target().size(),
                            " bytes, more than the limit of ", options.max_target_bytes));
  }
  const auto headers = static_cast<size_t>(std::distance(request.begin(), request.end()));
  if (headers > options.max_headers) {
    return refuse(431, Text("the request has ", headers, " header fields, more than the limit of ",
                            options.max_headers));
  }
  // Whatever stands between the client and here must find the body's end where this server does:
  // codings that it does not know could hide a second request (RFC 9112, section 6.1).
  if (const size_t codings = request.count(http::field::transfer_encoding); codings > 0) {
    const std::string coding = Copy(request[http::field::transfer_encoding]);
    if (!version_11_) return refuse(400, "HTTP/1.0 has no Transfer-Encoding");
    if (codings > 1 || !boost::beast::iequals(coding, "chunked")) {
      return refuse(501, "the only supported Transfer-Encoding is chunked");
    }
  }
  const std::string encoding = Copy(request[http::field::content_encoding]);
  if (!encoding.empty() && !boost::beast::iequals(encoding, "identity")) {
    return refuse(415, "the request's body must not be compressed (Content-Encoding)");
  }
  // RFC 9112, section 3.2: no Host, or two of them, must be answered with 400.
  if (version_11_ && request.count(http::field::host) != 1) {
    Refuse(400, Text("an HTTP/1.1 request needs one Host header, found ",
                     request.count(http::field::host)));
    return false;
  }
  std::optional<HttpTarget> target =
      ParseTarget({request.target().data(), request.target().size()});
  if (!target) {
    Refuse(400, "the request's target is not a valid path");
    return false;
  }
  target_ = *std::move(target);
  return true;
}

bool HttpConnection::AcceptRoute(const std::string& method) {
  match_ = MatchRoute(core_.routes(), method, target_.path);
  if (match_.route != nullptr) return true;
  const bool known = !match_.allow.empty();
  const std::string allow = match_.allow + ", OPTIONS";
  HttpResponse response;
  if (known && method == "OPTIONS") {
    response = {.status = 204, .content_type = "", .headers = {{"Allow", allow}}};
    if (!core_.options().cors_origin.empty()) {
      // What a browser asks before it lets a script ask. The headers that the script wants to send
      // are given back: none of them is harmful here.
      const std::string wanted = Copy(parser_->get()[http::field::access_control_request_headers]);
      response.headers.push_back({"Access-Control-Allow-Methods", allow});
      response.headers.push_back({"Access-Control-Allow-Headers",
                                  IsNameList(wanted) ? wanted : "Authorization, Content-Type"});
      response.headers.push_back({"Access-Control-Max-Age", "600"});
    }
  } else if (known) {
    response = core_.RenderError(405, Text(method, " is not allowed here, only ", match_.allow));
    response.headers.push_back({"Allow", match_.allow});
  } else {
    response = core_.RenderError(404, Text("there is no ", method, " ", target_.path));
  }
  // Without a body in the way the connection stays usable.
  client_keep_alive_ = client_keep_alive_ && parser_->is_done();
  QueueResponse(std::move(response), !head_only_);
  FinishExchange();
  return false;
}

void HttpConnection::ExtendBodyDeadline(size_t arrived) {
  body_bytes_ += arrived;
  if (body_bytes_ < kBodyBytes) return;
  body_bytes_ = 0;
  read_deadline_ = AfterMs(core_.options().read_timeout_ms);
}

void HttpConnection::Dispatch() {
  state_ = State::kExchange;
  read_deadline_ = kNever;
  begun_ = false;
  exchange_ = core_.AddExchange(this);
  auto message = parser_->release();
  parser_.reset();
  HttpRequest request;
  request.method = Copy(message.method_string());
  request.path = std::move(target_.path);
  request.query = std::move(target_.query);
  request.tail = std::move(match_.tail);
  for (const auto& field : message) {
    request.headers.push_back({Copy(field.name_string()), Copy(field.value())});
  }
  request.body = std::move(message.body());
  request.peer = peer_;
  HttpResponder responder(&core_, core_.executor(), exchange_);
  try {
    match_.route->handler(std::move(request), std::move(responder));
  } catch (const std::exception&) {
    // The responder, wherever it died, has answered 500.
  }
}

bool HttpConnection::KeepAlive() const { return client_keep_alive_ && !core_.draining(); }

void HttpConnection::Send(HttpResponse response) {
  if (begun_) return;
  QueueResponse(std::move(response), !head_only_);
  FinishExchange();
}

void HttpConnection::Begin(HttpResponse head) {
  if (begun_) return;
  begun_ = true;
  if (!version_11_) client_keep_alive_ = false;  // the end of the body is the connection's
  AddCors(head.headers);
  Queue(FormatHead(head, version_11_ ? BodyFraming::kChunked : BodyFraming::kUntilClose, 0,
                   KeepAlive()));
}

void HttpConnection::Write(std::string data) {
  // Also the body of a HEAD request's answer ends here: handlers need not know the difference.
  if (!begun_ || head_only_ || data.empty()) return;
  if (queued_bytes_ + data.size() > core_.options().max_queued_bytes) {
    Close();  // the client reads too slowly
    return;
  }
  Queue(version_11_ ? FormatChunk(data) : std::move(data));
}

void HttpConnection::End() {
  if (!begun_) return;
  if (version_11_ && !head_only_) Queue("0\r\n\r\n");
  FinishExchange();
}

void HttpConnection::EndAndClose() {
  client_keep_alive_ = false;
  End();
}

void HttpConnection::OnSent(std::function<void()> sent) {
  if (writing_) {
    on_sent_ = std::move(sent);
  } else {
    asio::post(core_.io(), std::move(sent));
  }
}

void HttpConnection::Abandon() {
  if (begun_) {
    Close();  // the client must not take the part for the whole
  } else {
    Send(core_.RenderError(500, "the server gave no answer to this request"));
  }
}

void HttpConnection::FinishExchange() {
  if (exchange_ != 0) core_.RemoveExchange(exchange_);
  exchange_ = 0;
  on_close_ = nullptr;
  on_sent_ = nullptr;
  parser_.reset();
  if (!KeepAlive()) {
    Linger();
    return;
  }
  state_ = State::kReading;
  read_deadline_ = AfterMs(core_.options().idle_timeout_ms);
  // Requests that were read ahead come first; then the read loop may go on.
  ProcessInput();
  resume_.cancel();
}

void HttpConnection::Refuse(int status, const std::string& message,
                            std::vector<HttpHeader> headers) {
  HttpResponse response = core_.RenderError(status, message);
  for (HttpHeader& header : headers) response.headers.push_back(std::move(header));
  client_keep_alive_ = false;
  QueueResponse(std::move(response), !head_only_);
  FinishExchange();
}

void HttpConnection::AddCors(std::vector<HttpHeader>& headers) const {
  const std::string& origin = core_.options().cors_origin;
  if (origin.empty()) return;
  headers.push_back({"Access-Control-Allow-Origin", origin});
  if (origin != "*") headers.push_back({"Vary", "Origin"});
}

void HttpConnection::QueueResponse(HttpResponse response, bool with_body) {
  AddCors(response.headers);
  Queue(FormatHead(response, response.status == 204 ? BodyFraming::kNone : BodyFraming::kLength,
                   response.body.size(), KeepAlive()));
  if (with_body && !response.body.empty()) Queue(response.body);
}

void HttpConnection::Queue(std::string bytes) {
  if (state_ == State::kClosed) return;
  queued_bytes_ += bytes.size();
  output_.push_back(std::move(bytes));
  if (!writing_) {
    writing_ = true;
    Spawn(WriteLoop());
  }
}

asio::awaitable<void> HttpConnection::WriteLoop() {
  while (!output_.empty() && state_ != State::kClosed) {
    // Small pieces that wait together go out with one system call; the time-out is for one batch.
    std::vector<std::string> batch;
    size_t bytes = 0;
    while (!output_.empty() && bytes < kWriteBytes) {
      bytes += output_.front().size();
      batch.push_back(std::move(output_.front()));
      output_.pop_front();
    }
    std::vector<asio::const_buffer> buffers;
    for (const std::string& part : batch) buffers.push_back(asio::buffer(part));
    write_deadline_ = AfterMs(core_.options().write_timeout_ms);
    error_code ec;
    co_await socket_.Write(buffers, ec);
    write_deadline_ = kNever;
    queued_bytes_ -= bytes;
    if (ec) Close();
  }
  writing_ = false;
  if (auto sent = std::exchange(on_sent_, nullptr); sent && state_ != State::kClosed) {
    asio::post(core_.io(), std::move(sent));
  }
  if (state_ == State::kLingering) {
    Linger();
  } else {
    ProcessInput();  // requests that waited for the queue to shrink
    resume_.cancel();
    // The server may have begun to drain after this answer had promised to keep the connection.
    if (core_.draining()) CloseWhenIdle();
  }
}

void HttpConnection::Linger() {
  if (state_ == State::kClosed) return;
  state_ = State::kLingering;
  resume_.cancel();
  read_deadline_ = kNever;
  if (writing_) return;  // WriteLoop calls again
  if (read_ended_) {
    Close();
    return;
  }
  // Closing while input is unread would reset the connection and could destroy the answer.
  read_deadline_ = AfterMs(kLingerMs);
  if (!std::exchange(shut_, true)) Spawn(ShutdownSend());
}

asio::awaitable<void> HttpConnection::ShutdownSend() { co_await socket_.ShutdownSend(); }

void HttpConnection::Close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  socket_.Close();
  resume_.cancel();
  output_.clear();
  if (exchange_ != 0) core_.RemoveExchange(exchange_);
  exchange_ = 0;
  // Posted, never called from here: a call of the responder may have led here, and its caller does
  // not expect to be gone when the call returns.
  if (auto gone = std::exchange(on_close_, nullptr)) asio::post(core_.io(), std::move(gone));
}

void HttpConnection::CloseWhenIdle() {
  // A request that has begun to arrive is still answered, with Connection: close.
  if (state_ == State::kReading && !parser_ && !writing_) Close();
}

void HttpConnection::CheckDeadlines(Clock::time_point now) {
  if (state_ == State::kClosed) return;
  if (now >= write_deadline_) {
    Close();
  } else if (now >= read_deadline_) {
    read_deadline_ = kNever;
    if (state_ == State::kReading && parser_) {
      Refuse(408, parser_->is_header_done()
                      ? Text("the request's body, or one more MiB of it, did not arrive within ",
                             core_.options().read_timeout_ms, " ms")
                      : Text("the request's header did not arrive within ",
                             core_.options().header_timeout_ms, " ms"));
    } else {
      Close();
    }
  }
}

}  // namespace causeway
