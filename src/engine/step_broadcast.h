// Host 0 tells the other hosts what to do: one step after another, until the end.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "model/batch.h"
#include "parallel/communicator.h"

namespace causeway {

// A batch as bytes, and back; an error if the bytes are not what Encode made.
// In the machine's byte order, as hosts of one server are of one kind.
std::string EncodeBatch(const Batch& batch);
StatusOr<Batch> DecodeBatch(const std::string& bytes);

// Host 0's side. While no step runs it lets the other hosts know now and then that it lives, and
// sees that they do. Send and the destructor are the engine thread's.
class StepBroadcaster {
 public:
  // `hosts` must outlive this.
  explicit StepBroadcaster(Communicator& hosts);
  // Tells the other hosts to end, unless a step has failed.
  ~StepBroadcaster();

  // Sends a step and returns when all hosts have it. Until StepEnded the communicator belongs to
  // the step. Throws StepFailed, also if a host was lost since the last step.
  void Send(const Batch& batch);
  void StepEnded(bool ok);
  // Between steps: all hosts clear what they count, or tell it; result[host]. `mine` is host 0's
  // own part. Both throw StepFailed.
  void ClearCounts(const std::function<void()>& mine);
  std::vector<std::string> GatherCounts(const std::function<std::string()>& mine);
  // Between steps: all other hosts get it. Throws StepFailed.
  void Note(const std::string& note);
  // Not ok once a host was lost between steps; says which. From any thread, without waiting.
  Status lost() const;

 private:
  // The thread's loop: signs of life between steps, until the destructor or a failure.
  void Beat();
  template <typename Body>
  void BetweenSteps(const Body& body);

  Communicator& hosts_;
  std::mutex mutex_;     // held by who uses hosts_: a step or a beat
  bool failed_ = false;  // guarded by mutex_
  mutable std::mutex lost_mutex_;
  Status lost_;            // guarded by lost_mutex_
  bool stopping_ = false;  // guarded by stop_mutex_
  std::mutex stop_mutex_;
  std::condition_variable stop_;
  std::thread thread_;
};

// What another host does when host 0 asks about counts, or sends a note.
struct FollowerActions {
  std::function<void()> clear_counts;
  std::function<std::string()> encode_counts;
  std::function<Status(const std::string& note)> take_note;  // an error ends this host
};

// Whether an operation of the hosts' communicator is of this file, and no part of a step's work.
bool IsControl(const std::string& operation);

// Another host's side: waits for the next step. Nothing: the end. Throws StepFailed, also if host 0
// is not heard of for as long as the communicator's time-out.
std::optional<Batch> ReceiveStep(Communicator& hosts, const FollowerActions& actions);

}  // namespace causeway
