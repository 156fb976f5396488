#include "transfer/shared_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kernels/op_table.h"
#include "net/socket.h"

namespace causeway {
namespace {

// A descriptor of another process, opened anew: to be read.
StatusOr<Socket> OpenOf(int64_t pid, int fd) {
  const std::string path = Text("/proc/", pid, "/fd/", fd);
  // O_NONBLOCK: whatever the path leads to, opening it must not wait.
  Socket opened(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (opened.fd() < 0) return Unavailable(Text("can't open ", path, ": ", std::strerror(errno)));
  return opened;
}

// What is mapped need not be read before it is copied.
class MappedCache : public RemoteMemory {
 public:
  MappedCache(std::unique_ptr<KvCache> cache, OnRead on_read)
      : RemoteMemory(cache->pages(), std::move(on_read)), cache_(std::move(cache)) {}

  TransferBackend backend() const override { return TransferBackend::kSharedMemory; }
  bool full() const override { return false; }

 private:
  Status DoRead(RunInMemoryMessage run) override {
    on_read()(run, Rows{*cache_, run.run.layer, {run.pages, run.run.first / kPage}});
    return Status();
  }

  const std::unique_ptr<KvCache> cache_;
};

}  // namespace

SharedCacheOffer::SharedCacheOffer(const KvCache& cache) {
  if (cache.latents_fd() < 0) return;
  proof_ = Buffer::Shared(sizeof(ServerId));
  handle_ = {.pid = getpid(),
             .latents_fd = cache.latents_fd(),
             .index_keys_fd = cache.index_keys_fd(),
             .proof_fd = proof_.shared_fd(),
             .proof = ServerId::Random()};
  std::memcpy(proof_.data(), &handle_.proof, sizeof(ServerId));
}

StatusOr<std::unique_ptr<RemoteMemory>> OpenSharedCache(const HelloMessage& hello,
                                                        RemoteMemory::OnRead on_read) {
  const MemoryHandle& handle = hello.memory;
  if (handle.pid <= 0) return Unavailable("the prefill host offers no shared memory");
  // First of all that this is the process: its number may be another one's here.
  CAUSEWAY_ASSIGN_OR_RETURN(const Socket proof_fd, OpenOf(handle.pid, handle.proof_fd));
  CAUSEWAY_ASSIGN_OR_RETURN(const Buffer proof, Buffer::ReadOnly(proof_fd.fd(), sizeof(ServerId)));
  if (std::memcmp(proof.data(), &handle.proof, sizeof(ServerId)) != 0) {
    return Unavailable(Text("process ", handle.pid, " of this machine is another one"));
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const Socket latents, OpenOf(handle.pid, handle.latents_fd));
  Socket index_keys;
  if (hello.side.shape.index_bytes() > 0) {
    CAUSEWAY_ASSIGN_OR_RETURN(index_keys, OpenOf(handle.pid, handle.index_keys_fd));
  }
  CAUSEWAY_ASSIGN_OR_RETURN(
      std::unique_ptr<KvCache> cache,
      KvCache::OpenShared(hello.side.shape, hello.pages, latents.fd(), index_keys.fd()));
  return std::unique_ptr<RemoteMemory>(new MappedCache(std::move(cache), std::move(on_read)));
}

}  // namespace causeway
