// TCP sockets whose every wait has a deadline: what the store and the rendezvous of hosts need.
// HTTP has its own.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <utility>

#include "base/deadline.h"
#include "base/status.h"

namespace causeway {

struct HostPort {
  std::string host;  // a name or an address, without brackets
  int port = 0;
};

// Of "HOST:PORT" or "[IPV6]:PORT".
StatusOr<HostPort> ParseHostPort(const std::string& text);

// An open descriptor, closed at the end of its life.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();

  int fd() const { return fd_; }

  // All of the bytes, or an error: kDeadlineExceeded, or kUnavailable when the other side is gone.
  Status Send(const void* data, int64_t bytes, Deadline deadline) const;
  Status Receive(void* data, int64_t bytes, Deadline deadline) const;

 private:
  int fd_ = -1;
};

// Listens at "HOST:PORT"; port 0 takes any free one. The socket does not block.
StatusOr<Socket> ListenAt(const std::string& address);
// The port that a listening socket has; of use after port 0.
int PortOf(const Socket& listening);

// Connects to "HOST:PORT", again and again while nobody listens there, until the deadline.
// Resolving a name takes as long as the system's resolver lets it.
StatusOr<Socket> ConnectTo(const std::string& address, Deadline deadline);

// The numeric address of this host from which packets to "HOST:PORT" leave. Sends nothing.
StatusOr<std::string> AddressTowards(const std::string& address);

// The numeric address of a network of this host, given by its name ("eth0") or by the address
// itself. An IPv4 address is preferred where a name has several.
StatusOr<std::string> AddressOfInterface(const std::string& name_or_address);

}  // namespace causeway
