// What UCX gives out, with owners: a context, registered memory, workers; and the thread on which
// workers make progress.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "net/socket.h"
#include "transfer/ucx_api.h"

namespace causeway {

// One of a side. Any thread.
class UcxContext {
 public:
  static StatusOr<std::unique_ptr<UcxContext>> Make();
  ~UcxContext();
  const UcxApi& ucx() const { return ucx_; }
  ucp_context_h handle() const { return handle_; }

 private:
  UcxContext(const UcxApi& ucx, ucp_context_h handle) : ucx_(ucx), handle_(handle) {}
  const UcxApi& ucx_;
  const ucp_context_h handle_;
};

// Memory that UCX, and with RDMA its devices, read and write without a copy. The memory, and the
// context, must outlive it.
class UcxRegion {
 public:
  static StatusOr<std::unique_ptr<UcxRegion>> Make(const UcxContext& context, void* data,
                                                   int64_t bytes);
  ~UcxRegion();
  ucp_mem_h handle() const { return handle_; }

 private:
  UcxRegion(const UcxContext& context, ucp_mem_h handle) : context_(context), handle_(handle) {}
  const UcxContext& context_;
  const ucp_mem_h handle_;
};

// Tells UCX that what is sent, or received, lies in the region.
void SetRegion(ucp_request_param_t& params, const UcxRegion& region);

// A worker and its threads, if UCX has any, which take no signals. Used, and destroyed, by one
// thread at a time. What is under way at its end is over: nothing is written to local memory later.
class UcxWorker {
 public:
  static StatusOr<std::unique_ptr<UcxWorker>> Make(const UcxContext& context);
  ~UcxWorker();
  ucp_worker_h handle() const { return handle_; }
  int fd() const { return fd_; }
  // Has `handler` called, inside of Progress, with what comes as messages `id`.
  Status Handle(unsigned id, ucp_am_recv_callback_t handler, void* argument);
  // Ends an endpoint at once, and all that is under way on it.
  void Close(ucp_ep_h endpoint);
  // Whether something has happened.
  bool Progress() { return context_.ucx().worker_progress(handle_) != 0; }
  // Whether fd becomes readable when Progress is next to be called; else call it again.
  bool Arm() { return context_.ucx().worker_arm(handle_) == UCS_OK; }

 private:
  UcxWorker(const UcxContext& context, ucp_worker_h handle) : context_(context), handle_(handle) {}
  const UcxContext& context_;
  const ucp_worker_h handle_;
  int fd_ = -1;
};

// The thread of one side that calls UCX: where no hardware reads memory, a read is answered by the
// other side's thread. It sleeps while nothing comes.
class UcxThread {
 public:
  using Task = std::function<void()>;

  // tick: called after each turn; milliseconds until it is to be called again at the latest.
  explicit UcxThread(std::function<int64_t()> tick);
  ~UcxThread() { Stop(); }
  // Runs what was posted, and ends the thread.
  void Stop();

  // Any thread.
  void Post(Task task);

  // On the thread only.
  void Add(UcxWorker& worker) { workers_.push_back(&worker); }
  void Remove(UcxWorker& worker) { std::erase(workers_, &worker); }

 private:
  void Run();
  bool RunTasks();  // whether there were any
  bool Progress();
  // Until a worker or a task wants to go on.
  void Sleep(int64_t ms);
  void Wake() const;

  const std::function<int64_t()> tick_;
  const Socket wake_;
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::vector<Task> inbox_;  // guarded by mutex_
  std::vector<UcxWorker*> workers_;
  int unarmed_ = 0;  // times in a row that a worker had nothing to do and would not sleep
  std::thread thread_;
};

}  // namespace causeway
