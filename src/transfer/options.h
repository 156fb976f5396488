// What both sides of a transfer are told, and what they count.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "base/status.h"
#include "parallel/layout.h"
#include "transfer/link.h"
#include "transfer/messages.h"

namespace causeway {

const char* NameOf(TransferBackend backend);
// "auto, tcp, shm or ucx", as far as this build has them.
std::string TransferBackendNames();
// Accepts the names of SGLang's backends (mooncake, nixl, ascend) for auto.
StatusOr<TransferBackend> ParseTransferBackend(const std::string& name);

struct TransferOptions {
  // Where this host listens, "HOST:PORT"; port 0 takes any free one.
  std::string listen = "127.0.0.1:0";
  std::string model;  // TransferSide
  Layout layout;
  int host = 0;  // this one of the layout's
  // The same on all hosts of a server, another each time that it starts; empty: random.
  ServerId server = {};
  TransferBackend backend = TransferBackend::kAuto;
  bool checksum = false;  // of every run; on where one of the sides wants it

  int64_t run_tokens = 512;                // of a kRun, at most
  int64_t bootstrap_timeout_ms = 300'000;  // for a decode server to open a room, and the reverse
  int64_t waiting_timeout_ms = 300'000;    // without any progress of a room that is open
  int64_t connect_timeout_ms = 10'000;
  LinkOptions link = {};

  // Each run fails its room with this probability (CAUSEWAY_TEST_DISAGG_FAILURE_PROB).
  double failure_probability = 0;
  uint64_t failure_seed = 1;
};

// Of one side, since it began. Any thread.
struct TransferCounters {
  std::atomic<int64_t> rooms_opened{0};
  std::atomic<int64_t> rooms_completed{0};
  std::atomic<int64_t> rooms_failed{0};
  std::atomic<int64_t> bootstrap_failures{0};  // of the failed: nobody came in time, or refused
  std::atomic<int64_t> peers_lost{0};
  std::atomic<int64_t> runs{0};
  std::atomic<int64_t> bytes{0};  // of keys, by all ways
  std::atomic<int64_t> shared_memory_bytes{0};
  std::atomic<int64_t> ucx_bytes{0};
  // Of completed rooms: from the first run to the end, and their bytes.
  std::atomic<int64_t> completed_ns{0};
  std::atomic<int64_t> completed_bytes{0};

  // Of a run.
  void Count(TransferBackend way, int64_t run_bytes) {
    ++runs;
    bytes += run_bytes;
    if (way == TransferBackend::kSharedMemory) shared_memory_bytes += run_bytes;
    if (way == TransferBackend::kUcx) ucx_bytes += run_bytes;
  }
  double SpeedBytesPerSecond() const {
    const int64_t ns = completed_ns;
    return ns > 0 ? static_cast<double>(completed_bytes) / (static_cast<double>(ns) * 1e-9) : 0;
  }
};

}  // namespace causeway
