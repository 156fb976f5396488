#include "base/trace.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>

namespace causeway {

void TraceLane::Record(const char* name, int32_t layer, int64_t begin_ns, int64_t end_ns) {
  // One literal may lie at several addresses, one for each source file that uses it.
  auto sum = std::find_if(sums_.begin(), sums_.end(), [&](const Sum& s) {
    return s.name == name || std::strcmp(s.name, name) == 0;
  });
  if (sum == sums_.end()) sum = sums_.insert(sums_.end(), Sum{name});
  sum->ns += end_ns - begin_ns;
  ++sum->calls;
  if (keep_events_) events_.push_back({name, layer, begin_ns, end_ns});
}

Status WriteTrace(const std::string& path, const std::vector<const TraceLane*>& lanes) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "w"),
                                                             &std::fclose);
  if (file == nullptr) return InvalidArgument(Text("--trace: can't write ", path));
  // Times begin at 0 with the first event of any rank; the clock's own origin means nothing.
  int64_t origin = std::numeric_limits<int64_t>::max();
  for (const TraceLane* lane : lanes) {
    for (const TraceLane::Event& e : lane->events()) origin = std::min(origin, e.begin_ns);
  }
  std::fputs("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", file.get());
  // A lane's name is an event too; commas stand between events, so the last of all has none.
  for (size_t rank = 0; rank < lanes.size(); ++rank) {
    std::fprintf(file.get(),
                 "{\"ph\":\"M\",\"pid\":0,\"tid\":%zu,\"name\":\"thread_name\","
                 "\"args\":{\"name\":\"rank %zu\"}}%s\n",
                 rank, rank, rank + 1 == lanes.size() && lanes[rank]->events().empty() ? "" : ",");
    for (size_t i = 0; i < lanes[rank]->events().size(); ++i) {
      const TraceLane::Event& e = lanes[rank]->events()[i];
      const bool last = rank + 1 == lanes.size() && i + 1 == lanes[rank]->events().size();
      // "ts" and "dur" are in microseconds.
      std::fprintf(file.get(),
                   "{\"ph\":\"X\",\"pid\":0,\"tid\":%zu,\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f,"
                   "\"args\":{\"layer\":%d}}%s\n",
                   rank, e.name, static_cast<double>(e.begin_ns - origin) * 1e-3,
                   static_cast<double>(e.end_ns - e.begin_ns) * 1e-3, e.layer, last ? "" : ",");
    }
  }
  std::fputs("]}\n", file.get());
  std::fflush(file.get());  // a full disk shows here at the latest
  if (std::ferror(file.get()) != 0) return InvalidArgument(Text("--trace: can't write ", path));
  return Status();
}

}  // namespace causeway
