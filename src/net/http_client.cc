// The body of an answer is read in pieces: body_ says how it ends, left_ how much of it, or of the
// chunk, is still to come. input_ holds what has been received and not yet handed out.
#include "net/http_client.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstring>
#include <memory>

namespace causeway {
namespace {

constexpr size_t kMaxLine = 64 << 10;
constexpr size_t kMaxHeaders = 1000;
constexpr size_t kReadBytes = 64 << 10;

Status Failed(const char* what) {
  return Unavailable(Text(what, " failed: ", std::strerror(errno)));
}

template <typename Integer>
bool ParseInteger(std::string_view text, int base, Integer& out) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), out, base);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

}  // namespace

StatusOr<HttpClient> HttpClient::Connect(const std::string& host, int port, Deadline deadline) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  // The one wait without a deadline: resolving takes as long as the system's resolver lets it.
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0) return Unavailable(Text("can't find ", host, ": ", gai_strerror(error)));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owned(found, &freeaddrinfo);
  // Only the first address is tried.
  HttpClient client(
      socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, found->ai_protocol));
  if (client.socket_ < 0) return Failed("socket");
  const int on = 1;
  setsockopt(client.socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (connect(client.socket_, found->ai_addr, found->ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return Failed("connect");
    CAUSEWAY_RETURN_IF_ERROR(client.WaitFor(POLLOUT, deadline));
    // A refused connection counts as writable too: the outcome has to be asked for.
    int outcome = 0;
    socklen_t size = sizeof(outcome);
    getsockopt(client.socket_, SOL_SOCKET, SO_ERROR, &outcome, &size);
    if (outcome != 0) {
      return Unavailable(
          Text("can't connect to ", host, " port ", port, ": ", std::strerror(outcome)));
    }
  }
  return client;
}

HttpClient::HttpClient(HttpClient&& other) noexcept
    : socket_(std::exchange(other.socket_, -1)),
      input_(std::move(other.input_)),
      body_(other.body_),
      left_(other.left_) {}

HttpClient& HttpClient::operator=(HttpClient&& other) noexcept {
  if (this == &other) return *this;
  Close();
  socket_ = std::exchange(other.socket_, -1);
  input_ = std::move(other.input_);
  body_ = other.body_;
  left_ = other.left_;
  return *this;
}

void HttpClient::Close() {
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
}

void HttpClient::ShutdownSend() { shutdown(socket_, SHUT_WR); }

Status HttpClient::WaitFor(short events, Deadline deadline) const {
  if (socket_ < 0) return Unavailable("the connection is closed");
  for (;;) {
    // + 1: RemainingMs rounds down, and waits of 0 ms would spin through the last millisecond.
    const int wait_ms = static_cast<int>(std::min<int64_t>(deadline.RemainingMs() + 1, INT_MAX));
    pollfd entry{.fd = socket_, .events = events, .revents = 0};
    const int ready = poll(&entry, 1, wait_ms);
    // Ready, or broken: the next call on the socket says which.
    if (ready > 0) return Status();
    if (ready < 0 && errno != EINTR) return Failed("poll");
    if (deadline.Passed()) return DeadlineExceeded("the server did not answer in time");
  }
}

Status HttpClient::SendBytes(std::string_view bytes, Deadline deadline) {
  while (!bytes.empty()) {
    CAUSEWAY_RETURN_IF_ERROR(WaitFor(POLLOUT, deadline));
    // MSG_NOSIGNAL: a closed peer is an error to return, not a SIGPIPE that ends the process.
    const ssize_t count = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return Failed("send");
    }
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return Status();
}

Status HttpClient::Fill(Deadline deadline) {
  for (;;) {
    CAUSEWAY_RETURN_IF_ERROR(WaitFor(POLLIN, deadline));
    const size_t had = input_.size();
    input_.resize(had + kReadBytes);
    const ssize_t count = recv(socket_, input_.data() + had, kReadBytes, 0);
    input_.resize(had + static_cast<size_t>(std::max<ssize_t>(count, 0)));
    if (count > 0) return Status();
    if (count == 0) return Unavailable("the server closed the connection");
    if (errno != EINTR && errno != EAGAIN) return Failed("recv");
  }
}

StatusOr<std::string> HttpClient::ReadLine(Deadline deadline) {
  for (;;) {
    const size_t end = input_.find("\r\n");
    if (end != std::string::npos) {
      std::string line = input_.substr(0, end);
      input_.erase(0, end + 2);
      return line;
    }
    if (input_.size() > kMaxLine) return InvalidArgument("the server's answer has no line break");
    CAUSEWAY_RETURN_IF_ERROR(Fill(deadline));
  }
}

StatusOr<HttpReply> HttpClient::ReadHead(Deadline deadline, bool head_request) {
  for (;;) {
    CAUSEWAY_ASSIGN_OR_RETURN(const std::string line, ReadLine(deadline));
    HttpReply reply;
    if (!line.starts_with("HTTP/1.") || line.size() < 12 ||
        !ParseInteger(std::string_view(line).substr(9, 3), 10, reply.status)) {
      return InvalidArgument(Text("not an HTTP status line: ", line.substr(0, 80)));
    }
    for (;;) {
      CAUSEWAY_ASSIGN_OR_RETURN(const std::string field, ReadLine(deadline));
      if (field.empty()) break;
      const size_t colon = field.find(':');
      if (colon == std::string::npos || reply.headers.size() == kMaxHeaders) {
        return InvalidArgument(Text("not an HTTP header: ", field.substr(0, 80)));
      }
      reply.headers.push_back(
          {field.substr(0, colon), std::string(Trim(std::string_view(field).substr(colon + 1)))});
    }
    // An interim answer has no body; the one that counts follows.
    if (reply.status == 100) continue;
    // How the body ends, in the order of RFC 9112, section 6.3: by status or method there is none;
    // chunked counts before Content-Length; without either, the server's close ends it.
    left_ = 0;
    const std::string* length = FindHeader(reply.headers, "Content-Length");
    const std::string* coding = FindHeader(reply.headers, "Transfer-Encoding");
    if (head_request || reply.status == 204 || reply.status == 304) {
      body_ = Body::kNone;
    } else if (coding != nullptr) {
      body_ = Body::kChunked;
      if (strcasecmp(coding->c_str(), "chunked") != 0) {
        return InvalidArgument(Text("unknown Transfer-Encoding ", *coding));
      }
    } else if (length != nullptr) {
      body_ = Body::kLength;
      if (!ParseInteger(*length, 10, left_)) {
        return InvalidArgument(Text("Content-Length is ", *length, "; expected a number"));
      }
    } else {
      body_ = Body::kUntilClose;
    }
    return reply;
  }
}

StatusOr<std::string> HttpClient::ReadBody(Deadline deadline) {
  // At the beginning of a chunk, whose size comes first.
  if (body_ == Body::kChunked && left_ == 0) {
    CAUSEWAY_ASSIGN_OR_RETURN(const std::string size, ReadLine(deadline));
    if (!ParseInteger(std::string_view(size).substr(0, size.find(';')), 16, left_)) {
      return InvalidArgument(Text("not a chunk size: ", size.substr(0, 80)));
    }
    if (left_ == 0) {  // trailers, then an empty line
      for (std::string line = "-"; !line.empty();) {
        CAUSEWAY_ASSIGN_OR_RETURN(line, ReadLine(deadline));
      }
      body_ = Body::kNone;
    }
  }
  if (body_ == Body::kNone || (body_ == Body::kLength && left_ == 0)) return std::string();
  if (input_.empty()) {
    const Status status = Fill(deadline);
    // Without a length the server's close is the proper end.
    if (!status.ok()) {
      const bool ended = body_ == Body::kUntilClose && status.code() == StatusCode::kUnavailable;
      if (!ended) return status;
      body_ = Body::kNone;
      return std::string();
    }
  }
  const size_t count = body_ == Body::kUntilClose ? input_.size() : std::min(left_, input_.size());
  std::string piece = input_.substr(0, count);
  input_.erase(0, count);
  if (body_ != Body::kUntilClose) left_ -= count;
  // Each chunk is followed by a line break that is not part of it.
  if (body_ == Body::kChunked && left_ == 0) {
    CAUSEWAY_ASSIGN_OR_RETURN(const std::string line_break, ReadLine(deadline));
    if (!line_break.empty()) return InvalidArgument("a chunk is longer than its size");
  }
  return piece;
}

StatusOr<HttpReply> HttpClient::Call(std::string_view method, std::string_view target,
                                     std::string_view body, Deadline deadline,
                                     const std::vector<HttpHeader>& headers) {
  CAUSEWAY_RETURN_IF_ERROR(
      SendBytes(FormatRequest(method, target, "localhost", headers, body), deadline));
  CAUSEWAY_ASSIGN_OR_RETURN(HttpReply reply, ReadHead(deadline, method == "HEAD"));
  for (;;) {
    CAUSEWAY_ASSIGN_OR_RETURN(const std::string piece, ReadBody(deadline));
    if (piece.empty()) return reply;
    reply.body += piece;
  }
}

bool HttpClient::WaitForClose(Deadline deadline) {
  while (!deadline.Passed()) {
    const Status status = Fill(deadline);
    input_.clear();
    if (status.code() == StatusCode::kUnavailable) return true;
  }
  return false;
}

}  // namespace causeway
