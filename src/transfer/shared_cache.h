// A prefill cache as another process of the same machine sees it: read only, through /proc.
#pragma once

#include <memory>

#include "base/buffer.h"
#include "base/status.h"
#include "cache/kv_cache.h"
#include "transfer/messages.h"
#include "transfer/remote_memory.h"

namespace causeway {

// What a prefill host says of its cache in its HELLO. Must live as long as the cache is offered.
class SharedCacheOffer {
 public:
  // Without a handle if the cache is KvMemory::kPrivate.
  explicit SharedCacheOffer(const KvCache& cache);
  const MemoryHandle& handle() const { return handle_; }

 private:
  Buffer proof_;
  MemoryHandle handle_;
};

// The cache of the host that said `hello`. The error says why it can't be mapped: it is on another
// machine, of another user, behind another process namespace, or offers none.
StatusOr<std::unique_ptr<RemoteMemory>> OpenSharedCache(const HelloMessage& hello,
                                                        RemoteMemory::OnRead on_read);

}  // namespace causeway
