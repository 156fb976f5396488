#include "transfer/ways.h"

namespace causeway {
namespace {

constexpr char kFlag[] = "--disaggregation-transfer-backend";

// The status of a way that a flag demands.
Status Demanded(TransferBackend way, const Status& status) {
  return Status(status.code(), Text(kFlag, " ", NameOf(way), ": ", status.message()));
}

}  // namespace

StatusOr<std::unique_ptr<OfferedWays>> OfferedWays::Make(TransferBackend backend,
                                                         const KvCache& cache,
                                                         const Socket& listener) {
  if (backend == TransferBackend::kSharedMemory && cache.latents_fd() < 0) {
    return InvalidArgument(Text(kFlag, " shm needs a cache in shared memory"));
  }
  std::unique_ptr<OfferedWays> ways(new OfferedWays(backend, cache));
  const bool demanded = backend == TransferBackend::kUcx;
  if (demanded || (backend == TransferBackend::kAuto && HasRdma())) {
    sockaddr_storage address{};
    socklen_t bytes = sizeof address;
    getsockname(listener.fd(), reinterpret_cast<sockaddr*>(&address), &bytes);
    auto ucx = UcxOffer::Make(cache, address);
    if (ucx.ok()) {
      ways->ucx_ = std::move(*ucx);
    } else if (demanded) {
      return Demanded(backend, ucx.status());
    }
  }
  return ways;
}

void OfferedWays::WriteTo(HelloMessage& hello) const {
  hello.backend = backend_;
  if (Has(TransferBackend::kSharedMemory)) hello.memory = shared_.handle();
  if (ucx_ != nullptr) hello.ucx = ucx_->handle();
}

bool OfferedWays::Has(TransferBackend way) const {
  if (backend_ != TransferBackend::kAuto && backend_ != way) return false;
  switch (way) {
    case TransferBackend::kSharedMemory:
      return shared_.handle().pid > 0;
    case TransferBackend::kUcx:
      return ucx_ != nullptr;
    case TransferBackend::kTcp:
    case TransferBackend::kAuto:
      break;
  }
  return way == TransferBackend::kTcp;
}

Status WayTaker::Check() {
  const bool demanded = backend_ == TransferBackend::kUcx;
  if (!demanded && (backend_ != TransferBackend::kAuto || !HasRdma())) return Status();
  auto ucx = UcxReader::Make(post_, deadline_ms_);
  if (ucx.ok()) {
    ucx_ = std::move(*ucx);
  } else if (demanded) {
    return Demanded(backend_, ucx.status());
  }
  return Status();
}

StatusOr<std::unique_ptr<RemoteMemory>> WayTaker::Choose(const HelloMessage& hello, int fd,
                                                         const RemoteMemory::OnRead& on_read) {
  constexpr TransferBackend kAuto = TransferBackend::kAuto;
  const TransferBackend theirs = hello.backend;
  if (backend_ != kAuto && theirs != kAuto && backend_ != theirs) {
    return InvalidArgument(Text(kFlag, ": the prefill server has ", NameOf(theirs),
                                ", the decode server ", NameOf(backend_)));
  }
  const TransferBackend demanded = backend_ != kAuto ? backend_ : theirs;
  const auto both = [&](const Status& status) {
    return Unavailable(Text(kFlag, ": the prefill server has ", NameOf(theirs),
                            ", the decode server ", NameOf(backend_), ": ", status.message()));
  };
  if (demanded == TransferBackend::kSharedMemory || demanded == kAuto) {
    auto shared = OpenSharedCache(hello, on_read);
    if (shared.ok()) return shared;
    if (demanded != kAuto) return both(shared.status());
  }
  // Without hardware that reads memory it would be slower than TCP.
  if (demanded == TransferBackend::kUcx ||
      (demanded == kAuto && hello.ucx.rdma && ucx_ != nullptr)) {
    auto ucx = OpenUcx(hello, fd, on_read);
    if (ucx.ok()) return ucx;
    if (demanded != kAuto) return both(ucx.status());
  }
  return std::unique_ptr<RemoteMemory>();
}

StatusOr<std::unique_ptr<RemoteMemory>> WayTaker::OpenUcx(const HelloMessage& hello, int fd,
                                                          const RemoteMemory::OnRead& on_read) {
  if (hello.ucx.version == 0) return Unavailable("the prefill host offers no ucx");
  if (ucx_ == nullptr) {
    return Unavailable("the decode host has no RDMA, and takes ucx only where its flag says so");
  }
  sockaddr_storage address{};
  socklen_t bytes = sizeof address;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) {
    return Unavailable("the connection is gone");
  }
  return ucx_->Open(hello, address, on_read);
}

}  // namespace causeway
