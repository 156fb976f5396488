#include "transfer/options.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

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

std::string UcxDevices(const std::string& names, const std::string& rdma_devices) {
  std::string out;
  for (size_t begin = 0; begin <= names.size();) {
    const size_t end = std::min(names.find(',', begin), names.size());
    const std::string name = names.substr(begin, end - begin);
    begin = end + 1;
    if (name.empty()) continue;
    std::error_code error;
    const bool rdma = name.find(':') == std::string::npos &&
                      std::filesystem::exists(rdma_devices + "/" + name, error);
    out += Text(out.empty() ? "" : ",", name, rdma ? ":1" : "");
  }
  return out;
}

void ChooseUcxDevices(const std::string& names) {
  setenv("UCX_NET_DEVICES", UcxDevices(names).c_str(), /*replace=*/1);
}

}  // namespace causeway
