// SentRoom: a room as a prefill host knows it.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "parallel/layout.h"
#include "transfer/messages.h"

namespace causeway {

struct SentRoom {
  // Keys that are in the cache and are to be sent.
  struct Written {
    int32_t layer = 0;
    Range tokens;
  };
  // The room as one decode host has opened it.
  struct Opening {
    uint64_t link = 0;
    uint64_t order = 0;  // of opening, on all links: older ones are sent first
    RoomKey key;
    ServerId server;
    int host = 0;
    int dp = 0;
    int64_t prompt_tokens = 0;
    int64_t skip = 0;
    TransferBackend backend = TransferBackend::kTcp;
    bool accepted = false;
    size_t next = 0;        // of SentRoom::written
    int64_t next_sent = 0;  // of its tokens
    int64_t token_layers = 0;
    bool done = false;
    bool acked = false;

    bool by_tcp() const { return backend == TransferBackend::kTcp; }
  };

  bool expected = false;  // by the engine; else only opened by a decode host
  int64_t prompt_tokens = 0;
  int dp = 0;
  Deadline until = Deadline::AfterMs(0);
  bool opened = false;  // by all hosts
  bool begun = false;
  std::vector<int32_t> pages = {};
  std::vector<Written> written = {};
  bool finished = false;
  std::string metadata = {};
  std::list<Opening> openings = {};
  bool all_acked = false;
  std::set<int> reported = {};  // other hosts of this server that have ended it well
  std::optional<Deadline::Clock::time_point> first_run = {};
  int64_t bytes = 0;

  Opening* Find(uint64_t link, const RoomKey& key);
  Opening* Find(uint64_t order);
  // The next keys to send to an opening, at most so many tokens; none: there are none for now.
  std::optional<Written> Next(Opening& opening, int64_t most) const;
  // Of the pages of `tokens`.
  std::vector<int32_t> PagesOf(Range tokens) const;
  // Why it ends when `until` has passed.
  Status LateStatus(uint64_t id, int64_t bootstrap_timeout_ms, int64_t waiting_timeout_ms) const;
};

}  // namespace causeway
