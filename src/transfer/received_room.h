// ReceivedRoom: a room as a decode host knows it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "base/deadline.h"
#include "transfer/messages.h"
#include "transfer/received_tokens.h"
#include "transfer/receiver.h"

namespace causeway {

struct ReceivedRoom {
  // Of a room on one prefill host.
  enum class Stage { kWaiting, kOpening, kAccepted, kDone, kAcked, kReleased, kRefused };
  struct Part {
    Stage stage = Stage::kWaiting;
    uint64_t link = 0;
    int64_t token_layers = 0;  // received from this host
    // Runs that are being read from the prefill cache, and what came meanwhile and must wait.
    int64_t reading = 0;
    std::optional<DoneMessage> done = {};
  };

  RoomOpen open;
  uint64_t ticket = 0;
  std::string server;  // the address of its host 0
  Deadline until = Deadline::AfterMs(0);
  bool accepted = false;
  std::map<int, Part> parts = {};  // by prefill host
  ReceivedTokens tokens;
  int progress = 0;  // events told
  std::string metadata = {};
  bool local_end = false;  // all released
  std::set<int> reported = {};
  std::optional<Deadline::Clock::time_point> first_run = {};
  int64_t bytes = 0;

  RoomKey key() const { return {open.room, ticket}; }
  // The part that a link has; null: none.
  Part* PartOf(uint64_t link) {
    for (auto& [host, each] : parts) {
      if (each.link == link) return &each;
    }
    return nullptr;
  }
  bool AllAt(Stage stage) const {
    return std::all_of(parts.begin(), parts.end(),
                       [stage](const auto& each) { return each.second.stage == stage; });
  }
  // Notes a run that is in its place; an error where it had come before.
  Status Add(Part& part, const RunHeader& run, int64_t run_bytes);
  // The next event of progress, if it is time for one.
  std::optional<ReceiverEvent> Progress();
  ReceiverEvent Completed();
  // Whether a part's DONE is true, and so is the whole, if it is the last.
  Status CheckDone(int host, const Part& part, const DoneMessage& done) const;
  Status CheckComplete() const;
  // Why it ends when `until` has passed.
  Status LateStatus(int64_t bootstrap_timeout_ms, int64_t waiting_timeout_ms) const;
};

// What makes no sense of an Open, for a cache of so many pages.
Status CheckOpen(const RoomOpen& open, const Layout& layout, int64_t cache_pages);

}  // namespace causeway
