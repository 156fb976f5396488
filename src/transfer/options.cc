#include "transfer/options.h"

#include "transfer/ucx_memory.h"

namespace causeway {

const char* NameOf(TransferBackend backend) {
  switch (backend) {
    case TransferBackend::kAuto:
      return "auto";
    case TransferBackend::kTcp:
      return "tcp";
    case TransferBackend::kSharedMemory:
      return "shm";
    case TransferBackend::kUcx:
      return "ucx";
  }
  return "unknown";
}

std::string TransferBackendNames() {
  return BuiltWithUcx() ? "auto, tcp, shm or ucx" : "auto, tcp or shm";
}

StatusOr<TransferBackend> ParseTransferBackend(const std::string& name) {
  for (const char* other : {"auto", "mooncake", "nixl", "ascend"}) {
    if (name == other) return TransferBackend::kAuto;
  }
  if (name == "tcp") return TransferBackend::kTcp;
  if (name == "shm") return TransferBackend::kSharedMemory;
  const std::string expected = "expected " + TransferBackendNames();
  if (name == "ucx") {
    if (BuiltWithUcx()) return TransferBackend::kUcx;
    return InvalidArgument(
        "--disaggregation-transfer-backend: this build has no ucx (install libucx-dev and build "
        "again); " +
        expected);
  }
  return InvalidArgument(Text("--disaggregation-transfer-backend: found '", name, "'; ", expected));
}

}  // namespace causeway
