// Asks other HTTP/1.1 servers from an io thread: what a proxy does. Connections are kept and used
// again, answers come piece by piece, and every wait has a deadline.
//
// All of it is used on the one thread of its io_context. Only who runs coroutines there includes
// this, since Asio takes long to compile.
#pragma once

#include <utility>  // Asio 1.74 needs it and does not include it

#include <boost/asio.hpp>
#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "net/http_message.h"
#include "net/socket.h"

namespace causeway {

struct UpstreamOptions {
  int64_t connect_timeout_ms = 5'000;  // with finding the name
  // For the request to be taken, for the head of the answer, and for each next piece of its body.
  int64_t answer_timeout_ms = 1'800'000;
  size_t max_idle = 256;  // connections kept of each server
  int64_t idle_timeout_ms = 60'000;
};

class UpstreamCall;
class Upstream;

// What all servers share: the deadlines of the calls under way. Must outlive upstreams and calls.
class UpstreamSweep {
 public:
  explicit UpstreamSweep(boost::asio::io_context& io) : io_(io) {}
  UpstreamSweep(const UpstreamSweep&) = delete;
  UpstreamSweep& operator=(const UpstreamSweep&) = delete;

  boost::asio::io_context& io() const { return io_; }
  // To be called some times a second.
  void Sweep(Deadline::Clock::time_point now);
  // Every call ends with kCancelled.
  void CancelAll();
  size_t calls() const { return calls_.size(); }

 private:
  friend class UpstreamCall;
  friend class Upstream;
  boost::asio::io_context& io_;
  std::list<UpstreamCall*> calls_;
  std::list<Upstream*> upstreams_;
};

// One server. Must outlive its calls.
class Upstream {
 public:
  Upstream(UpstreamSweep& sweep, HostPort address, UpstreamOptions options);
  ~Upstream();
  Upstream(const Upstream&) = delete;
  Upstream& operator=(const Upstream&) = delete;

  const HostPort& address() const { return address_; }
  // "host:port", with brackets around an IPv6 address, as the Host header wants it.
  const std::string& authority() const { return authority_; }
  const UpstreamOptions& options() const { return options_; }
  size_t idle() const { return idle_.size(); }
  void CloseIdle() { idle_.clear(); }
  // Idle connections are closed from now on, not kept.
  void KeepNone();

 private:
  friend class UpstreamCall;
  friend class UpstreamSweep;

  // A connection between two calls, or that of one.
  struct Line {
    explicit Line(boost::asio::io_context& io) : socket(io) {}
    boost::asio::ip::tcp::socket socket;
    boost::beast::flat_buffer input;
    Deadline::Clock::time_point idle_since;
  };
  // The search for the server's addresses. Shared with the resolver's thread, which nothing can
  // interrupt.
  struct Search;

  // A kept connection that is still open; null: none.
  std::unique_ptr<Line> TakeIdle();
  void Keep(std::unique_ptr<Line> line);
  void CloseIdleSince(Deadline::Clock::time_point time);

  UpstreamSweep& sweep_;
  const HostPort address_;
  const std::string authority_;
  UpstreamOptions options_;
  std::vector<std::unique_ptr<Line>> idle_;
  std::vector<boost::asio::ip::tcp::endpoint> endpoints_;
  Deadline::Clock::time_point found_at_;
  std::shared_ptr<Search> search_;
  std::list<Upstream*>::iterator place_;
};

struct UpstreamHead {
  int status = 0;
  std::vector<HttpHeader> headers;
};

// One request and its answer: Send, ReadHead, then ReadSome until it is empty. After an error, or
// when it is destroyed early, its connection is closed, which tells the server that nobody waits.
// Errors: kUnavailable (refused, closed, reset, name not found), kDeadlineExceeded, kCancelled, and
// kInternal for an answer that is not HTTP.
class UpstreamCall {
 public:
  // `timeout_ms`: for each wait, in place of the upstream's.
  explicit UpstreamCall(Upstream& upstream, std::optional<int64_t> timeout_ms = std::nullopt);
  ~UpstreamCall();
  UpstreamCall(const UpstreamCall&) = delete;
  UpstreamCall& operator=(const UpstreamCall&) = delete;

  // `head` and `body` must live until ReadHead has returned: where a kept connection turns out to
  // have been closed by the server meanwhile, they are sent once more on a new one.
  boost::asio::awaitable<Status> Send(std::string_view head, std::string_view body);
  boost::asio::awaitable<StatusOr<UpstreamHead>> ReadHead();
  // Replaces `out` by the next piece of the body; empty at its end.
  boost::asio::awaitable<Status> ReadSome(std::string& out);
  // The wait under way, and any later one, ends with kCancelled.
  void Cancel() { EndWaits(StatusCode::kCancelled); }
  // From now on all waits together may take only so long.
  void EndWithin(int64_t ms);
  bool complete() const { return complete_; }  // the whole answer has been read

 private:
  friend class UpstreamSweep;
  // A string that grows with what comes, whatever length the head of the answer claims.
  struct PieceBody {
    using value_type = std::string;
    class reader {
     public:
      template <bool kRequest, typename Fields>
      reader(boost::beast::http::header<kRequest, Fields>&, value_type& body) : body_(body) {}
      void init(const boost::optional<uint64_t>&, boost::system::error_code& error) { error = {}; }
      template <typename Buffers>
      size_t put(const Buffers& buffers, boost::system::error_code& error) {
        error = {};
        size_t bytes = 0;
        for (const boost::asio::const_buffer part : boost::beast::buffers_range_ref(buffers)) {
          body_.append(static_cast<const char*>(part.data()), part.size());
          bytes += part.size();
        }
        return bytes;
      }
      void finish(boost::system::error_code& error) { error = {}; }

     private:
      value_type& body_;
    };
  };
  using Parser = boost::beast::http::response_parser<PieceBody>;

  boost::asio::awaitable<Status> Connect();
  // Fills upstream_.endpoints_.
  boost::asio::awaitable<Status> FindAddress();
  boost::asio::awaitable<boost::system::error_code> WriteRequest();
  // Head and, with it, what has come of the body.
  boost::asio::awaitable<Status> ReadHeadOnce();
  // Some more input; false at the end of the stream.
  boost::asio::awaitable<StatusOr<bool>> Fill();
  Status ParseMore();
  void SetDeadline(int64_t ms);
  void EndWaits(StatusCode why);
  Status Failed(const std::string& what, const boost::system::error_code& error) const;
  void Complete();

  Upstream& upstream_;
  const int64_t connect_timeout_ms_;
  const int64_t answer_timeout_ms_;
  std::list<UpstreamCall*>::iterator place_;
  std::unique_ptr<Upstream::Line> line_;
  std::optional<Parser> parser_;
  std::string_view head_;
  std::string_view body_;
  Deadline::Clock::time_point deadline_ = Deadline::Clock::time_point::max();
  Deadline::Clock::time_point latest_ = Deadline::Clock::time_point::max();  // of any deadline
  Deadline::Clock::time_point sent_at_;                                      // when sending began
  int64_t deadline_ms_ = 0;             // what deadline_ was set to, for messages
  StatusCode ended_ = StatusCode::kOk;  // why waits end; kOk: they don't
  bool reused_ = false;                 // line_ has served another call
  bool answered_ = false;               // a byte of the answer has come
  bool complete_ = false;
};

}  // namespace causeway
