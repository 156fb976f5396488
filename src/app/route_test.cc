// `causeway route` as a process: its flags, and a request from start to the signal that ends it.
#include <gtest/gtest.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <thread>

#include "app/program.h"
#include "base/check.h"
#include "checkpoint/temporary_directory.h"
#include "net/http_client.h"
#include "net/http_server.h"

namespace causeway {
namespace {

Deadline Soon() { return Deadline::AfterMs(20'000); }

// Runs `route` with flags that it must refuse, each of `parts` being in what it says.
void ExpectError(std::vector<std::string> arguments, const std::vector<std::string>& parts) {
  const TemporaryDirectory files;
  arguments.insert(arguments.begin(), "route");
  Program program(CAUSEWAY_BINARY, files.path(), arguments);
  EXPECT_GT(program.Wait(Soon()), 0);
  const std::string said = program.Stderr();
  for (const std::string& part : parts) EXPECT_NE(said.find(part), std::string::npos) << said;
}

// The value of a key of a log line, once it is there.
std::string FromLog(const Program& program, const std::string& event, const std::string& key) {
  for (const Deadline deadline = Soon(); !deadline.Passed();) {
    const std::string log = program.Stderr();
    const size_t line = log.find("event=" + event + " ");
    const size_t end = log.find('\n', line);
    const size_t at = line == std::string::npos ? line : log.find(" " + key + "=", line);
    if (end != std::string::npos && at < end) {
      const size_t value = at + key.size() + 2;
      return log.substr(value, log.find_first_of(" \n", value) - value);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ADD_FAILURE() << "no " << event << " with " << key << " in\n" << program.Stderr();
  return "";
}

TEST(RouteTest, FlagsThatDoNotFitAreRefusedByName) {
  ExpectError({"--prefil", "http://a:1"}, {"route has no flag --prefil", "--prefill"});
  ExpectError({"--prefill", "http://a:1"}, {"without --pd-disaggregation"});
  ExpectError({"--pd-disaggregation", "--worker-urls", "http://a:1"}, {"--worker-urls"});
  ExpectError({"--pd-disaggregation", "--prefill", "9000"}, {"--prefill has '9000'", "URL"});
  ExpectError({"--pd-disaggregation", "--prefill", "http://a:1", "70000"},
              {"bootstrap port 70000"});
  ExpectError({"--pd-disaggregation", "--decode", "ftp://a:1"}, {"--decode is 'ftp://a:1'"});
  ExpectError({"--worker-urls", "http://a:1", "http://a:x"}, {"--worker-urls is 'http://a:x'"});
  ExpectError({"--worker-urls", "http://a:1", "http://a:1"}, {"http://a:1 already"});
  ExpectError({"--policy", "bucket"}, {"--policy"});
  ExpectError({"--health-check-endpoint", "health"}, {"--health-check-endpoint is 'health'"});
  ExpectError({"--host", "256.0.0.1"}, {"--host"});
}

TEST(RouteTest, APairServesARequestAndASignalEndsItAll) {
  std::vector<HttpRoute> routes;
  routes.push_back({"GET", "/health", [](HttpRequest, HttpResponder r) { r.Send({}); }});
  routes.push_back({"POST", "/generate", [](HttpRequest request, HttpResponder responder) {
                      responder.Send({.body = request.body});
                    }});
  auto worker = HttpServer::Listen({}, std::move(routes));
  ASSERT_TRUE(worker.ok());
  const std::string url = (*worker)->url();
  const std::string other = Text("http://localhost:", (*worker)->port());

  const TemporaryDirectory files;
  Program program(
      CAUSEWAY_BINARY, files.path(),
      {"route", "--pd-disaggregation", "--prefill", url, "9001", "--decode", other, "--host",
       "127.0.0.1", "--port", "0", "--mini-lb", "--policy", "random", "--prometheus-port", "0"});
  const std::string address = FromLog(program, "routing", "url");
  EXPECT_EQ(FromLog(program, "routing", "mode"), "pd");
  EXPECT_EQ(FromLog(program, "routing", "request_timeout_secs"), "1800");
  EXPECT_NE(program.Stderr().find("event=flag_without_effect"), std::string::npos);
  FromLog(program, "worker_up", "worker");

  const int port = std::stoi(address.substr(address.rfind(':') + 1));
  auto client = HttpClient::Connect("127.0.0.1", port, Soon());
  ASSERT_TRUE(client.ok()) << client.status().message();
  nlohmann::json json;
  for (const Deadline deadline = Soon(); !json.is_object() && !deadline.Passed();) {
    const auto reply = client->Call("POST", "/generate", R"({"text":"a"})", Soon());
    ASSERT_TRUE(reply.ok()) << reply.status().message();
    if (reply->status == 200) json = nlohmann::json::parse(reply->body, nullptr, false);
  }
  EXPECT_EQ(json["bootstrap_host"], "127.0.0.1");
  EXPECT_EQ(json["bootstrap_port"], 9001);
  program.Signal(SIGTERM);
  EXPECT_EQ(program.Wait(Soon()), 0);
  EXPECT_EQ(FromLog(program, "stopped", "requests_cut"), "0");
}

}  // namespace
}  // namespace causeway
