// A worker that answers at once stands behind a router in the same process. One client asks both in
// turn, so that what disturbs the machine disturbs both; then several ask the router as fast as
// they can, while the CPU time of its one thread is counted.
#include "app/bench_route.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <ctime>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "app/flags.h"
#include "net/http_client.h"
#include "router/router.h"

namespace causeway {
namespace {

using Clock = std::chrono::steady_clock;

struct RouteBenchFlags {
  bool pd = false;
  std::string policy = "cache_aware";
  int requests = 3000;
  int concurrency = 8;
  int seconds = 5;
  int64_t prompt_bytes = 1024;
  int events = 0;  // 0: answers are no streams
  int cpu = -1;
  bool json = false;
};

struct Latency {
  double median_ms = 0;
  double p99_ms = 0;
};

struct Throughput {
  double per_second = 0;
  double cpu_us = 0;  // of the router's thread, a request
};

StatusOr<std::unique_ptr<HttpServer>> MakeStub(int events) {
  std::vector<HttpRoute> routes;
  routes.push_back({"GET", "/health", [](HttpRequest, HttpResponder r) { r.Send({}); }});
  routes.push_back({"POST", "/generate", [events](HttpRequest, HttpResponder responder) {
                      if (events == 0) {
                        responder.Send({.body = R"({"text":"x","meta_info":{"id":"a"}})"});
                        return;
                      }
                      responder.Begin({.content_type = "text/event-stream"});
                      for (int i = 0; i < events; ++i) {
                        responder.Write("data: {\"text\":\"x\",\"meta_info\":{\"id\":\"a\"}}\n\n");
                      }
                      responder.Write("data: [DONE]\n\n");
                      responder.End();
                    }});
  return HttpServer::Listen({}, std::move(routes));
}

Latency Summarise(std::vector<double>& ms) {
  std::sort(ms.begin(), ms.end());
  return {.median_ms = ms[ms.size() / 2], .p99_ms = ms[ms.size() * 99 / 100]};
}

StatusOr<double> OneMs(HttpClient& client, const std::string& body) {
  const Clock::time_point start = Clock::now();
  CAUSEWAY_ASSIGN_OR_RETURN(const HttpReply reply,
                            client.Call("POST", "/generate", body, Deadline::AfterMs(10'000)));
  if (reply.status != 200) return InternalError(Text("status ", reply.status, ": ", reply.body));
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

StatusOr<HttpClient> Connect(int port) {
  return HttpClient::Connect("127.0.0.1", port, Deadline::AfterMs(5'000));
}

// CPU time of the router's thread so far.
double RouterCpuSeconds(const Router& router) {
  auto asked = std::make_shared<std::promise<double>>();
  router.executor().Post([asked] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    asked->set_value(static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9);
  });
  return asked->get_future().get();
}

void PinRouter(const Router& router, int cpu) {
  router.executor().Post([cpu] {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<size_t>(cpu), &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
  });
}

StatusOr<Throughput> MeasureThroughput(int port, const Router* router, const RouteBenchFlags& flags,
                                       const std::string& body) {
  std::atomic<int64_t> done{0};
  std::atomic<bool> stop{false};
  std::vector<Status> failures(static_cast<size_t>(flags.concurrency));
  const double cpu_before = router != nullptr ? RouterCpuSeconds(*router) : 0;
  const Clock::time_point start = Clock::now();
  std::vector<std::thread> threads;
  for (Status& failure : failures) {
    threads.emplace_back([&] {
      StatusOr<HttpClient> client = Connect(port);
      failure = client.status();
      while (failure.ok() && !stop.load()) {
        failure = OneMs(*client, body).status();
        done.fetch_add(1);
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::seconds(flags.seconds));
  stop.store(true);
  for (std::thread& thread : threads) thread.join();
  for (const Status& failure : failures) CAUSEWAY_RETURN_IF_ERROR(failure);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  const double cpu = router != nullptr ? RouterCpuSeconds(*router) - cpu_before : 0;
  const auto count = static_cast<double>(done.load());
  return Throughput{.per_second = count / seconds, .cpu_us = cpu / count * 1e6};
}

Status RunBenchRoute(const RouteBenchFlags& flags) {
  CAUSEWAY_ASSIGN_OR_RETURN(const auto stub, MakeStub(flags.events));
  CAUSEWAY_ASSIGN_OR_RETURN(const auto other_stub, MakeStub(flags.events));
  RouterOptions options;
  options.pd_disaggregation = flags.pd;
  options.policy = flags.policy;
  options.health.disabled = true;
  options.log_requests = false;
  if (flags.pd) {
    options.workers = {{.url = other_stub->url(), .type = WorkerType::kPrefill},
                       {.url = stub->url(), .type = WorkerType::kDecode}};
  } else {
    options.workers = {{.url = stub->url()}};
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const auto router, Router::Start(options));
  if (flags.cpu >= 0) PinRouter(*router, flags.cpu);

  const std::string body =
      Text("{\"text\":\"", std::string(static_cast<size_t>(flags.prompt_bytes), 'x'),
           "\",\"sampling_params\":{\"max_new_tokens\":8},\"stream\":",
           flags.events > 0 ? "true" : "false", "}");
  CAUSEWAY_ASSIGN_OR_RETURN(HttpClient direct, Connect(stub->port()));
  CAUSEWAY_ASSIGN_OR_RETURN(HttpClient routed, Connect(router->port()));
  std::vector<double> direct_ms;
  std::vector<double> routed_ms;
  for (int i = -flags.requests / 10; i < flags.requests; ++i) {
    CAUSEWAY_ASSIGN_OR_RETURN(const double one, OneMs(direct, body));
    CAUSEWAY_ASSIGN_OR_RETURN(const double two, OneMs(routed, body));
    if (i < 0) continue;  // to warm up
    direct_ms.push_back(one);
    routed_ms.push_back(two);
  }
  const Latency plain = Summarise(direct_ms);
  const Latency through = Summarise(routed_ms);
  CAUSEWAY_ASSIGN_OR_RETURN(const Throughput most_direct,
                            MeasureThroughput(stub->port(), nullptr, flags, body));
  CAUSEWAY_ASSIGN_OR_RETURN(const Throughput most,
                            MeasureThroughput(router->port(), router.get(), flags, body));
  const double by_core = 1e6 / most.cpu_us;
  if (flags.json) {
    const nlohmann::json report = {{"direct_median_ms", plain.median_ms},
                                   {"direct_p99_ms", plain.p99_ms},
                                   {"routed_median_ms", through.median_ms},
                                   {"routed_p99_ms", through.p99_ms},
                                   {"added_median_ms", through.median_ms - plain.median_ms},
                                   {"added_p99_ms", through.p99_ms - plain.p99_ms},
                                   {"direct_requests_per_second", most_direct.per_second},
                                   {"routed_requests_per_second", most.per_second},
                                   {"router_cpu_us_per_request", most.cpu_us},
                                   {"requests_per_second_of_router_cpu", by_core}};
    std::printf("%s\n", report.dump().c_str());
    return Status();
  }
  std::printf("%-10s %12s %12s %14s\n", "", "median ms", "p99 ms", "requests/s");
  std::printf("%-10s %12.3f %12.3f %14.0f\n", "direct", plain.median_ms, plain.p99_ms,
              most_direct.per_second);
  std::printf("%-10s %12.3f %12.3f %14.0f\n", "routed", through.median_ms, through.p99_ms,
              most.per_second);
  std::printf("%-10s %12.3f %12.3f %13.2fx\n", "added", through.median_ms - plain.median_ms,
              through.p99_ms - plain.p99_ms, most.per_second / most_direct.per_second);
  std::printf("router: %.1f us of CPU a request, %.0f requests in a second of one core\n",
              most.cpu_us, by_core);
  return Status();
}

}  // namespace

void AddBenchRoute(CLI::App& bench, Run& run) {
  auto flags = std::make_shared<RouteBenchFlags>();
  CLI::App* route =
      bench.add_subcommand("route", "What the router adds to a request, and how many it forwards");
  route->add_flag("--pd-disaggregation", flags->pd,
                  "Through a pair of workers; the direct way is that of one; default: off");
  route->add_option("--policy", flags->policy, "The router's policy")->capture_default_str();
  route->add_option("--requests", flags->requests, "One after another, for the latencies")
      ->check(CLI::Range(100, 10'000'000))
      ->capture_default_str();
  route->add_option("--concurrency", flags->concurrency, "Clients at once, for the throughput")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  route->add_option("--seconds", flags->seconds, "How long they ask")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  route->add_option("--prompt-bytes", flags->prompt_bytes, "Text of each request")
      ->check(CLI::Range(int64_t{1}, int64_t{32} << 20))
      ->capture_default_str();
  route->add_option("--events", flags->events, "Answer with streams of this many events; 0: not")
      ->check(CLI::Range(0, 100'000))
      ->capture_default_str();
  route->add_option("--cpu", flags->cpu, "CPU of the router's thread; -1: any")
      ->check(CLI::Range(-1, 4095))
      ->capture_default_str();
  RegisterJson(*route, flags->json);
  route->callback([flags, &run] { run = [flags] { return RunBenchRoute(*flags); }; });
}

}  // namespace causeway
