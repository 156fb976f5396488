// Messages are collectives of the hosts' communicator, so that they have its deadline: a host that
// has gone ends the others within its time-out. Every message begins with a header; followers
// answer it, by which host 0 knows that all of them are alive.
#include "engine/step_broadcast.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

#include "base/check.h"
#include "engine/wire.h"

namespace causeway {
namespace {

constexpr int64_t kMostBeatMs = 5000;  // between signs of life
constexpr CollectiveName kHeader{"step_header"};
constexpr CollectiveName kBatch{"step_batch"};
constexpr CollectiveName kNote{"note"};
constexpr CollectiveName kCountsSize{"counts_size"};
constexpr CollectiveName kCounts{"counts"};
constexpr int64_t kMostCounts = int64_t{1} << 30;  // bytes of one host; far above any model's

// What host 0 sends first; every other host answers with its `kind`, so that host 0 sees it alive.
struct Header {
  enum Kind : int64_t {
    kBeat = 1,
    kStep = 2,
    kEnd = 3,
    kClearCounts = 4,
    kSendCounts = 5,
    kNote = 6
  };
  int64_t kind = kBeat;
  int64_t bytes = 0;  // of the batch or the note that follows
};

// One message from host 0 to all others, of `bytes` bytes, answered with `answer_bytes` bytes.
void FromFirstHost(Communicator& hosts, CollectiveName name, const void* sent, void* received,
                   int64_t bytes, int64_t answer_bytes) {
  std::vector<Outgoing> to(static_cast<size_t>(hosts.size()));
  std::vector<Incoming> from(to.size());
  std::vector<int64_t> answers(to.size(), 1);
  if (hosts.rank() == 0) {
    for (size_t other = 1; other < to.size(); ++other) {
      to[other] = {sent, bytes};
      from[other] = {&answers[other], answer_bytes};
    }
  } else {
    to[0] = {answers.data(), answer_bytes};
    from[0] = {received, bytes};
  }
  hosts.Exchange(name, to, from);
}

void SendHeader(Communicator& hosts, const Header& header) {
  FromFirstHost(hosts, kHeader, &header, nullptr, sizeof(header), sizeof(int64_t));
}

// Every other host sends `mine` to host 0, which knows the sizes: received[host].
void ToFirstHost(Communicator& hosts, CollectiveName name, const void* mine, int64_t bytes,
                 const std::vector<Incoming>& received) {
  std::vector<Outgoing> to(static_cast<size_t>(hosts.size()));
  std::vector<Incoming> from(to.size());
  if (hosts.rank() == 0) {
    from = received;
  } else {
    to[0] = {mine, bytes};
  }
  hosts.Exchange(name, to, from);
}

}  // namespace

// Reports count these apart from the work of the model.
bool IsControl(const std::string& operation) {
  for (const CollectiveName& name : {kHeader, kBatch, kNote, kCountsSize, kCounts}) {
    if (operation == name.operation) return true;
  }
  return false;
}

std::string EncodeBatch(const Batch& batch) {
  WireWriter out;
  out.Put(static_cast<int64_t>(batch.extends.size()));
  for (const Extend& extend : batch.extends) {
    out.Put(extend.begin);
    out.Put(int64_t{extend.decode});
    out.Put(static_cast<int64_t>(extend.logits));
    out.Put(int64_t{extend.dp});
    out.Put(extend.room);
    out.Put(extend.room_tokens);
    out.Put(extend.tokens);
    out.Put(extend.pages);
  }
  out.Put(batch.closed_rooms);
  return std::move(out.bytes());
}

StatusOr<Batch> DecodeBatch(const std::string& bytes) {
  const Status broken = InternalError("a step from host 0 is not readable");
  WireReader reader(bytes);
  Batch batch;
  int64_t count = 0;
  if (!reader.Get(count) || count < 0) return broken;
  for (int64_t i = 0; i < count; ++i) {
    Extend extend;
    int64_t decode = 0;
    int64_t logits = 0;
    int64_t dp = 0;
    if (!reader.Get(extend.begin) || !reader.Get(decode) || !reader.Get(logits) ||
        !reader.Get(dp) || !reader.Get(extend.room) || !reader.Get(extend.room_tokens) ||
        !reader.Get(extend.tokens) || !reader.Get(extend.pages)) {
      return broken;
    }
    if (logits < 0 || logits > static_cast<int64_t>(LogitsWanted::kAll)) return broken;
    extend.decode = decode != 0;
    extend.logits = static_cast<LogitsWanted>(logits);
    extend.dp = static_cast<int32_t>(dp);
    batch.extends.push_back(std::move(extend));
  }
  if (!reader.Get(batch.closed_rooms) || !reader.AtEnd()) return broken;
  return batch;
}

StepBroadcaster::StepBroadcaster(Communicator& hosts)
    : hosts_(hosts), thread_([this] { Beat(); }) {}

StepBroadcaster::~StepBroadcaster() {
  {
    const std::lock_guard lock(stop_mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  thread_.join();
  // After a failure the others end by themselves, and a message would wait for its deadline.
  if (failed_) return;
  try {
    SendHeader(hosts_, {Header::kEnd, 0});
  } catch (const StepFailed& failure) {
    std::fprintf(stderr, "causeway: the end did not reach all hosts: %s\n", failure.what());
  }
}

void StepBroadcaster::Send(const Batch& batch) {
  // Released in StepEnded: between them the heart must not beat, as the step uses the communicator.
  mutex_.lock();  // until StepEnded
  if (const Status status = lost(); !status.ok()) throw StepFailed(status.message());
  const std::string bytes = EncodeBatch(batch);
  const auto size = static_cast<int64_t>(bytes.size());
  SendHeader(hosts_, {Header::kStep, size});
  FromFirstHost(hosts_, kBatch, bytes.data(), nullptr, size, 0);
}

void StepBroadcaster::StepEnded(bool ok) {
  // Also what stopped Send itself: the caller reports every failure here.
  failed_ = failed_ || !ok;
  mutex_.unlock();
}

template <typename Body>
void StepBroadcaster::BetweenSteps(const Body& body) {
  const std::lock_guard lock(mutex_);
  if (const Status status = lost(); !status.ok()) throw StepFailed(status.message());
  try {
    body();
  } catch (const StepFailed&) {
    failed_ = true;
    throw;
  }
}

void StepBroadcaster::ClearCounts(const std::function<void()>& mine) {
  BetweenSteps([&] {
    SendHeader(hosts_, {Header::kClearCounts, 0});
    mine();
  });
}

std::vector<std::string> StepBroadcaster::GatherCounts(const std::function<std::string()>& mine) {
  const auto count = static_cast<size_t>(hosts_.size());
  std::vector<std::string> counts(count);
  BetweenSteps([&] {
    counts[0] = mine();
    SendHeader(hosts_, {Header::kSendCounts, 0});
    std::vector<int64_t> sizes(count, 0);
    std::vector<Incoming> from(count);
    // Two exchanges: first the sizes, which host 0 checks before it takes the memory, then the
    // bytes.
    for (size_t host = 1; host < count; ++host) from[host] = {&sizes[host], sizeof(int64_t)};
    ToFirstHost(hosts_, kCountsSize, nullptr, 0, from);
    for (size_t host = 1; host < count; ++host) {
      if (sizes[host] < 0 || sizes[host] > kMostCounts) {
        throw StepFailed(Text("host ", host, " wants to send counts of ", sizes[host],
                              " bytes; expected at most ", kMostCounts));
      }
      counts[host].resize(static_cast<size_t>(sizes[host]));
      from[host] = {counts[host].data(), sizes[host]};
    }
    ToFirstHost(hosts_, kCounts, nullptr, 0, from);
  });
  return counts;
}

void StepBroadcaster::Note(const std::string& note) {
  const auto size = static_cast<int64_t>(note.size());
  BetweenSteps([&] {
    SendHeader(hosts_, {Header::kNote, size});
    FromFirstHost(hosts_, kNote, note.data(), nullptr, size, 0);
  });
}

Status StepBroadcaster::lost() const {
  const std::lock_guard lock(lost_mutex_);
  return lost_;
}

void StepBroadcaster::Beat() {
  // Four beats within a time-out: a late one is not yet a lost host.
  const auto interval =
      std::chrono::milliseconds(std::min<int64_t>(kMostBeatMs, hosts_.timeout_ms() / 4 + 1));
  for (;;) {
    {
      std::unique_lock lock(stop_mutex_);
      if (stop_.wait_for(lock, interval, [this] { return stopping_; })) return;
    }
    const std::unique_lock lock(mutex_, std::try_to_lock);  // else a step runs
    if (!lock.owns_lock()) continue;
    if (failed_) return;
    try {
      SendHeader(hosts_, {Header::kBeat, 0});
    } catch (const StepFailed& failure) {
      failed_ = true;
      hosts_.Abort(failure.what());  // tells the hosts that are left why
      const std::lock_guard lost_lock(lost_mutex_);
      lost_ = Unavailable(Text("a host was lost between steps: ", failure.what()));
      return;
    }
  }
}

std::optional<Batch> ReceiveStep(Communicator& hosts, const FollowerActions& actions) {
  for (;;) {
    Header header;
    FromFirstHost(hosts, kHeader, nullptr, &header, sizeof(header), sizeof(int64_t));
    if (header.kind == Header::kEnd) return std::nullopt;
    if (header.kind == Header::kBeat) continue;
    if (header.kind == Header::kClearCounts) {
      actions.clear_counts();
      continue;
    }
    if (header.kind == Header::kSendCounts) {
      const std::string mine = actions.encode_counts();
      const auto size = static_cast<int64_t>(mine.size());
      ToFirstHost(hosts, kCountsSize, &size, sizeof(size), {});
      ToFirstHost(hosts, kCounts, mine.data(), size, {});
      continue;
    }
    // The size is host 0's, which is trusted: it is the same program.
    std::string bytes(static_cast<size_t>(std::max<int64_t>(header.bytes, 0)), '\0');
    if (header.kind == Header::kNote) {
      FromFirstHost(hosts, kNote, nullptr, bytes.data(), header.bytes, 0);
      const Status taken = actions.take_note(bytes);
      if (!taken.ok()) throw StepFailed(taken.message());
      continue;
    }
    FromFirstHost(hosts, kBatch, nullptr, bytes.data(), header.bytes, 0);
    StatusOr<Batch> batch = DecodeBatch(bytes);
    if (!batch.ok()) throw StepFailed(batch.status().message());
    return std::move(batch).value();
  }
}

}  // namespace causeway
