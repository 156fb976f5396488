#include "transfer/shared_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

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

StatusOr<std::unique_ptr<KvCache>> OpenSharedCache(const HelloMessage& hello) {
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
  return KvCache::OpenShared(hello.side.shape, hello.pages, latents.fd(), index_keys.fd());
}

}  // namespace causeway
