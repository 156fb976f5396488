// In place of ucx_memory.cc where the build has found no UCX.
#include "transfer/ucx_memory.h"

namespace causeway {
namespace {

Status None() {
  return InvalidArgument("this build has no ucx; install libucx-dev and build again");
}

}  // namespace

class UcxOffer::Work {};
class UcxReader::Work {};

bool BuiltWithUcx() { return false; }
bool HasRdma() { return false; }
std::string UcxVersionText(uint32_t version) { return Text(version >> 16, ".", version & 0xffff); }

StatusOr<std::unique_ptr<UcxOffer>> UcxOffer::Make(const KvCache&, const sockaddr_storage&) {
  return None();
}
UcxOffer::~UcxOffer() = default;
const UcxHandle& UcxOffer::handle() const {
  static const UcxHandle none;
  return none;
}

StatusOr<std::unique_ptr<UcxReader>> UcxReader::Make(std::function<void(std::function<void()>)>,
                                                     int64_t) {
  return None();
}
UcxReader::~UcxReader() = default;
StatusOr<std::unique_ptr<RemoteMemory>> UcxReader::Open(const HelloMessage&,
                                                        const sockaddr_storage&,
                                                        RemoteMemory::OnRead) {
  return None();
}

}  // namespace causeway
