// Deadlines are kept by one sweep for all calls, not by a timer for each wait: a proxied token
// stream has a wait for every token. A call that is late has its socket closed, and the wait under
// way ends with it.
#include "net/http_upstream.h"

#include <algorithm>
#include <array>
#include <limits>

#include "base/check.h"

namespace causeway {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = Deadline::Clock;

constexpr auto kNever = Clock::time_point::max();
constexpr size_t kReadBytes = 16 << 10;
constexpr uint32_t kMaxHeadBytes = 256 << 10;
// How soon a server that had closed a kept connection is known to have.
constexpr auto kStaleAfter = std::chrono::seconds(1);
// How long the addresses of a name are believed.
constexpr auto kAddressLife = std::chrono::seconds(30);

auto Into(error_code& ec) { return asio::redirect_error(asio::use_awaitable, ec); }

std::string Authority(const HostPort& address) {
  const bool v6 = address.host.find(':') != std::string::npos;
  return Text(v6 ? "[" : "", address.host, v6 ? "]" : "", ":", address.port);
}

std::string Copy(boost::beast::string_view text) { return {text.data(), text.size()}; }

}  // namespace

struct Upstream::Search {
  explicit Search(asio::io_context& io) : resolver(io), found(io, kNever) {}
  tcp::resolver resolver;
  asio::steady_timer found;  // cancelled when it is done
  bool done = false;
  error_code error;
  std::vector<tcp::endpoint> endpoints;
};

void UpstreamSweep::Sweep(Clock::time_point now) {
  // Closing a socket runs nothing at once: the list stays as it is.
  for (UpstreamCall* call : calls_) {
    if (now >= call->deadline_) call->EndWaits(StatusCode::kDeadlineExceeded);
  }
  for (Upstream* upstream : upstreams_) {
    upstream->CloseIdleSince(now - std::chrono::milliseconds(upstream->options_.idle_timeout_ms));
  }
}

void UpstreamSweep::CancelAll() {
  for (UpstreamCall* call : calls_) call->Cancel();
}

Upstream::Upstream(UpstreamSweep& sweep, HostPort address, UpstreamOptions options)
    : sweep_(sweep),
      address_(std::move(address)),
      authority_(Authority(address_)),
      options_(options) {
  place_ = sweep_.upstreams_.insert(sweep_.upstreams_.end(), this);
  // A numeric address needs no search, now or later.
  error_code ec;
  const auto numeric = asio::ip::make_address(address_.host, ec);
  if (ec) return;
  endpoints_ = {tcp::endpoint(numeric, static_cast<uint16_t>(address_.port))};
  found_at_ = kNever - kAddressLife;
}

Upstream::~Upstream() { sweep_.upstreams_.erase(place_); }

void Upstream::KeepNone() {
  options_.max_idle = 0;
  CloseIdle();
}

std::unique_ptr<Upstream::Line> Upstream::TakeIdle() {
  while (!idle_.empty()) {
    std::unique_ptr<Line> line = std::move(idle_.back());
    idle_.pop_back();
    // Nothing to read is what an open and idle connection has; else the server has closed it, or
    // has sent what nobody asked for.
    error_code ec;
    char byte = 0;
    line->socket.receive(asio::buffer(&byte, 1), tcp::socket::message_peek, ec);
    if (ec == asio::error::would_block) return line;
  }
  return nullptr;
}

void Upstream::Keep(std::unique_ptr<Line> line) {
  if (idle_.size() >= options_.max_idle) return;
  line->idle_since = Clock::now();
  idle_.push_back(std::move(line));
}

void Upstream::CloseIdleSince(Clock::time_point time) {
  // The longest idle ones stand first.
  const auto young = std::find_if(idle_.begin(), idle_.end(),
                                  [time](const auto& line) { return line->idle_since > time; });
  idle_.erase(idle_.begin(), young);
}

UpstreamCall::UpstreamCall(Upstream& upstream, std::optional<int64_t> timeout_ms)
    : upstream_(upstream),
      connect_timeout_ms_(std::min(upstream.options_.connect_timeout_ms,
                                   timeout_ms.value_or(upstream.options_.connect_timeout_ms))),
      answer_timeout_ms_(timeout_ms.value_or(upstream.options_.answer_timeout_ms)) {
  auto& calls = upstream_.sweep_.calls_;
  place_ = calls.insert(calls.end(), this);
}

UpstreamCall::~UpstreamCall() { upstream_.sweep_.calls_.erase(place_); }

void UpstreamCall::SetDeadline(int64_t ms) {
  deadline_ms_ = ms;
  deadline_ = std::min(latest_, Clock::now() + std::chrono::milliseconds(ms));
}

void UpstreamCall::EndWithin(int64_t ms) {
  latest_ = Clock::now() + std::chrono::milliseconds(ms);
  deadline_ = std::min(deadline_, latest_);
}

void UpstreamCall::EndWaits(StatusCode why) {
  if (ended_ != StatusCode::kOk || complete_) return;
  ended_ = why;
  deadline_ = kNever;
  error_code ignored;
  if (line_) line_->socket.close(ignored);
  // Others that wait for the same search look at their own deadline and wait on.
  if (upstream_.search_) upstream_.search_->found.cancel();
}

Status UpstreamCall::Failed(const std::string& what, const error_code& error) const {
  const std::string& server = upstream_.authority_;
  if (ended_ == StatusCode::kCancelled)
    return Cancelled(Text("the call of ", server, " was ended"));
  if (ended_ == StatusCode::kDeadlineExceeded) {
    return DeadlineExceeded(Text(server, ": ", what, " within ", deadline_ms_, " ms"));
  }
  return Unavailable(
      Text(server, ": ", what, ": ",
           error == asio::error::eof ? "the server closed the connection" : error.message()));
}

asio::awaitable<Status> UpstreamCall::FindAddress() {
  const auto now = Clock::now();
  if (!upstream_.endpoints_.empty() && now < upstream_.found_at_ + kAddressLife) co_return Status();
  if (!upstream_.search_) {
    auto search = std::make_shared<Upstream::Search>(upstream_.sweep_.io());
    upstream_.search_ = search;
    search->resolver.async_resolve(
        upstream_.address_.host, std::to_string(upstream_.address_.port),
        tcp::resolver::numeric_service,
        [search](const error_code& error, const tcp::resolver::results_type& found) {
          search->done = true;
          search->error = error;
          for (const auto& entry : found) search->endpoints.push_back(entry.endpoint());
          search->found.cancel();
        });
  }
  const std::shared_ptr<Upstream::Search> search = upstream_.search_;
  while (!search->done && ended_ == StatusCode::kOk) {
    error_code ignored;
    co_await search->found.async_wait(Into(ignored));
  }
  if (ended_ != StatusCode::kOk) co_return Failed("its name was not found", {});
  if (upstream_.search_ == search) upstream_.search_.reset();
  if (search->error) co_return Failed("its name was not found", search->error);
  upstream_.endpoints_ = search->endpoints;
  upstream_.found_at_ = Clock::now();
  co_return Status();
}

asio::awaitable<Status> UpstreamCall::Connect() {
  SetDeadline(connect_timeout_ms_);
  Status found = co_await FindAddress();
  if (!found.ok()) co_return found;
  error_code ec = asio::error::host_not_found;
  // A copy: another call may find other addresses meanwhile.
  const std::vector<tcp::endpoint> endpoints = upstream_.endpoints_;
  for (const tcp::endpoint& endpoint : endpoints) {
    if (ended_ != StatusCode::kOk) break;
    line_ = std::make_unique<Upstream::Line>(upstream_.sweep_.io());
    co_await line_->socket.async_connect(endpoint, Into(ec));
    if (!ec) break;
  }
  if (ec || ended_ != StatusCode::kOk) {
    if (upstream_.found_at_ < Clock::now()) upstream_.endpoints_.clear();
    co_return Failed("no connection", ec);
  }
  error_code ignored;
  line_->socket.set_option(tcp::no_delay(true), ignored);
  line_->socket.non_blocking(true, ignored);
  co_return Status();
}

asio::awaitable<error_code> UpstreamCall::WriteRequest() {
  error_code ec;
  const std::array<asio::const_buffer, 2> buffers = {asio::buffer(head_.data(), head_.size()),
                                                     asio::buffer(body_.data(), body_.size())};
  SetDeadline(answer_timeout_ms_);
  co_await asio::async_write(line_->socket, buffers, Into(ec));
  co_return ec;
}

asio::awaitable<Status> UpstreamCall::Send(std::string_view head, std::string_view body) {
  head_ = head;
  body_ = body;
  if (ended_ != StatusCode::kOk) co_return Failed("no connection", {});
  line_ = upstream_.TakeIdle();
  reused_ = line_ != nullptr;
  if (!reused_) {
    Status connected = co_await Connect();
    if (!connected.ok()) co_return connected;
  }
  sent_at_ = Clock::now();
  // An error here may come with an answer, such as 413, which ReadHead looks for; without one it
  // finds the error, too.
  co_await WriteRequest();
  co_return Status();
}

asio::awaitable<StatusOr<UpstreamHead>> UpstreamCall::ReadHead() {
  Status status = co_await ReadHeadOnce();
  const bool at_once = Clock::now() - sent_at_ < kStaleAfter;
  if (!status.ok() && reused_ && !answered_ && at_once &&
      status.code() == StatusCode::kUnavailable) {
    // The server closed the kept connection while the request was on its way. One that ends later
    // may have begun to work on it.
    reused_ = false;
    status = co_await Connect();
    if (status.ok()) {
      co_await WriteRequest();
      status = co_await ReadHeadOnce();
    }
  }
  if (!status.ok()) co_return status;
  UpstreamHead out;
  const auto& answer = parser_->get();
  out.status = static_cast<int>(answer.result_int());
  for (const auto& field : answer) {
    out.headers.push_back({Copy(field.name_string()), Copy(field.value())});
  }
  if (parser_->is_done() && parser_->get().body().empty()) Complete();
  co_return out;
}

asio::awaitable<Status> UpstreamCall::ReadHeadOnce() {
  for (;;) {
    parser_.emplace();
    parser_->header_limit(kMaxHeadBytes);
    parser_->body_limit(std::numeric_limits<uint64_t>::max());
    parser_->eager(true);
    while (!parser_->is_header_done()) {
      if (line_->input.size() > 0) {
        Status parsed = ParseMore();
        if (!parsed.ok()) co_return parsed;
        if (parser_->is_header_done()) break;
      }
      StatusOr<bool> more = co_await Fill();
      if (!more.ok()) co_return more.status();
      if (!*more) co_return Failed("no answer", asio::error::eof);
    }
    // What comes before the answer, such as 100 Continue.
    if (parser_->get().result_int() / 100 != 1) co_return Status();
  }
}

asio::awaitable<StatusOr<bool>> UpstreamCall::Fill() {
  error_code ec;
  SetDeadline(answer_timeout_ms_);
  const size_t count =
      co_await line_->socket.async_read_some(line_->input.prepare(kReadBytes), Into(ec));
  if (ended_ != StatusCode::kOk || (ec && ec != asio::error::eof)) {
    co_return Failed(answered_ ? "no more of the answer came" : "no answer", ec);
  }
  if (ec) co_return false;
  answered_ = true;
  line_->input.commit(count);
  co_return true;
}

Status UpstreamCall::ParseMore() {
  while (line_->input.size() > 0 && !parser_->is_done()) {
    error_code ec;
    const size_t used = parser_->put(line_->input.data(), ec);
    line_->input.consume(used);
    if (ec && ec != http::error::need_more) {
      return InternalError(
          Text(upstream_.authority_, ": the answer is not valid HTTP: ", ec.message()));
    }
    if (ec || used == 0) break;
  }
  return Status();
}

asio::awaitable<Status> UpstreamCall::ReadSome(std::string& out) {
  out.clear();
  if (complete_) co_return Status();
  std::string& body = parser_->get().body();
  for (;;) {
    if (ended_ != StatusCode::kOk) co_return Failed("no more of the answer came", {});
    if (line_->input.size() > 0) {
      Status parsed = ParseMore();
      if (!parsed.ok()) co_return parsed;
    }
    if (!body.empty()) {
      out.swap(body);
      if (parser_->is_done()) Complete();
      co_return Status();
    }
    if (parser_->is_done()) {
      Complete();
      co_return Status();
    }
    StatusOr<bool> more = co_await Fill();
    if (!more.ok()) co_return more.status();
    if (*more) continue;
    // Right for a body without length; every other one was cut.
    error_code ec;
    parser_->put_eof(ec);
    if (ec) co_return Failed("the answer was cut", asio::error::eof);
  }
}

void UpstreamCall::Complete() {
  complete_ = true;
  deadline_ = kNever;
  if (parser_->keep_alive() && line_->input.size() == 0) upstream_.Keep(std::move(line_));
  line_.reset();
}

}  // namespace causeway
