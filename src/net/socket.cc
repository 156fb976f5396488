// Every call tries first and waits in poll(2) only where there is nothing to do, so that each wait
// knows its deadline. The exception is getaddrinfo, which has none.
#include "net/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <thread>

#include "base/check.h"

namespace causeway {
namespace {

constexpr int kBacklog = 128;
constexpr int64_t kRetryMs = 50;       // between two tries to connect
constexpr int64_t kConnectMs = 5'000;  // for one try, when packets get no answer at all
constexpr int64_t kLongestPollMs = 60'000;

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
  void operator()(ifaddrs* list) const { freeifaddrs(list); }
};
using AddressList = std::unique_ptr<addrinfo, FreeAddresses>;

std::string ErrorText(int error) { return std::strerror(error); }

StatusOr<AddressList> Resolve(const HostPort& at, bool to_listen) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (to_listen ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  const int error = getaddrinfo(at.host.c_str(), Text(at.port).c_str(), &hints, &found);
  if (error != 0) {
    return InvalidArgument(Text("can't resolve host '", at.host, "': ", gai_strerror(error)));
  }
  return AddressList(found);
}

std::string NumericHost(const sockaddr* address, socklen_t bytes) {
  char host[NI_MAXHOST] = "";
  getnameinfo(address, bytes, host, sizeof host, nullptr, 0, NI_NUMERICHOST);
  return host;
}

// Waits until the socket is ready for `events` (or broken, which the next call on it tells).
Status WaitFor(int fd, short events, Deadline deadline) {
  for (;;) {
    pollfd entry{fd, events, 0};
    // In pieces, since poll counts milliseconds in an int.
    const int64_t ms = std::min(deadline.RemainingMs(), kLongestPollMs);
    const int ready = poll(&entry, 1, static_cast<int>(ms));
    if (ready > 0) return Status();
    if (ready < 0 && errno != EINTR) return InternalError(Text("poll: ", ErrorText(errno)));
    if (deadline.Passed()) return DeadlineExceeded("the other side was silent until the deadline");
  }
}

// One try at one address. Sets `error` to errno where there is no connection.
Socket TryConnect(const addrinfo& address, Deadline deadline, int& error) {
  Socket socket(::socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  error = 0;
  if (socket.fd() < 0 || connect(socket.fd(), address.ai_addr, address.ai_addrlen) != 0) {
    error = errno;
  }
  if (error != EINPROGRESS) return socket;
  // What is reported if the wait ends without an answer.
  error = ETIMEDOUT;
  const Deadline soon = Deadline::AfterMs(std::min(deadline.RemainingMs(), kConnectMs));
  if (!WaitFor(socket.fd(), POLLOUT, soon).ok()) return socket;
  socklen_t bytes = sizeof error;
  getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &bytes);
  return socket;
}

}  // namespace

StatusOr<HostPort> ParseHostPort(const std::string& text) {
  const Status wrong = InvalidArgument(
      Text("found '", text, "'; expected HOST:PORT, as in 10.0.0.1:29500 or [fe80::1]:29500"));
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return wrong;
  HostPort result;
  result.host = text.substr(0, colon);
  if (result.host.front() == '[') {
    if (result.host.back() != ']' || result.host.size() < 3) return wrong;
    result.host = result.host.substr(1, result.host.size() - 2);
  } else if (result.host.find(':') != std::string::npos) {
    return wrong;  // an IPv6 address without brackets: where its port begins is a guess
  }
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, result.port);
  if (error != std::errc() || stop != end || result.port < 0 || result.port > 65535) return wrong;
  return result;
}

Socket::~Socket() {
  if (fd_ >= 0) close(fd_);
}

Status Socket::Send(const void* data, int64_t bytes, Deadline deadline) const {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t sent = send(fd_, from, static_cast<size_t>(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      from += sent;
      bytes -= sent;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      CAUSEWAY_RETURN_IF_ERROR(WaitFor(fd_, POLLOUT, deadline));
    } else if (errno != EINTR) {
      return Unavailable(Text("the connection broke: ", ErrorText(errno)));
    }
  }
  return Status();
}

Status Socket::Receive(void* data, int64_t bytes, Deadline deadline) const {
  char* to = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = recv(fd_, to, static_cast<size_t>(bytes), MSG_DONTWAIT);
    if (got > 0) {
      to += got;
      bytes -= got;
    } else if (got == 0) {
      return Unavailable("the other side closed the connection");
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      CAUSEWAY_RETURN_IF_ERROR(WaitFor(fd_, POLLIN, deadline));
    } else if (errno != EINTR) {
      return Unavailable(Text("the connection broke: ", ErrorText(errno)));
    }
  }
  return Status();
}

StatusOr<Socket> ListenAt(const std::string& address) {
  CAUSEWAY_ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(address));
  CAUSEWAY_ASSIGN_OR_RETURN(const AddressList list, Resolve(at, /*to_listen=*/true));
  int error = 0;
  for (const addrinfo* each = list.get(); each != nullptr; each = each->ai_next) {
    Socket socket(::socket(each->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    // SO_REUSEADDR: a restart must not wait until the old server's connections have timed out.
    const int on = 1;
    if (socket.fd() >= 0 &&
        setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        bind(socket.fd(), each->ai_addr, each->ai_addrlen) == 0 &&
        listen(socket.fd(), kBacklog) == 0) {
      return socket;
    }
    error = errno;
  }
  return Unavailable(Text("can't listen at ", address, ": ", ErrorText(error)));
}

int PortOf(const Socket& listening) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof address;
  CHECK(getsockname(listening.fd(), reinterpret_cast<sockaddr*>(&address), &bytes) == 0, errno);
  return address.ss_family == AF_INET6
             ? ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port)
             : ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

StatusOr<Socket> ConnectTo(const std::string& address, Deadline deadline) {
  CAUSEWAY_ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(address));
  CAUSEWAY_ASSIGN_OR_RETURN(const AddressList list, Resolve(at, /*to_listen=*/false));
  // All addresses of the name in turn, then a pause, then all again.
  for (;;) {
    int error = 0;
    for (const addrinfo* each = list.get(); each != nullptr; each = each->ai_next) {
      Socket socket = TryConnect(*each, deadline, error);
      if (error != 0) continue;
      const int on = 1;  // requests are small and each waits for its answer
      setsockopt(socket.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      return socket;
    }
    if (deadline.RemainingMs() <= kRetryMs) {
      return DeadlineExceeded(Text("no connection to ", address, ": ", ErrorText(error)));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(kRetryMs));
  }
}

StatusOr<std::string> AddressTowards(const std::string& address) {
  CAUSEWAY_ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(address));
  CAUSEWAY_ASSIGN_OR_RETURN(const AddressList list, Resolve(at, /*to_listen=*/false));
  int error = 0;
  for (const addrinfo* each = list.get(); each != nullptr; each = each->ai_next) {
    // Connecting a datagram socket only looks the route up.
    const Socket socket(::socket(each->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_storage own{};
    socklen_t bytes = sizeof own;
    if (socket.fd() >= 0 && connect(socket.fd(), each->ai_addr, each->ai_addrlen) == 0 &&
        getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&own), &bytes) == 0) {
      return NumericHost(reinterpret_cast<const sockaddr*>(&own), bytes);
    }
    error = errno;
  }
  return Unavailable(Text("no route to ", address, ": ", ErrorText(error)));
}

StatusOr<std::string> AddressOfInterface(const std::string& name_or_address) {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return InternalError(Text("getifaddrs: ", ErrorText(errno)));
  const std::unique_ptr<ifaddrs, FreeAddresses> list(first);
  std::string found;
  bool found_is_ipv4 = false;
  // All names are gathered on the way, for the message.
  std::string all;
  for (const ifaddrs* each = first; each != nullptr; each = each->ifa_next) {
    const int family = each->ifa_addr == nullptr ? AF_UNSPEC : each->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    const std::string numeric =
        NumericHost(each->ifa_addr, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    all += Text(all.empty() ? "" : ", ", each->ifa_name, " (", numeric, ")");
    if (numeric == name_or_address) return numeric;
    if (each->ifa_name == name_or_address && !found_is_ipv4) {
      found = numeric;
      found_is_ipv4 = family == AF_INET;
    }
  }
  if (!found.empty()) return found;
  return InvalidArgument(Text("this host has no network '", name_or_address, "'; it has ", all));
}

}  // namespace causeway
