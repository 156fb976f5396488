// How the ranks of a GlooCommunicator meet: each joins the store of rank 0 and says what it was
// started with; when all have, and agree, they connect to each other.
#pragma once

#include <gloo/transport/context.h>
#include <gloo/transport/device.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/deadline.h"
#include "base/status.h"
#include "net/store.h"
#include "parallel/gloo_communicator.h"

namespace causeway {

struct GlooMesh {
  // Of rank 0, until every rank has connected to every other.
  std::unique_ptr<StoreServer> server;
  std::shared_ptr<gloo::transport::Device> device;
  std::shared_ptr<gloo::transport::Context> context;  // holds one connected pair for each peer
  // Chosen by rank 0, known to who has the token, and sent along with every message.
  uint64_t session = 0;
};

// All ranks of the mesh or an error that names --dist-init-addr and who is missing or differs.
StatusOr<GlooMesh> ConnectGlooMesh(const GlooOptions& options, Deadline deadline);

// What Gloo says, without the file and line of its source.
std::string GlooErrorText(const std::exception& error);

}  // namespace causeway
