// In place of gloo_communicator.cc where the build has found no Gloo.
#include "parallel/gloo_communicator.h"

namespace causeway {

StatusOr<std::unique_ptr<Communicator>> MakeGlooCommunicator(const GlooOptions& options) {
  return InvalidArgument("--dist-init-addr " + options.init_addr +
                         ": this build has no Gloo, so it serves on one host only; install "
                         "libgloo-dev and build again");
}

}  // namespace causeway
