// A small key-value store over TCP, by which the hosts of a server find each other: one of them
// serves it, all of them (that one too) are its clients, and it is gone when they have met.
//
// A client sends a shared token first; who has another one is told so and cut off. The token
// travels in the clear: it keeps strangers and other servers' hosts out, not somebody who reads the
// network.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "base/deadline.h"
#include "base/status.h"
#include "net/socket.h"

namespace causeway {

// What clients can make a server hold at most.
struct StoreLimits {
  int64_t connections = 256;
  int64_t entries = 4096;
  int64_t key_bytes = 256;
  int64_t value_bytes = 64 * 1024;
  int64_t token_ms = 5'000;  // for a client to send its token
};

// Serves from Make to the end of its life, on one thread of its own. Nothing that a client sends or
// fails to send disturbs another client.
class StoreServer {
 public:
  // Listens at "HOST:PORT"; port 0 takes any free one.
  static StatusOr<std::unique_ptr<StoreServer>> Make(const std::string& address, std::string token,
                                                     StoreLimits limits = {});
  ~StoreServer();

  int port() const { return port_; }
  // Clients turned away so far: wrong or no token, not our protocol, over a limit.
  int64_t refused() const { return refused_.load(std::memory_order_relaxed); }

 private:
  class Loop;
  StoreServer() = default;

  int port_ = 0;
  std::atomic<int64_t> refused_{0};
  std::unique_ptr<Loop> loop_;  // the thread's own; here only so that it outlives the thread
  Socket wake_;                 // readable: stop
  std::thread thread_;
};

// One connection to a StoreServer. Of one thread at a time. After an error other than
// kDeadlineExceeded of Get and kInvalidArgument the connection is of no further use.
class StoreClient {
 public:
  // Tries until the deadline while nobody listens at the address. kInvalidArgument: the token is
  // not the server's.
  static StatusOr<std::unique_ptr<StoreClient>> Connect(const std::string& address,
                                                        const std::string& token,
                                                        Deadline deadline);

  // Sets or replaces a value; kInvalidArgument over a limit of the server.
  Status Set(const std::string& key, const std::string& value, Deadline deadline);
  // Waits until the key is there; kDeadlineExceeded where it never came.
  StatusOr<std::string> Get(const std::string& key, Deadline deadline);
  // Adds to a counter that begins at 0; the sum.
  StatusOr<int64_t> Add(const std::string& key, int64_t delta, Deadline deadline);

 private:
  explicit StoreClient(Socket socket) : socket_(std::move(socket)) {}
  StatusOr<std::string> Ask(const std::string& request, Deadline deadline);

  Socket socket_;
  bool broken_ = false;
};

}  // namespace causeway
