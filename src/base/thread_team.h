// A team of threads that run one parallel loop at a time: the inside of a rank.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace causeway {

// Makes this thread flush denormal inputs and results to zero (FTZ and DAZ). The bf16 dot
// instruction always flushes, so every thread that computes must do it too, or bits would depend on
// the kernel. Undone in the destructor.
class ScopedFlushDenormals {
 public:
  ScopedFlushDenormals();
  ~ScopedFlushDenormals();
  ScopedFlushDenormals(const ScopedFlushDenormals&) = delete;
  ScopedFlushDenormals& operator=(const ScopedFlushDenormals&) = delete;

 private:
  uint32_t saved_;
};

// `size` workers: the calling thread is worker 0, the others wait between loops. One owner thread
// calls ParallelFor; nothing may depend on which worker runs which item, and no result does.
class ThreadTeam {
 public:
  // Pins worker i to cpus[i] where given (the owner must call PinOwner itself, from its thread).
  // Throws StartError if the system refuses so many threads.
  explicit ThreadTeam(int size, std::vector<int> cpus = {});
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return size_; }
  // Pins the calling thread as worker 0; a no-op without cpus.
  void PinOwner() const;

  // Calls body(item, worker) once for each item in [0, items), on any worker, and returns when all
  // are done. Items are handed out one at a time in ascending order. body must not throw.
  void ParallelFor(int64_t items, const std::function<void(int64_t item, int worker)>& body);

 private:
  // Of workers 1 to size - 1, until Stop.
  void WorkerLoop(int worker);
  void Stop();
  // Takes items of the current loop until none is left.
  void RunItems(int worker);

  const int size_;
  const std::vector<int> cpus_;
  std::vector<std::thread> threads_;
  const std::function<void(int64_t, int)>* body_ = nullptr;  // of the current loop
  int64_t items_ = 0;
  std::atomic<int64_t> next_item_{0};
  std::atomic<uint32_t> generation_{0};  // one per loop; waited on by the workers
  std::atomic<int32_t> running_{0};      // workers still inside the current loop
  std::atomic<bool> stopping_{false};
};

// Pins the calling thread to one CPU; false if the system refuses.
bool PinThisThread(int cpu);
// CPUs this process may run on, ascending.
std::vector<int> AllowedCpus();

}  // namespace causeway
