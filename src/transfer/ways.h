// Which way keys go from a prefill host to a decode host: by TCP as rows of runs, or read by the
// decode host from the prefill cache, through shared memory or by UCX.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/status.h"
#include "cache/kv_cache.h"
#include "net/socket.h"
#include "transfer/messages.h"
#include "transfer/options.h"
#include "transfer/remote_memory.h"
#include "transfer/shared_cache.h"
#include "transfer/ucx_memory.h"

namespace causeway {

// What a prefill host offers.
class OfferedWays {
 public:
  // An error where the flag demands what can't be. `cache` must outlive this.
  // listener: where decode hosts connect to this one.
  static StatusOr<std::unique_ptr<OfferedWays>> Make(TransferBackend backend, const KvCache& cache,
                                                     const Socket& listener);
  void WriteTo(HelloMessage& hello) const;
  bool Has(TransferBackend way) const;

 private:
  OfferedWays(TransferBackend backend, const KvCache& cache) : backend_(backend), shared_(cache) {}
  const TransferBackend backend_;
  const SharedCacheOffer shared_;
  std::unique_ptr<UcxOffer> ucx_;  // null: not offered
};

// How a decode host takes it. With LinkLoop's lock held.
class WayTaker {
 public:
  // post, deadline_ms: as UcxReader's.
  WayTaker(TransferBackend backend, std::function<void(std::function<void()>)> post,
           int64_t deadline_ms)
      : backend_(backend), post_(std::move(post)), deadline_ms_(deadline_ms) {}
  // To be called first. An error where the flag demands what this host can't do.
  Status Check();
  // Calls `post` no more. What has been opened must be gone.
  void Stop() { ucx_ = nullptr; }
  // The way to the host that said `hello` on the link with the socket `fd`; null: by TCP. An error
  // where one side insists on what the other does not do names both.
  StatusOr<std::unique_ptr<RemoteMemory>> Choose(const HelloMessage& hello, int fd,
                                                 const RemoteMemory::OnRead& on_read);

 private:
  StatusOr<std::unique_ptr<RemoteMemory>> OpenUcx(const HelloMessage& hello, int fd,
                                                  const RemoteMemory::OnRead& on_read);

  const TransferBackend backend_;
  const std::function<void(std::function<void()>)> post_;
  const int64_t deadline_ms_;
  std::unique_ptr<UcxReader> ucx_;  // null: not taken
};

}  // namespace causeway
