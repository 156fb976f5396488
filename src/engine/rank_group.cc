// The thread that owns the group decides (slices, deadlines) and waits; each rank's thread
// computes. On several hosts, every host runs the same step on its own ranks, and host 0 sends the
// batch first.
#include "engine/rank_group.h"

#include <algorithm>
#include <cstdlib>

#include "base/log.h"
#include "base/numa.h"
#include "engine/rank_worker.h"
#include "engine/step_broadcast.h"
#include "model/cost.h"
#include "parallel/communicator.h"

namespace causeway {
namespace {

constexpr int kWatchdogExit = 70;  // EX_SOFTWARE of sysexits.h

// As many ranks, layers and experts.
bool SameShape(const std::vector<ExpertCounts>& a, const std::vector<ExpertCounts>& b) {
  const auto same_layer = [](const auto& x, const auto& y) { return x.size() == y.size(); };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [&](const ExpertCounts& x, const ExpertCounts& y) {
                      return std::equal(x.begin(), x.end(), y.begin(), y.end(), same_layer);
                    });
}

}  // namespace

RankGroup::RankGroup(const Weights& weights, const KvCache& cache, const RopeTable& rope,
                     const RankGroupOptions& options)
    : weights_(weights),
      options_(options),
      cost_(PartitionCost(weights.config(), options.layout, cache.shape().int8_index)) {
  const Layout& layout = options_.layout;
  const int count = layout.ranks_per_host();
  const int first = options.host * count;
  const int64_t timeout_ms = options.collective_timeout_ms;
  CHECK((layout.hosts > 1) == (options.hosts != nullptr), layout.ToString());
  // On several hosts the communication thread is one more member.
  const int members = count + (options.hosts != nullptr ? 1 : 0);
  auto ends = MakeThreadsCommunicators(members, timeout_ms, first);
  // The groups below are not wrapped: tests put their faults into the group of all ranks.
  for (auto& end : ends) {
    if (options.wrap_communicator) end = options.wrap_communicator(std::move(end));
  }
  auto host_links = MakeRankLinks(std::move(ends), options.hosts);
  std::vector<std::unique_ptr<RankLink>> tensor_links(static_cast<size_t>(count));
  // A TP group that is larger than the host has no links of its own: it talks over the host's.
  for (int group = 0; layout.tp <= count && group < count; group += layout.tp) {
    auto links = MakeRankLinks(MakeThreadsCommunicators(layout.tp, timeout_ms, first + group),
                               /*hosts=*/nullptr);
    std::move(links.begin(), links.end(), tensor_links.begin() + group);
  }
  // Ranks that share memory, sequences and heads, where they are several.
  std::vector<std::unique_ptr<RankLink>> context_links(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    const std::vector<int> group = ContextGroup(layout, first + i);
    if (group.size() == 1 || group[0] != first + i) continue;  // made with the group's first
    auto links = MakeRankLinks(
        MakeThreadsCommunicators(static_cast<int>(group.size()), timeout_ms, first + i, layout.tp),
        /*hosts=*/nullptr);
    for (size_t member = 0; member < group.size(); ++member) {
      context_links[static_cast<size_t>(group[member] - first)] = std::move(links[member]);
    }
  }
  // One CPU for each thread or no pinning: two that share one would wait for each other.
  std::vector<std::vector<int>> cpus;
  if (options.pin_threads) {
    cpus = PlaceRanks(PlacesOf(AllowedCpus()), count, layout.threads_per_rank);
  }
  cpus.resize(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(i);
    workers_.push_back(std::make_unique<RankWorker>(
        weights, cache, rope, *options.ops, layout, first + i, std::move(cpus[at]),
        options.keep_trace_events,
        RankLinks{std::move(host_links[at]), std::move(tensor_links[at]),
                  std::move(context_links[at])}));
    lanes_.push_back(&workers_.back()->trace());
    reads_.push_back(&workers_.back()->reads());
  }
  if (options.hosts != nullptr && options.host == 0) {
    broadcaster_ = std::make_unique<StepBroadcaster>(*options.hosts);
  }
}

RankGroup::~RankGroup() = default;

Status RankGroup::RunStep(const Batch& batch, StepOutput& output,
                          const std::function<void()>& meanwhile) {
  Status status;
  if (broadcaster_ == nullptr) {
    status = RunHere(batch, output, meanwhile);
  } else {
    try {
      broadcaster_->Send(batch);
      status = RunHere(batch, output, meanwhile);
    } catch (const StepFailed& failure) {
      status = InternalError(failure.what());
    }
    // Also after a failure: the communicator is locked from Send on.
    broadcaster_->StepEnded(status.ok());
  }
  return Remember(std::move(status));
}

Status RankGroup::Remember(Status status) {
  const std::lock_guard lock(failure_mutex_);
  // The first failure is the cause; what follows comes from the abort.
  if (failure_.ok()) failure_ = status;
  return status;
}

Status RankGroup::failure() const {
  {
    const std::lock_guard lock(failure_mutex_);
    if (!failure_.ok()) return failure_;
  }
  return broadcaster_ == nullptr ? Status() : broadcaster_->lost();
}

void RankGroup::SetLayerHook(LayerHook hook) { workers_.front()->SetLayerHook(std::move(hook)); }

Status RankGroup::Note(const std::string& note) {
  if (broadcaster_ == nullptr) return Status();
  try {
    broadcaster_->Note(note);
  } catch (const StepFailed& failure) {
    return Remember(InternalError(failure.what()));
  }
  return Status();
}

Status RankGroup::Follow() {
  CHECK(options_.hosts != nullptr && options_.host > 0, options_.host);
  const FollowerActions actions{
      [this] { ClearHere(); }, [this] { return EncodeCounts(CountsHere()); },
      [this](const std::string& note) {
        return note_hook_ ? note_hook_(note) : InternalError("a note that nobody takes");
      }};
  try {
    while (const std::optional<Batch> batch = ReceiveStep(*options_.hosts, actions)) {
      StepOutput output(weights_.config(), weights_.mode(), *batch, nullptr);
      CAUSEWAY_RETURN_IF_ERROR(RunHere(*batch, output));
    }
  } catch (const StepFailed& failure) {
    return InternalError(failure.what());
  }
  return Status();
}

Status RankGroup::RunHere(const Batch& batch, StepOutput& output,
                          const std::function<void()>& meanwhile) {
  // Every host computes the same slices from the same batch: none is sent.
  slices_ = SlicesOf(batch, options_.layout, cost_);
  for (const auto& worker : workers_) worker->Start(batch, slices_, output);
  const Deadline watchdog = Deadline::AfterMs(options_.watchdog_timeout_ms);
  const std::string exceeded = Text("the step exceeded --watchdog-timeout of ",
                                    1e-3 * static_cast<double>(options_.watchdog_timeout_ms), " s");
  if (meanwhile) meanwhile();
  Status first;
  bool late = false;
  // All are waited for even after a failure: the batch and the output must outlive their use.
  for (size_t rank = 0; rank < workers_.size(); ++rank) {
    std::optional<Status> status = workers_[rank]->Finish(watchdog);
    if (!status.has_value()) {
      // Before anything else, so that /health says it while the ranks are looked at. Collectives
      // end by themselves then; a rank that computes for ever can't be stopped from outside, so the
      // process ends.
      if (!late) {
        stalled_.store(true);
        LogLine("watchdog").Add("error", exceeded);
        LogRanks();
      }
      late = true;
      workers_[rank]->Abort(exceeded);
      status = workers_[rank]->Finish(Deadline::AfterMs(options_.abort_grace_ms));
      if (!status.has_value()) {
        LogRanks();
        LogLine("watchdog_exit")
            .Add("error", Text("rank ", RankOf(rank), " does not end its step"))
            .Add("exit_code", kWatchdogExit);
        std::_Exit(kWatchdogExit);
      }
    }
    // One status stands for all: a rank that fails aborts the others with its message.
    if (first.ok() && !status->ok()) first = *status;
  }
  if (first.ok() && late) {
    first = InternalError(exceeded);
  }
  if (!first.ok()) {
    // The communication thread may still read the step's memory.
    for (const auto& worker : workers_) worker->Settle(Deadline::AfterMs(options_.abort_grace_ms));
  }
  return first;
}

int RankGroup::RankOf(size_t worker) const {
  return options_.host * options_.layout.ranks_per_host() + static_cast<int>(worker);
}

void RankGroup::LogRanks() const {
  const int64_t now_ns = NowNs();
  for (size_t i = 0; i < workers_.size(); ++i) {
    const TraceLane::Now now = workers_[i]->now();
    const bool busy = workers_[i]->busy();
    LogLine line("watchdog_rank");
    line.Add("rank", RankOf(i)).Add("host", options_.host);
    // Between two zones, what it last did says where it is.
    line.Add("state", !busy ? "ended" : now.inside ? "in" : "after");
    line.Add("operation", now.name == nullptr ? "none" : now.name).Add("layer", now.layer);
    line.AddSeconds("for_s",
                    now.name == nullptr ? 0 : static_cast<double>(now_ns - now.since_ns) * 1e-9);
  }
}

void RankGroup::KeepEvents(bool keep) {
  for (const auto& worker : workers_) {
    worker->trace().KeepEvents(keep || options_.keep_trace_events);
  }
}

std::vector<TraceTrack> RankGroup::TakeEvents(int64_t since_ns) {
  std::vector<TraceTrack> tracks;
  for (size_t i = 0; i < workers_.size(); ++i) {
    TraceTrack& track = tracks.emplace_back();
    track.name = Text("rank ", RankOf(i));
    for (const TraceLane::Event& event : workers_[i]->trace().events()) {
      if (event.begin_ns >= since_ns) track.events.push_back(event);
    }
    if (!options_.keep_trace_events) workers_[i]->trace().ClearEvents();
  }
  KeepEvents(false);
  return tracks;
}

Status RankGroup::ClearTraces() {
  if (broadcaster_ == nullptr) {
    ClearHere();
    return Status();
  }
  try {
    broadcaster_->ClearCounts([this] { ClearHere(); });
  } catch (const StepFailed& failure) {
    return Remember(InternalError(failure.what()));
  }
  return Status();
}

StatusOr<std::vector<HostCounts>> RankGroup::Counts() {
  if (broadcaster_ == nullptr) return std::vector<HostCounts>{CountsHere()};
  std::vector<std::string> encoded;
  try {
    encoded = broadcaster_->GatherCounts([this] { return EncodeCounts(CountsHere()); });
  } catch (const StepFailed& failure) {
    return Remember(InternalError(failure.what()));
  }
  std::vector<HostCounts> counts;
  for (size_t host = 0; host < encoded.size(); ++host) {
    auto decoded = DecodeCounts(encoded[host]);
    if (!decoded.ok() ||
        // Sizes are compared because the sums over hosts index one by the other's.
        !SameShape(decoded->experts, counts.empty() ? decoded->experts : counts[0].experts)) {
      return Remember(
          InternalError(Text("the counts of host ", host, " are not those of ",
                             options_.layout.ranks_per_host(), " ranks of this model")));
    }
    counts.push_back(std::move(decoded).value());
  }
  return counts;
}

void RankGroup::ClearHere() {
  for (const auto& worker : workers_) {
    worker->trace().Clear();
    worker->ClearCounters();
  }
  if (options_.hosts == nullptr) return;
  options_.hosts->ClearTraffic();
  workers_[0]->action_times()->Clear();
}

HostCounts RankGroup::CountsHere() const {
  HostCounts counts;
  for (const auto& worker : workers_) {
    auto& reads = counts.reads.emplace_back();
    for (const ReadCounts::Sum& sum : worker->reads().sums()) {
      reads.push_back({sum.operation, sum.calls, sum.bytes});
    }
    counts.experts.push_back(worker->expert_counts());
  }
  if (options_.hosts == nullptr) return counts;
  counts.sent = options_.hosts->traffic();
  for (const TraceLane::Sum& sum : workers_[0]->action_times()->sums()) {
    counts.times.push_back({sum.name, sum.ns});
  }
  return counts;
}

int64_t RankGroup::scratch_bytes() const {
  int64_t most = 0;
  for (const auto& worker : workers_) most = std::max(most, worker->scratch_bytes());
  return most;
}

int64_t RankGroup::scratch_bound() const {
  int64_t most = 0;
  for (const auto& worker : workers_) most = std::max(most, worker->scratch_bound());
  return most;
}

}  // namespace causeway
