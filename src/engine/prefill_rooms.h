// What a host of a prefill server does for the transfer of keys to decode servers.
//
// Every host has a KvSender, and learns from the batches which rooms there are: after each layer it
// names the tokens that its own ranks have computed (RunsOfChunk), so that keys leave while later
// layers are computed, over the links of all hosts at once. Host 0's engine does the rest.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "engine/rank_group.h"
#include "model/batch.h"
#include "transfer/sender.h"

namespace causeway {

class PrefillRooms {
 public:
  // Listens. `cache` must outlive this.
  static StatusOr<std::unique_ptr<PrefillRooms>> Make(const TransferOptions& options,
                                                      const KvCache& cache);
  // Has every step of the ranks from now on look for rooms. The ranks must run no step any more
  // when this ends.
  void Attach(RankGroup& ranks);
  // Who hears of rooms (KvSender::Make): host 0's engine, before its first room.
  void SetListener(std::function<void(const SenderEvent&)> listener);

  KvSender& sender() { return *sender_; }
  int64_t bootstrap_timeout_ms() const { return options_.bootstrap_timeout_ms; }

 private:
  explicit PrefillRooms(const TransferOptions& options) : options_(options) {}
  // On the first rank's thread.
  void OnLayer(const Batch& batch, const StepSlices& slices, int64_t layer);
  void Begin(const Extend& extend);

  const TransferOptions options_;
  int64_t layers_ = 0;
  std::mutex mutex_;
  std::function<void(const SenderEvent&)> listener_;  // guarded by mutex_
  std::set<int64_t> begun_;                           // of the first rank's thread
  std::unique_ptr<KvSender> sender_;                  // last: its thread calls the listener
};

}  // namespace causeway
