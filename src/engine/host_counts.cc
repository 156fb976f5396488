// Lists go as a count and their items; both sides read and write in the order of HostCounts'
// members. What arrives may be anything: every count is compared with the bytes that are left.
#include "engine/host_counts.h"

#include <utility>

#include "engine/wire.h"

namespace causeway {
namespace {

void PutTraffic(WireWriter& out, const std::vector<Traffic>& traffic) {
  out.Put(static_cast<int64_t>(traffic.size()));
  for (const Traffic& each : traffic) {
    out.Put(each.operation);
    out.Put(each.calls);
    out.Put(each.bytes);
  }
}

bool GetTraffic(WireReader& in, std::vector<Traffic>& traffic) {
  size_t count = 0;
  if (!in.GetCount(3 * sizeof(int64_t), count)) return false;
  for (size_t i = 0; i < count; ++i) {
    Traffic& each = traffic.emplace_back();
    if (!in.Get(each.operation) || !in.Get(each.calls) || !in.Get(each.bytes)) return false;
  }
  return true;
}

bool GetCounts(WireReader& in, HostCounts& counts) {
  // A rank has at least the count of its list: that bounds how many there can be.
  size_t ranks = 0;
  if (!in.GetCount(sizeof(int64_t), ranks)) return false;
  for (size_t rank = 0; rank < ranks; ++rank) {
    if (!GetTraffic(in, counts.reads.emplace_back())) return false;
    size_t layers = 0;
    if (!in.GetCount(sizeof(int64_t), layers)) return false;
    ExpertCounts& experts = counts.experts.emplace_back(layers);
    for (auto& layer : experts) {
      if (!in.Get(layer)) return false;
    }
  }
  if (!GetTraffic(in, counts.sent)) return false;
  size_t times = 0;
  if (!in.GetCount(2 * sizeof(int64_t), times)) return false;
  counts.times.resize(times);
  for (HostCounts::ActionTime& time : counts.times) {
    if (!in.Get(time.operation) || !in.Get(time.ns)) return false;
  }
  return in.AtEnd();
}

}  // namespace

std::string EncodeCounts(const HostCounts& counts) {
  WireWriter out;
  out.Put(static_cast<int64_t>(counts.reads.size()));
  for (size_t rank = 0; rank < counts.reads.size(); ++rank) {
    PutTraffic(out, counts.reads[rank]);
    out.Put(static_cast<int64_t>(counts.experts[rank].size()));
    for (const auto& layer : counts.experts[rank]) out.Put(layer);
  }
  PutTraffic(out, counts.sent);
  out.Put(static_cast<int64_t>(counts.times.size()));
  for (const HostCounts::ActionTime& time : counts.times) {
    out.Put(time.operation);
    out.Put(time.ns);
  }
  return std::move(out.bytes());
}

StatusOr<HostCounts> DecodeCounts(const std::string& bytes) {
  WireReader in(bytes);
  HostCounts counts;
  if (!GetCounts(in, counts)) return InternalError("the counts of a host are not readable");
  return counts;
}

}  // namespace causeway
