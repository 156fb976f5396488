// Flags of prefill and decode servers, and what a host of one has beside its ranks.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "base/status.h"
#include "engine/decode_rooms.h"
#include "engine/model_host.h"
#include "engine/prefill_rooms.h"

namespace causeway {

struct DisaggregationFlags {
  std::string mode = "null";
  int bootstrap_port = 8998;
  std::string transfer_backend = "auto";
  std::string ib_device;  // empty: as UCX chooses
  bool decode_radix_cache = false;
  int64_t reserved_decode_tokens = 512;
  bool checksum = false;
  // In seconds, as is the next.
  int64_t bootstrap_timeout = 300;
  int64_t waiting_timeout = 300;
  double heartbeat_interval = 5.0;
  int heartbeat_max_failure = 2;

  void Register(CLI::App& app);
  Status Check() const;
  bool prefills() const { return mode == "prefill"; }
  bool decodes() const { return mode == "decode"; }
};

// The transfer's part of one host: at most one of the two, of the flags' role.
struct Disaggregation {
  std::unique_ptr<PrefillRooms> prefill;
  std::unique_ptr<DecodeRooms> decode;

  // Makes the part once the hosts have met: to be called in HostOptions::before_ranks. `address`:
  // of --host, where the transfer listens too.
  Status Make(const DisaggregationFlags& flags, const std::string& address,
              const HostOptions& options, ModelHost& host);
  // Has the ranks work with it.
  void Attach(RankGroup& ranks);
  // For the metrics; null: neither.
  const TransferCounters* counters() const;
  // Where decode servers find this prefill server; 0: it is none.
  int bootstrap_port() const { return prefill ? prefill->sender().port() : 0; }
};

}  // namespace causeway
