#include "transfer/options.h"

namespace causeway {

const char* NameOf(TransferBackend backend) {
  switch (backend) {
    case TransferBackend::kAuto:
      return "auto";
    case TransferBackend::kTcp:
      return "tcp";
    case TransferBackend::kSharedMemory:
      return "shm";
  }
  return "unknown";
}

StatusOr<TransferBackend> ParseTransferBackend(const std::string& name) {
  for (const char* other : {"auto", "mooncake", "nixl", "ascend"}) {
    if (name == other) return TransferBackend::kAuto;
  }
  if (name == "tcp") return TransferBackend::kTcp;
  if (name == "shm") return TransferBackend::kSharedMemory;
  const std::string expected = "expected auto, tcp or shm";
  if (name == "ucx") {
    return InvalidArgument("--disaggregation-transfer-backend: this build has no ucx; " + expected);
  }
  return InvalidArgument(Text("--disaggregation-transfer-backend: found '", name, "'; ", expected));
}

}  // namespace causeway
