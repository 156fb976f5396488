// LinkLoop: the transfer thread, which serves all links of one side with poll(2).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "net/socket.h"
#include "transfer/link.h"

namespace causeway {

// One lock guards the owner's state and the links. The thread holds it while it works and not while
// it waits; others take it for RunNow only. A Post costs a short lock of its own.
class LinkLoop {
 public:
  using Task = std::function<void()>;

  // `owner` must outlive Stop. `listener`: whose connections become links; may be none.
  LinkLoop(LinkOwner& owner, const LinkOptions& options, Socket listener);
  ~LinkLoop();
  void Start();
  // Ends the thread and all connects under way. The owner is not called any more.
  void Stop();

  // Has the thread run `task` with the lock held, after all posted before. Any thread.
  void Post(Task task);
  // Runs all that was posted and `task` on the calling thread, with the lock held. Not from tasks
  // or events.
  void RunNow(const Task& task);
  // Connects on a thread of its own, again and again until the deadline, and posts `done`.
  void Connect(std::string address, Deadline deadline, std::function<void(StatusOr<Socket>)> done);

  // With the lock held:
  Link& Add(Socket socket);
  Link* Find(uint64_t id);  // null once it is dead
  // Has the thread call `event` without the lock, after all told before.
  void Tell(Task event) { events_.push_back(std::move(event)); }

 private:
  struct Connecting {
    std::thread thread;
    StatusOr<Socket> socket;
  };

  void Run();
  void RunTasks();
  void Accept();
  // Lets the link write, and the owner give it more, for a turn; whether there is more to do.
  bool Pump(Link& link);
  void Reap();
  void Wake() const;

  LinkOwner& owner_;
  const LinkOptions options_;
  const Socket listener_;
  const Socket wake_;
  std::atomic<bool> stop_{false};
  std::atomic<int> waiting_{0};  // threads in RunNow

  std::mutex inbox_mutex_;
  std::vector<Task> inbox_;  // guarded by inbox_mutex_

  std::mutex mutex_;       // guards what follows
  std::list<Link> links_;  // erased by the thread only
  uint64_t next_id_ = 1;
  int64_t fault_count_ = 0;
  std::vector<Task> events_;
  std::list<Connecting> connecting_;
  bool tick_now_ = true;

  Deadline accept_from_ = Deadline::AfterMs(0);  // the thread's own

  std::thread thread_;
};

}  // namespace causeway
