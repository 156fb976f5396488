// RowIntake: how the keys of one prefill host get into a decode host's cache.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "cache/kv_cache.h"
#include "transfer/messages.h"
#include "transfer/remote_memory.h"
#include "transfer/rows.h"

namespace causeway {

// Keys come as rows of a run, for which Place tells where to receive them, or lie in memory. One
// run at a time: Place, then Finish, or neither.
class RowIntake {
 public:
  // from: the prefill host's shape, whose types `conversions` turn into the cache's where they
  // differ. checks: runs have checksums.
  RowIntake(const KvCache& cache, const RowConversions& conversions, const KvShape& from,
            bool checks)
      : cache_(cache), conversions_(conversions), from_(from), checks_(checks) {}

  int64_t RunBytes(int64_t count) const {
    return count * (from_.latent_bytes() + from_.index_bytes());
  }

  // Latents go straight into the pages, unless their type changes; index keys, which pages hold
  // packed, into rows first.
  std::vector<iovec> Place(const RunHeader& run, const TokenPages& pages);
  // They are there. Stores what is not in its place yet. An error: they are damaged.
  Status Finish(const RunHeader& run, const TokenPages& pages, uint64_t checksum);

  // Both at once, from memory that holds them as the prefill host's cache does.
  Status Copy(const RunHeader& run, const RemoteMemory::Rows& source, const TokenPages& pages,
              uint64_t checksum);

 private:
  bool same_latents() const { return from_.latent_type() == cache_.shape().latent_type(); }
  char* index_rows(const RunHeader& run) {
    return rows_.data() + (same_latents() ? 0 : run.count * from_.latent_bytes());
  }

  const KvCache& cache_;
  const RowConversions& conversions_;
  const KvShape from_;
  const bool checks_;

  std::vector<iovec> latents_;  // where those of the run are
  std::string rows_;            // of the run: latents where their type changes, index keys
  std::string converted_;
};

}  // namespace causeway
