// The decode side of transfers by UCX.
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "kernels/op_table.h"
#include "transfer/ucx_connection.h"
#include "transfer/ucx_memory.h"

namespace causeway {
namespace {

constexpr int64_t kLongMs = 3'600'000;
constexpr int64_t kMostRuns = 64;  // asked for and not yet there

}  // namespace

// Has connections by number: they live on the thread of UCX, and their RemoteMemory under the lock
// of the link loop, and either may be gone when a word comes from the other.
class UcxReader::Work {
 public:
  class Memory;

  Work(std::function<void(std::function<void()>)> post, int64_t deadline_ms)
      : post_(std::move(post)), deadline_ms_(deadline_ms) {}

  ~Work() {
    if (thread_ != nullptr) thread_->Stop();
  }
  Status Start() {
    CAUSEWAY_ASSIGN_OR_RETURN(context_, UcxContext::Make());
    thread_ = std::make_unique<UcxThread>([this] { return Tick(); });
    return Status();
  }

  StatusOr<std::unique_ptr<RemoteMemory>> Open(const HelloMessage& hello,
                                               const sockaddr_storage& address,
                                               RemoteMemory::OnRead on_read);

 private:
  // ---- On the thread of UCX

  int64_t Tick() {
    int64_t wait_ms = kLongMs;
    for (auto& [id, connection] : connections_) {
      while (UcxConnection::Reading* const reading = connection->Arrived()) {
        post_([this, id = id, reading] {
          Tell(id, *reading);
          thread_->Post([this, id, reading] { Release(id, reading); });
        });
      }
      if (broken_.contains(id)) continue;
      const Status& status = connection->Check();
      wait_ms = std::min(wait_ms, connection->MsLeft());
      if (status.ok()) continue;
      broken_.insert(id);
      post_([this, id = id, status] { TellBroken(id, status); });
    }
    return wait_ms;
  }

  void Release(uint64_t id, UcxConnection::Reading* reading) {
    if (const auto open = connections_.find(id); open != connections_.end()) {
      return open->second->Release(reading);
    }
    const auto closed = closed_.find(id);
    closed->second->Release(reading);
    if (!closed->second->lent()) closed_.erase(closed);
  }

  void Close(uint64_t id) {
    auto node = connections_.extract(id);
    broken_.erase(id);
    thread_->Remove(node.mapped()->worker());
    node.mapped()->Close();
    if (node.mapped()->lent()) closed_.insert(std::move(node));
  }

  // ---- With the lock of the link loop

  void Tell(uint64_t id, const UcxConnection::Reading& reading);
  void TellBroken(uint64_t id, const Status& status);

  const std::function<void(std::function<void()>)> post_;
  const int64_t deadline_ms_;
  std::unique_ptr<UcxContext> context_;

  uint64_t next_id_ = 1;                            // with the lock of the link loop
  std::unordered_map<uint64_t, Memory*> memories_;  // the same

  std::map<uint64_t, std::unique_ptr<UcxConnection>> connections_;  // on the thread of UCX
  std::map<uint64_t, std::unique_ptr<UcxConnection>> closed_;       // whose slots are being copied
  std::set<uint64_t> broken_;                                       // and told

  std::unique_ptr<UcxThread> thread_;
};

class UcxReader::Work::Memory : public RemoteMemory {
 public:
  Memory(Work& work, uint64_t id, const HelloMessage& hello, OnRead on_read)
      : RemoteMemory(hello.pages, std::move(on_read)),
        work_(work),
        id_(id),
        row_bytes_(hello.side.shape.latent_bytes() + hello.side.shape.index_bytes()) {
    work_.memories_[id] = this;
  }
  ~Memory() override {
    work_.memories_.erase(id_);
    work_.thread_->Post([work = &work_, id = id_] { work->Close(id); });
  }

  TransferBackend backend() const override { return TransferBackend::kUcx; }
  bool full() const override { return runs_ >= kMostRuns; }

  void Arrived(const UcxConnection::Reading& reading) {
    --runs_;
    const KvCache& cache = reading.connection->slot(reading);
    std::vector<int32_t> pages(reading.run.pages.size());
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
    on_read()(reading.run, Rows{cache, 0, {pages, reading.run.run.first / kPage}});
  }
  void Broken(const Status& status) { on_read()({}, status); }

 private:
  Status DoRead(RunInMemoryMessage run) override {
    if (run.run.count * row_bytes_ > kMaxRunBytes) {
      return InvalidArgument(Text("keys of ", run.run.count, " tokens at once; expected at most ",
                                  kMaxRunBytes, " bytes"));
    }
    ++runs_;
    work_.thread_->Post(
        [work = &work_, id = id_, run = std::move(run)] { work->connections_.at(id)->Read(run); });
    return Status();
  }

  Work& work_;
  const uint64_t id_;
  const int64_t row_bytes_;
  int64_t runs_ = 0;
};

void UcxReader::Work::Tell(uint64_t id, const UcxConnection::Reading& reading) {
  const auto found = memories_.find(id);
  if (found != memories_.end()) found->second->Arrived(reading);
}

void UcxReader::Work::TellBroken(uint64_t id, const Status& status) {
  const auto found = memories_.find(id);
  if (found != memories_.end()) found->second->Broken(status);
}

StatusOr<std::unique_ptr<RemoteMemory>> UcxReader::Work::Open(const HelloMessage& hello,
                                                              const sockaddr_storage& address,
                                                              RemoteMemory::OnRead on_read) {
  if (hello.ucx.version != context_->ucx().version) {
    return Unavailable(Text("UCX: the prefill host has version ", UcxVersionText(hello.ucx.version),
                            ", this one ", UcxVersionText(context_->ucx().version)));
  }
  CAUSEWAY_ASSIGN_OR_RETURN(std::unique_ptr<UcxConnection> connection,
                            UcxConnection::Make(*context_, hello, address, deadline_ms_));
  const uint64_t id = next_id_++;
  thread_->Post([this, id, raw = connection.release()] {
    thread_->Add(raw->worker());
    connections_.emplace(id, raw);
  });
  return std::unique_ptr<RemoteMemory>(new Memory(*this, id, hello, std::move(on_read)));
}

UcxReader::UcxReader(std::unique_ptr<Work> work) : work_(std::move(work)) {}
UcxReader::~UcxReader() = default;

StatusOr<std::unique_ptr<UcxReader>> UcxReader::Make(
    std::function<void(std::function<void()>)> post, int64_t deadline_ms) {
  auto work = std::make_unique<Work>(std::move(post), deadline_ms);
  CAUSEWAY_RETURN_IF_ERROR(work->Start());
  return std::unique_ptr<UcxReader>(new UcxReader(std::move(work)));
}

StatusOr<std::unique_ptr<RemoteMemory>> UcxReader::Open(const HelloMessage& hello,
                                                        const sockaddr_storage& address,
                                                        RemoteMemory::OnRead on_read) {
  return work_->Open(hello, address, std::move(on_read));
}

}  // namespace causeway
