#include "router/worker.h"

#include <algorithm>
#include <charconv>
#include <random>

namespace causeway {
namespace {

// Sixteen random bytes in the form of a UUID (version 4), as SGLang's router names workers.
std::string RandomId() {
  std::random_device random;
  std::string out;
  constexpr std::string_view kDigits = "0123456789abcdef";
  for (int i = 0; i < 32; ++i) {
    if (i == 8 || i == 12 || i == 16 || i == 20) out += '-';
    size_t digit = random() % 16;
    if (i == 12) digit = 4;
    if (i == 16) digit = 8 + digit % 4;
    out += kDigits[digit];
  }
  return out;
}

}  // namespace

const char* NameOf(WorkerType type) {
  switch (type) {
    case WorkerType::kRegular:
      return "regular";
    case WorkerType::kPrefill:
      return "prefill";
    case WorkerType::kDecode:
      return "decode";
  }
  return "unknown";
}

StatusOr<WorkerType> ParseWorkerType(std::string_view name) {
  for (const WorkerType type : {WorkerType::kRegular, WorkerType::kPrefill, WorkerType::kDecode}) {
    if (name == NameOf(type)) return type;
  }
  return InvalidArgument(Text("worker_type is '", name, "'; expected regular, prefill or decode"));
}

StatusOr<HostPort> ParseWorkerUrl(const std::string& source, const std::string& url) {
  const auto wrong = [&](const char* why) {
    return InvalidArgument(Text(source, " is '", url, "': ", why, "; expected http://HOST:PORT"));
  };
  std::string_view rest = url;
  const size_t scheme = rest.find("://");
  if (scheme != std::string_view::npos) {
    if (rest.substr(0, scheme) != "http") return wrong("workers are reached by plain http only");
    rest.remove_prefix(scheme + 3);
  }
  if (rest.ends_with('/')) rest.remove_suffix(1);
  if (rest.find_first_of("/?#@ \t\r\n") != std::string_view::npos) {
    return wrong("it has more than a host and a port");
  }
  // Without a port: the scheme's.
  const size_t bracket = rest.rfind(']');
  const size_t colon = rest.rfind(':');
  const bool has_port =
      colon != std::string_view::npos && (bracket == std::string_view::npos || colon > bracket);
  const std::string text = has_port ? std::string(rest) : Text(rest, ":80");
  StatusOr<HostPort> address = ParseHostPort(text);
  if (!address.ok() || address->host.empty() || address->port == 0) {
    return wrong("host or port can't be read");
  }
  return address;
}

std::string WorkerUrl(const HostPort& address) {
  const bool v6 = address.host.find(':') != std::string::npos;
  return Text("http://", v6 ? "[" : "", address.host, v6 ? "]" : "", ":", address.port);
}

Worker::Worker(UpstreamSweep& sweep, uint64_t number, std::string id, WorkerSpec spec,
               HostPort address, const UpstreamOptions& upstream, const BreakerOptions& breaker,
               const HealthOptions& health)
    : number(number),
      id(std::move(id)),
      spec(std::move(spec)),
      upstream(sweep, std::move(address), upstream),
      breaker(breaker),
      health(health) {}

WorkerLease::WorkerLease(Worker& worker) : use_(worker) {
  ++worker.requests;
  worker.breaker.Begin(Deadline::Clock::now());
}

WorkerLease::~WorkerLease() {
  --worker().requests;
  if (!told_) worker().breaker.Dropped();
}

void WorkerLease::Succeeded() {
  if (!std::exchange(told_, true)) worker().breaker.Succeeded(Deadline::Clock::now());
}

void WorkerLease::Failed() {
  if (!std::exchange(told_, true)) worker().breaker.Failed(Deadline::Clock::now());
}

WorkerList::WorkerList(UpstreamSweep& sweep, const UpstreamOptions& upstream,
                       const BreakerOptions& breaker, const HealthOptions& health)
    : sweep_(sweep), upstream_(upstream), breaker_(breaker), health_(health) {}

StatusOr<Worker*> WorkerList::Add(const WorkerSpec& spec) {
  CAUSEWAY_ASSIGN_OR_RETURN(HostPort address, ParseWorkerUrl("a worker's URL", spec.url));
  WorkerSpec named = spec;
  named.url = WorkerUrl(address);
  if (Find(named.url) != nullptr) {
    return Unavailable(Text("there is a worker ", named.url, " already"));
  }
  workers_.push_back(std::make_unique<Worker>(sweep_, ++last_number_, RandomId(), std::move(named),
                                              std::move(address), upstream_, breaker_, health_));
  return workers_.back().get();
}

Worker* WorkerList::Find(const std::string& name) const {
  const StatusOr<HostPort> address = ParseWorkerUrl("a worker's URL", name);
  const std::string url = address.ok() ? WorkerUrl(*address) : "";
  for (const auto& worker : workers_) {
    if (worker->id == name || worker->spec.url == url) return worker.get();
  }
  return nullptr;
}

void WorkerList::Remove(Worker* worker) {
  const auto found = std::find_if(workers_.begin(), workers_.end(),
                                  [worker](const auto& entry) { return entry.get() == worker; });
  CHECK(found != workers_.end(), "no such worker");
  worker->upstream.KeepNone();
  leaving_.push_back(std::move(*found));
  workers_.erase(found);
  Reap();
}

void WorkerList::Reap() {
  std::erase_if(leaving_, [](const auto& worker) { return worker->uses == 0; });
}

}  // namespace causeway
