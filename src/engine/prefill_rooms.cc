#include "engine/prefill_rooms.h"

#include "base/log.h"

namespace causeway {

StatusOr<std::unique_ptr<PrefillRooms>> PrefillRooms::Make(const TransferOptions& options,
                                                           const KvCache& cache) {
  std::unique_ptr<PrefillRooms> rooms(new PrefillRooms(options));
  rooms->layers_ = cache.shape().layers;
  CAUSEWAY_ASSIGN_OR_RETURN(
      rooms->sender_, KvSender::Make(options, cache, [out = rooms.get()](const SenderEvent& event) {
        const std::lock_guard lock(out->mutex_);
        if (out->listener_) out->listener_(event);
      }));
  return rooms;
}

void PrefillRooms::Attach(RankGroup& ranks) {
  ranks.SetLayerHook([this](const Batch& batch, const StepSlices& slices, int64_t layer) {
    OnLayer(batch, slices, layer);
  });
}

void PrefillRooms::SetListener(std::function<void(const SenderEvent&)> listener) {
  const std::lock_guard lock(mutex_);
  listener_ = std::move(listener);
}

void PrefillRooms::Begin(const Extend& extend) {
  const auto room = static_cast<uint64_t>(extend.room);
  // Other hosts hear of the room here for the first time. Host 0 has accepted it, so it is new to
  // them too.
  if (options_.host > 0) {
    const Status status = sender_->Expect(room, extend.room_tokens, extend.dp);
    if (!status.ok()) LogLine("room_refused").Add("error", status.message());
  }
  sender_->Begin(room, extend.pages);
  // What the prefix cache had: all hosts of the group hold it, and each sends a share.
  const std::vector<Range> cached =
      RunsOfHost(RunsOfCached(options_.layout, extend.dp, {0, extend.begin}), options_.host);
  sender_->PagesWritten(room, kAllLayers, cached);
}

void PrefillRooms::OnLayer(const Batch& batch, const StepSlices& slices, int64_t layer) {
  if (layer == 0) {
    for (const int64_t room : batch.closed_rooms) {
      begun_.erase(room);
      if (options_.host > 0) {
        sender_->Cancel(static_cast<uint64_t>(room), Cancelled("the room was closed"));
      }
    }
  }
  for (size_t i = 0; i < batch.extends.size(); ++i) {
    const Extend& extend = batch.extends[i];
    if (extend.room < 0) continue;
    const auto room = static_cast<uint64_t>(extend.room);
    if (layer == 0 && begun_.insert(extend.room).second) Begin(extend);
    const std::vector<Range> written = RunsOfHost(
        RunsOfChunk(options_.layout, extend.dp, slices, static_cast<int32_t>(i)), options_.host);
    sender_->PagesWritten(room, layer, written);
    if (layer < layers_ - 1 || extend.end() < extend.room_tokens) continue;
    begun_.erase(extend.room);
    // Host 0's engine adds the first token, once it has it.
    if (options_.host > 0) sender_->Finish(room, "");
  }
}

}  // namespace causeway
