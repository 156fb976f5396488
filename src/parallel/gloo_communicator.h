// A group whose ranks are processes, one on each host, that talk through Gloo over TCP. They find
// each other at one address: rank 0 serves a small store there (net/store.h) until all have met.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "parallel/communicator.h"

namespace causeway {

extern const char kCausewayVersion[];  // of this program; in communicator.cc

struct GlooOptions {
  int rank = 0;
  int size = 1;
  // HOST:PORT of --dist-init-addr, an address of rank 0's host that every host reaches.
  std::string init_addr;
  // The same at every rank. A process without it is turned away, and told so.
  std::string token;
  // The network that this rank's data takes: its name or this host's address in it; empty: the one
  // that leads to init_addr.
  std::string interface;
  int64_t timeout_ms = 60'000;              // of each collective
  int64_t rendezvous_timeout_ms = 600'000;  // for all ranks to meet
  // Must be equal at every rank; a mismatch says both values. `config` is what else has to agree, a
  // digest of flags and model.
  std::string version = kCausewayVersion;
  std::string config;
  std::string noun = "rank";  // what errors call a member of the group
};

// Returns when all ranks have met, or the error that says which did not come or disagree. From then
// on collectives need no store. Errors name --dist-init-addr. Makes the process ignore SIGPIPE,
// since Gloo writes to sockets without asking for anything else. In a build without Gloo: the error
// that says which package it needs.
StatusOr<std::unique_ptr<Communicator>> MakeGlooCommunicator(const GlooOptions& options);

}  // namespace causeway
