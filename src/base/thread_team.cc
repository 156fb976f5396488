// A loop is announced by a new generation: each worker that sees it takes items from next_item_
// until none is left, then counts itself out of running_. Both sides spin for a while before they
// sleep, since the loops of a layer follow each other closely.
#include "base/thread_team.h"

#include <pthread.h>
#include <sched.h>

#include <system_error>

#include "base/check.h"
#include "base/pause.h"

namespace causeway {
namespace {

constexpr uint32_t kFlushBits = 0x8040;  // MXCSR: FTZ (bit 15) and DAZ (bit 6)
constexpr int kSpins = 2000;  // a few microseconds before the thread sleeps in the kernel

}  // namespace

ScopedFlushDenormals::ScopedFlushDenormals() {
#if defined(__x86_64__)
  saved_ = _mm_getcsr();
  _mm_setcsr(saved_ | kFlushBits);
#else
  saved_ = 0;
#endif
}

ScopedFlushDenormals::~ScopedFlushDenormals() {
#if defined(__x86_64__)
  _mm_setcsr(saved_);
#endif
}

bool PinThisThread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  return pthread_setaffinity_np(pthread_self(), sizeof(set), &set) == 0;
}

std::vector<int> AllowedCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &set)) cpus.push_back(cpu);
  }
  return cpus;
}

ThreadTeam::ThreadTeam(int size, std::vector<int> cpus) : size_(size), cpus_(std::move(cpus)) {
  CHECK(size >= 1, size);
  try {
    for (int worker = 1; worker < size; ++worker) {
      threads_.emplace_back([this, worker] { WorkerLoop(worker); });
    }
  } catch (const std::system_error& failure) {
    // The destructor does not run for an object whose constructor throws: the threads that have
    // started must be joined here.
    const size_t started = threads_.size();
    Stop();
    throw StartError(Text("can't start a team of ", size, " threads: thread ", started + 1,
                          " was refused (", failure.what(), "); use fewer --threads-per-rank"));
  }
}

ThreadTeam::~ThreadTeam() { Stop(); }

void ThreadTeam::Stop() {
  // In this order: who sees the new generation must see stopping_ too.
  stopping_.store(true, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadTeam::PinOwner() const {
  if (!cpus_.empty()) PinThisThread(cpus_[0]);
}

void ThreadTeam::ParallelFor(int64_t items, const std::function<void(int64_t, int)>& body) {
  if (items <= 0) return;
  if (size_ == 1 || items == 1) {
    for (int64_t item = 0; item < items; ++item) body(item, 0);
    return;
  }
  // Written before the generation is released: who sees that sees these.
  body_ = &body;
  items_ = items;
  next_item_.store(0, std::memory_order_relaxed);
  running_.store(size_ - 1, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  RunItems(0);
  for (int spin = 0;; ++spin) {
    const int32_t running = running_.load(std::memory_order_acquire);
    if (running == 0) return;
    // The workers are inside their last items, which end: this wait is bounded by the loop itself.
    if (spin < kSpins) {
      Pause();
    } else {
      running_.wait(running, std::memory_order_acquire);
    }
  }
}

void ThreadTeam::RunItems(int worker) {
  for (;;) {
    const int64_t item = next_item_.fetch_add(1, std::memory_order_relaxed);
    if (item >= items_) return;
    (*body_)(item, worker);
  }
}

void ThreadTeam::WorkerLoop(int worker) {
  if (static_cast<size_t>(worker) < cpus_.size()) PinThisThread(cpus_[static_cast<size_t>(worker)]);
  const ScopedFlushDenormals flush;
  uint32_t seen = 0;
  for (;;) {
    uint32_t generation = generation_.load(std::memory_order_acquire);
    for (int spin = 0; generation == seen && spin < kSpins; ++spin) {
      Pause();
      generation = generation_.load(std::memory_order_acquire);
    }
    while (generation == seen) {
      generation_.wait(seen, std::memory_order_acquire);
      generation = generation_.load(std::memory_order_acquire);
    }
    seen = generation;
    if (stopping_.load(std::memory_order_acquire)) return;
    RunItems(worker);
    // Release, since the owner must see what the items have written; the last one wakes it.
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

}  // namespace causeway
