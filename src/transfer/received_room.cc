#include "transfer/received_room.h"

#include "kernels/op_table.h"

namespace causeway {
namespace {
constexpr int kProgressEvents = 16;
}  // namespace

Status ReceivedRoom::Add(Part& part, const RunHeader& run, int64_t run_bytes) {
  if (const auto twice = tokens.Add(run.layer, run.tokens())) {
    return InternalError(Text("layer ", run.layer, " of token ", *twice, " came twice"));
  }
  part.token_layers += run.count;
  bytes += run_bytes;
  if (!first_run) first_run = Deadline::Clock::now();
  return Status();
}

std::optional<ReceiverEvent> ReceivedRoom::Progress() {
  const int64_t step = kProgressEvents * tokens.received() / tokens.total();
  if (step <= progress) return std::nullopt;
  progress = static_cast<int>(step);
  return ReceiverEvent{
      .kind = ReceiverEvent::Kind::kProgress,
      .room = open.room,
      .share = static_cast<double>(tokens.received()) / static_cast<double>(tokens.total())};
}

ReceiverEvent ReceivedRoom::Completed() {
  ReceiverEvent event{.kind = ReceiverEvent::Kind::kCompleted,
                      .room = open.room,
                      .metadata = std::move(metadata),
                      .bytes = bytes};
  if (first_run) {
    event.seconds = std::chrono::duration<double>(Deadline::Clock::now() - *first_run).count();
  }
  return event;
}

Status ReceivedRoom::CheckDone(int host, const Part& part, const DoneMessage& done) const {
  if (done.token_layers == part.token_layers) return Status();
  return InternalError(Text("room ", open.room, ": prefill host ", host, " has sent ",
                            done.token_layers, " tokens, counted once a layer, and ",
                            part.token_layers, " have come"));
}

Status ReceivedRoom::CheckComplete() const {
  if (tokens.complete()) return Status();
  const auto [layer, token] = tokens.FirstMissing();
  return InternalError(Text("room ", open.room,
                            ": all prefill hosts have sent their keys, but layer ", layer,
                            " of token ", token, " is not among them"));
}

Status ReceivedRoom::LateStatus(int64_t bootstrap_timeout_ms, int64_t waiting_timeout_ms) const {
  if (!accepted) {
    return DeadlineExceeded(Text("the prefill server at ", server, " did not take room ", open.room,
                                 " within ", bootstrap_timeout_ms, " ms"));
  }
  return DeadlineExceeded(Text("room ", open.room, ": nothing came for ", waiting_timeout_ms,
                               " ms; ", tokens.received(), " of ", tokens.total(),
                               " tokens, counted once a layer, are there"));
}

Status CheckOpen(const RoomOpen& open, const Layout& layout, int64_t cache_pages) {
  const auto bad = [&](const std::string& why) {
    return InvalidArgument(Text("room ", open.room, ": ", why));
  };
  if (!Range{0, layout.dp}.Contains(open.dp)) return bad(Text("no group ", open.dp));
  if (open.prompt_tokens < 1 || open.skip < 0 || open.skip > open.prompt_tokens ||
      static_cast<int64_t>(open.pages.size()) * kPage < open.prompt_tokens) {
    return bad(Text(open.pages.size(), " pages for ", open.prompt_tokens, " tokens, ", open.skip,
                    " of them there"));
  }
  for (const int32_t page : open.pages) {
    if (page < 0 || page >= cache_pages) return bad(Text("no page ", page));
  }
  return Status();
}

}  // namespace causeway
