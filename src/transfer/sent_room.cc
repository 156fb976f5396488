#include "transfer/sent_room.h"

#include <algorithm>

#include "kernels/op_table.h"

namespace causeway {

SentRoom::Opening* SentRoom::Find(uint64_t link, const RoomKey& key) {
  for (Opening& each : openings) {
    if (each.link == link && each.key == key) return &each;
  }
  return nullptr;
}

SentRoom::Opening* SentRoom::Find(uint64_t order) {
  for (Opening& each : openings) {
    if (each.order == order) return &each;
  }
  return nullptr;
}

std::optional<SentRoom::Written> SentRoom::Next(Opening& opening, int64_t most) const {
  while (opening.next < written.size()) {
    const Written& next = written[opening.next];
    const int64_t begin = std::max({next.tokens.begin, opening.skip, opening.next_sent});
    if (begin < next.tokens.end) {
      Range part = {begin, std::min(next.tokens.end, begin + most)};
      // Cut at the border of a page, where whole panels can be copied.
      if (part.end < next.tokens.end && part.end / kPage * kPage > part.begin) {
        part.end = part.end / kPage * kPage;
      }
      return Written{next.layer, part};
    }
    ++opening.next;
    opening.next_sent = 0;
  }
  return std::nullopt;
}

std::vector<int32_t> SentRoom::PagesOf(Range tokens) const {
  return {pages.begin() + tokens.begin / kPage, pages.begin() + (tokens.end - 1) / kPage + 1};
}

Status SentRoom::LateStatus(uint64_t id, int64_t bootstrap_timeout_ms,
                            int64_t waiting_timeout_ms) const {
  if (!expected) {
    return DeadlineExceeded(Text("no request for room ", id, " came to the prefill server within ",
                                 bootstrap_timeout_ms, " ms"));
  }
  if (!opened) {
    return DeadlineExceeded(
        Text("no decode server opened room ", id, " within ", bootstrap_timeout_ms, " ms"));
  }
  return DeadlineExceeded(
      Text("room ", id, " was not taken by the decode server within ", waiting_timeout_ms, " ms"));
}

}  // namespace causeway
