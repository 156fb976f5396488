#include "transfer/link_loop.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"

namespace causeway {
namespace {

constexpr int64_t kConnectTryMs = 500;  // after which Stop is noticed
constexpr int64_t kLongestWaitMs = 3'600'000;
constexpr int64_t kAcceptPauseMs = 100;
constexpr int64_t kTickMs = 100;
constexpr int kFramesOfTurn = 8;
constexpr size_t kMostLinks = 4096;

}  // namespace

LinkLoop::LinkLoop(LinkOwner& owner, const LinkOptions& options, Socket listener)
    : owner_(owner),
      options_(options),
      listener_(std::move(listener)),
      wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  CHECK(wake_.fd() >= 0, errno);
}

LinkLoop::~LinkLoop() { Stop(); }

void LinkLoop::Start() {
  thread_ = std::thread([this] { Run(); });
}

void LinkLoop::Stop() {
  stop_ = true;
  Wake();
  if (thread_.joinable()) thread_.join();
  std::list<Connecting> connecting;
  {
    const std::lock_guard lock(mutex_);
    connecting.swap(connecting_);
  }
  for (Connecting& each : connecting) each.thread.join();
}

void LinkLoop::Wake() const {
  const uint64_t one = 1;
  // It can fail only where the counter is full, and so readable anyway.
  [[maybe_unused]] const ssize_t written = write(wake_.fd(), &one, sizeof one);
}

void LinkLoop::Post(Task task) {
  bool first = false;
  {
    const std::lock_guard lock(inbox_mutex_);
    first = inbox_.empty();
    inbox_.push_back(std::move(task));
  }
  if (first) Wake();
}

void LinkLoop::RunNow(const Task& task) {
  ++waiting_;
  {
    const std::lock_guard lock(mutex_);
    --waiting_;
    RunTasks();
    task();
    tick_now_ = true;
  }
  Wake();
}

void LinkLoop::RunTasks() {
  std::vector<Task> tasks;
  {
    const std::lock_guard lock(inbox_mutex_);
    tasks.swap(inbox_);
  }
  for (const Task& task : tasks) task();
  if (!tasks.empty()) tick_now_ = true;
}

void LinkLoop::Connect(std::string address, Deadline deadline,
                       std::function<void(StatusOr<Socket>)> done) {
  Connecting& each = connecting_.emplace_back(Connecting{{}, Unavailable("stopped")});
  auto finish = [this, &each, done = std::move(done)] {
    each.thread.join();  // it is at its end
    StatusOr<Socket> socket = std::move(each.socket);
    connecting_.remove_if([&each](const Connecting& other) { return &other == &each; });
    done(std::move(socket));
  };
  each.thread = std::thread([this, &each, address = std::move(address), deadline,
                             finish = std::move(finish)] {
    do {
      each.socket =
          ConnectTo(address, Deadline::AfterMs(std::min(deadline.RemainingMs(), kConnectTryMs)));
      // A name that can't be resolved stays so.
      const StatusCode code = each.socket.status().code();
      if (code == StatusCode::kOk || code == StatusCode::kInvalidArgument) break;
    } while (!stop_ && !deadline.Passed());
    Post(finish);
  });
}

Link& LinkLoop::Add(Socket socket) {
  const int on = 1;
  setsockopt(socket.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return links_.emplace_back(next_id_++, std::move(socket), options_, fault_count_);
}

Link* LinkLoop::Find(uint64_t id) {
  for (Link& link : links_) {
    if (link.id() == id) return link.dead().ok() ? &link : nullptr;
  }
  return nullptr;
}

void LinkLoop::Accept() {
  for (;;) {
    Socket socket(accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket.fd() < 0) {
      // Out of descriptors or memory: who waits to be accepted would keep poll awake.
      if (errno != EAGAIN && errno != EINTR) accept_from_ = Deadline::AfterMs(kAcceptPauseMs);
      return;
    }
    if (links_.size() < kMostLinks) Add(std::move(socket));
  }
}

bool LinkLoop::Pump(Link& link) {
  for (int i = 0; i < kFramesOfTurn; ++i) {
    if (!link.dead().ok() || link.stalled()) return false;
    if (!link.HasOutput() && link.ready()) owner_.Refill(link);
    if (!link.HasOutput()) return false;
    link.Write();
    if (link.blocked()) return false;
  }
  return link.dead().ok();
}

void LinkLoop::Reap() {
  for (auto each = links_.begin(); each != links_.end();) {
    if (each->dead().ok()) {
      ++each;
      continue;
    }
    owner_.OnLost(*each, each->dead());
    each = links_.erase(each);
  }
}

void LinkLoop::Run() {
  std::vector<pollfd> polled;
  std::vector<Link*> of;  // of polled, from its third on
  Deadline next_tick = Deadline::AfterMs(0);
  bool more = false;
  while (!stop_) {
    const bool accepting = accept_from_.Passed();
    polled = {{wake_.fd(), POLLIN, 0}, {accepting ? listener_.fd() : -1, POLLIN, 0}};
    of.clear();
    int64_t wait_ms = std::min(next_tick.RemainingMs(), kLongestWaitMs);
    if (!accepting) wait_ms = std::min(wait_ms, kAcceptPauseMs);
    {
      const std::lock_guard lock(mutex_);
      for (Link& link : links_) {
        if (link.stalled()) {
          wait_ms = std::min(wait_ms, link.stalled_ms());
          continue;
        }
        polled.push_back({link.fd(), link.PollEvents(), 0});
        of.push_back(&link);
        wait_ms = std::min(wait_ms, link.Beat());
        if (!link.dead().ok() || link.resumed()) wait_ms = 0;
      }
    }
    if (more) wait_ms = 0;
    const int ready = poll(polled.data(), polled.size(), static_cast<int>(wait_ms));
    if (ready < 0 && errno != EINTR) return;  // no memory: peers see their connections end
    // A mutex is not fair: who waits for it in RunNow has its turn first.
    while (waiting_ > 0) std::this_thread::yield();

    std::vector<Task> events;
    {
      const std::lock_guard lock(mutex_);
      if (ready > 0 && polled[0].revents != 0) {
        uint64_t count = 0;
        [[maybe_unused]] const ssize_t got = read(wake_.fd(), &count, sizeof count);
      }
      RunTasks();
      if (ready > 0 && polled[1].revents != 0) Accept();
      for (size_t i = 0; i < of.size(); ++i) {
        const bool readable = ready > 0 && polled[i + 2].revents != 0;
        if (!readable && !of[i]->resumed()) continue;
        of[i]->Read(owner_);
        // What has come may have set an earlier deadline.
        if (next_tick.RemainingMs() > kTickMs) next_tick = Deadline::AfterMs(kTickMs);
      }
      if (tick_now_ || next_tick.Passed()) {
        tick_now_ = false;
        next_tick = Deadline::AfterMs(std::min(owner_.Tick(), kLongestWaitMs) + 1);
      }
      more = false;
      for (Link& link : links_) more |= Pump(link);
      Reap();
      events.swap(events_);
    }
    for (const Task& event : events) event();
  }
}

}  // namespace causeway
