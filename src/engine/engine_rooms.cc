// The part of the engine that keys from and to other servers concern. A room ends by an event of
// the transfer, whoever wants it to end: until then the pages of a sequence that sends are read,
// and the sequence stays where it is with its result. What receives ends at once, as nothing is
// written any more once its room is closed.
#include <utility>

#include "engine/engine.h"
#include "engine/first_token.h"

namespace causeway {
namespace {

double SecondsSince(int64_t ns) { return static_cast<double>(NowNs() - ns) * 1e-9; }

}  // namespace

void Engine::TakeRequest(std::unique_ptr<Sequence> taken) {
  Sequence& sequence = *taken;
  may_admit_ = true;
  if (!sequence.sends) {
    scheduler_.Add(std::move(taken));
    return;
  }
  sequence.dp = scheduler_.ChooseGroup(sequence);
  scheduler_.Add(std::move(taken));
  const Status status = options_.prefill_rooms->sender().Expect(
      static_cast<uint64_t>(sequence.request->bootstrap->room), sequence.prompt_tokens(),
      sequence.dp);
  if (status.ok()) return;
  sequence.room_ended = true;  // the room is another's
  Finish(sequence, FinishReason::kError, status);
}

Sequence* Engine::FindRoom(uint64_t room) const {
  for (Sequence* sequence : scheduler_.All()) {
    const std::optional<Bootstrap>& bootstrap = sequence->request->bootstrap;
    if (bootstrap && static_cast<uint64_t>(bootstrap->room) == room) return sequence;
  }
  return nullptr;
}

bool Engine::LeaveRoom(Sequence& sequence, FinishReason reason, const Status& status,
                       const TokenOutput& stop_token) {
  KvSender& sender = options_.prefill_rooms->sender();
  const auto room = static_cast<uint64_t>(sequence.request->bootstrap->room);
  if (!status.ok() || closing_) {
    closed_rooms_.push_back(sequence.request->bootstrap->room);
    sender.Cancel(room, status.ok() ? Cancelled("the server is shutting down") : status);
    sequence.room_ended = closing_;
    if (closing_) return true;  // nobody hears of its end any more
  } else {
    sender.Finish(room, EncodeFirstToken(sequence.first_token));
  }
  if (!sequence.result) sequence.result = Sequence::Result{reason, status, stop_token};
  sequence.blocked = true;
  if (sequence.stage != Sequence::Stage::kWaiting) sequence.stage = Sequence::Stage::kTransfer;
  PublishLoad();
  return false;
}

void Engine::HandleEvents() {
  while (const std::optional<RoomEvent> event = events_.Pop(Deadline::AfterMs(0))) {
    if (const auto* sender = std::get_if<SenderEvent>(&*event)) {
      HandleSender(*sender);
    } else {
      HandleReceiver(std::get<ReceiverEvent>(*event));
    }
  }
}

void Engine::HandleSender(const SenderEvent& event) {
  Sequence* const sequence = FindRoom(event.room);
  if (sequence == nullptr || !sequence->sends) return;
  may_admit_ = true;
  KvTransfer& transfer = sequence->transfer;
  if (event.kind == SenderEvent::Kind::kOpened) {
    transfer.bootstrap_seconds = SecondsSince(sequence->submitted_ns);
    sequence->blocked = sequence->result.has_value();
    return;
  }
  sequence->room_ended = true;
  transfer.seconds = event.seconds;
  transfer.bytes = event.bytes;
  if (event.status.code() != StatusCode::kCancelled) {
    transfer.end = event.status.ok()                ? KvTransfer::End::kWell
                   : transfer.bootstrap_seconds > 0 ? KvTransfer::End::kTransferFailed
                                                    : KvTransfer::End::kBootstrapFailed;
  }
  Sequence::Result result = sequence->result.value_or(
      Sequence::Result{FinishReason::kError, event.status, {.token = -1, .top = {}}});
  if (result.status.ok() && !event.status.ok()) {
    result = {FinishReason::kError, event.status, {.token = -1, .top = {}}};
  }
  if (!event.status.ok()) closed_rooms_.push_back(sequence->request->bootstrap->room);
  Finish(*sequence, result.reason, result.status, result.stop_token);
}

void Engine::HandleReceiver(const ReceiverEvent& event) {
  Sequence* const sequence = FindRoom(event.room);
  if (sequence == nullptr || !sequence->receives || sequence->stage != Sequence::Stage::kTransfer) {
    return;
  }
  KvTransfer& transfer = sequence->transfer;
  if (event.kind == ReceiverEvent::Kind::kAccepted) {
    transfer.bootstrap_seconds = SecondsSince(sequence->admitted_ns);
    return;
  }
  may_admit_ = true;
  transfer.seconds = event.seconds;
  transfer.bytes = event.bytes;
  transfer.end = event.status.ok()                ? KvTransfer::End::kWell
                 : transfer.bootstrap_seconds > 0 ? KvTransfer::End::kTransferFailed
                                                  : KvTransfer::End::kBootstrapFailed;
  StatusOr<TokenOutput> first = event.kind == ReceiverEvent::Kind::kCompleted
                                    ? DecodeFirstToken(event.metadata, host_.config().vocab_size)
                                    : event.status;
  if (!first.ok()) {
    sequence->receives = false;  // the room is closed already
    Finish(*sequence, FinishReason::kError, first.status());
    return;
  }
  sequence->prompt_hit = first->cached_tokens;
  scheduler_.Received(*sequence);
  const Status taken = sequence->changes->Take(first->token);
  if (!taken.ok()) {
    Finish(*sequence, FinishReason::kError, taken);
    return;
  }
  Accept(*sequence, *std::move(first));
}

void Engine::OpenRooms() {
  for (Sequence* sequence : scheduler_.TakeReceivers()) {
    const Bootstrap& bootstrap = *sequence->request->bootstrap;
    sequence->transfer.alloc_seconds = SecondsSince(sequence->submitted_ns);
    options_.decode_rooms->Open({.room = static_cast<uint64_t>(bootstrap.room),
                                 .host = bootstrap.host,
                                 .port = bootstrap.port,
                                 .dp = sequence->dp,
                                 .prompt_tokens = sequence->prompt_tokens(),
                                 .skip = sequence->cached,
                                 .pages = sequence->pages});
  }
}

bool Engine::SendNotes() {
  if (options_.decode_rooms == nullptr || options_.decode_rooms->SendNotes().ok()) return true;
  failed_.store(true);
  scheduler_.StopSharing();
  return false;
}

}  // namespace causeway
