// A prefill cache as another host reads it by UCX: by RDMA where there is any, else over TCP. Every
// build has these functions; one without UCX has errors.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "cache/kv_cache.h"
#include "transfer/messages.h"
#include "transfer/remote_memory.h"

namespace causeway {

bool BuiltWithUcx();
// Whether this host has a device for RDMA that UCX can use.
bool HasRdma();
// Has UCX use these network devices alone, from when it is loaded on: "mlx5_0,mlx5_1:2", of RDMA
// devices port 1 where none is named. To be called before other threads are.
void ChooseUcxDevices(const std::string& names);
// What UCX calls them. rdma_devices: where the system lists those.
std::string UcxDevices(const std::string& names,
                       const std::string& rdma_devices = "/sys/class/infiniband");
// "1.13" of UcxHandle::version.
std::string UcxVersionText(uint32_t version);

// The prefill side. Registers the cache, which must outlive this, and listens on a thread of its
// own for decode hosts, which ask it for runs. It sends what they ask for: rows of its cache.
class UcxOffer {
 public:
  // Listens at any free port of `address`.
  static StatusOr<std::unique_ptr<UcxOffer>> Make(const KvCache& cache,
                                                  const sockaddr_storage& address);
  ~UcxOffer();
  // What a host says of it in its HELLO.
  const UcxHandle& handle() const;

 private:
  class Work;
  explicit UcxOffer(std::unique_ptr<Work> work);
  const std::unique_ptr<Work> work_;
};

// The decode side. Reads go into memory of its own, and are told when they are there: nothing that
// comes late can reach a page of the cache.
class UcxReader {
 public:
  // post: has a task run as RemoteMemory's calls are. deadline_ms: a connection on which nothing
  // that was asked for has come for so long is given up.
  static StatusOr<std::unique_ptr<UcxReader>> Make(std::function<void(std::function<void()>)> post,
                                                   int64_t deadline_ms);
  // What was posted must not run any more.
  ~UcxReader();

  // The cache of the host at `address`, whose port does not matter, that said `hello`, which must
  // offer it. The reader must outlive it.
  StatusOr<std::unique_ptr<RemoteMemory>> Open(const HelloMessage& hello,
                                               const sockaddr_storage& address,
                                               RemoteMemory::OnRead on_read);

 private:
  class Work;
  explicit UcxReader(std::unique_ptr<Work> work);
  const std::unique_ptr<Work> work_;
};

}  // namespace causeway
