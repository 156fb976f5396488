// Calls are taken in order by as many workers as may be under way at once, each a coroutine.
#include "net/http_crowd.h"

#include <sys/resource.h>

#include <utility>  // Asio 1.74 needs it and does not include it

#include <algorithm>
#include <boost/asio.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <limits>

namespace causeway {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

auto Into(error_code& ec) { return asio::redirect_error(asio::use_awaitable, ec); }

class Crowd {
 public:
  Crowd(const CrowdOptions& options, const std::vector<CrowdCall>& calls, const CrowdEvents& events)
      : options_(options), calls_(calls), events_(events) {}

  Status Run() {
    error_code ec;
    tcp::resolver resolver(io_);
    addresses_ = resolver.resolve(options_.host, std::to_string(options_.port), ec);
    if (ec) return Unavailable(Text("can't find ", options_.host, ": ", ec.message()));
    const size_t all = calls_.size();
    const size_t workers = options_.concurrency == 0 ? all : std::min(options_.concurrency, all);
    begin_ = Clock::now();
    for (size_t i = 0; i < workers; ++i) asio::co_spawn(io_, Work(), asio::detached);
    io_.run();
    return Status();
  }

 private:
  asio::awaitable<void> Work() {
    asio::steady_timer timer(io_);
    while (next_ < calls_.size()) {
      const size_t index = next_++;
      const std::chrono::duration<double> start(calls_[index].start_seconds);
      timer.expires_at(begin_ + std::chrono::duration_cast<Clock::duration>(start));
      error_code ignored;
      co_await timer.async_wait(Into(ignored));
      if (events_.on_start) events_.on_start(index);
      const Status status = co_await Call(index);
      if (events_.on_end) events_.on_end(index, status);
    }
  }

  asio::awaitable<Status> Call(size_t index) {
    beast::tcp_stream stream(io_);
    stream.expires_after(std::chrono::milliseconds(options_.timeout_ms));
    error_code ec;
    co_await stream.async_connect(addresses_, Into(ec));
    if (ec) co_return Failed("can't connect", ec);
    error_code ignored;
    stream.socket().set_option(tcp::no_delay(true), ignored);
    const std::string& bytes = calls_[index].bytes;
    co_await asio::async_write(stream, asio::buffer(bytes), Into(ec));
    if (ec) co_return Failed("can't send the request", ec);
    beast::flat_buffer buffer;
    http::response_parser<http::string_body> parser;
    parser.body_limit(std::numeric_limits<uint64_t>::max());
    co_await http::async_read_header(stream, buffer, parser, Into(ec));
    if (ec) co_return Failed("no answer", ec);
    if (events_.on_head) events_.on_head(index, parser.get().result_int());
    // Of the body the parser keeps what has arrived; it is handed on and dropped piece by piece.
    std::string& body = parser.get().body();
    for (;;) {
      if (!body.empty()) {
        if (events_.on_data && !events_.on_data(index, body)) co_return Status();
        body.clear();
      }
      if (parser.is_done()) co_return Status();
      co_await http::async_read_some(stream, buffer, parser, Into(ec));
      if (ec) co_return Failed("the answer is not complete", ec);
    }
  }

  Status Failed(const char* what, const error_code& ec) const {
    if (ec == beast::error::timeout) {
      return DeadlineExceeded(Text("no complete answer within ", options_.timeout_ms, " ms"));
    }
    const bool closed = ec == http::error::end_of_stream || ec == http::error::partial_message;
    const std::string message =
        Text(what, ": ", closed ? "the server closed the connection" : ec.message());
    // The parser's errors are of this one category.
    const bool parsing =
        ec.category() == http::make_error_code(http::error::bad_version).category();
    return parsing && !closed ? InvalidArgument(message) : Unavailable(message);
  }

  const CrowdOptions& options_;
  const std::vector<CrowdCall>& calls_;
  const CrowdEvents& events_;
  asio::io_context io_{1};
  tcp::resolver::results_type addresses_;
  Clock::time_point begin_;
  size_t next_ = 0;
};

void RaiseFileLimit(size_t sockets) {
  constexpr rlim_t kOthers = 256;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = std::min<rlim_t>(limit.rlim_max, sockets + kOthers);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  // What is missing then shows as calls that can't connect.
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

Status RunCrowd(const CrowdOptions& options, const std::vector<CrowdCall>& calls,
                const CrowdEvents& events) {
  RaiseFileLimit(options.concurrency == 0 ? calls.size() : options.concurrency);
  return Crowd(options, calls, events).Run();
}

}  // namespace causeway
