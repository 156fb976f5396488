#include "app/disaggregation.h"

#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "engine/row_conversions.h"
#include "net/socket.h"
#include "transfer/ucx_memory.h"

namespace causeway {
namespace {

// How tests of users, and ours, have transfers fail.
constexpr char kFailureVariable[] = "CAUSEWAY_TEST_DISAGG_FAILURE_PROB";

StatusOr<double> FailureProbability() {
  const char* text = std::getenv(kFailureVariable);
  if (text == nullptr || *text == '\0') return 0.0;
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (*end != '\0' || !(value >= 0 && value <= 1)) {
    return InvalidArgument(
        Text(kFailureVariable, " is '", text, "'; expected a number from 0 to 1"));
  }
  return value;
}

// "HOST:PORT" of text that may be an IPv6 address.
std::string Join(const std::string& host, int port) {
  return host.find(':') == std::string::npos ? Text(host, ":", port) : Text("[", host, "]:", port);
}

std::string Encode(const ServerId& id) { return Text(id.high, " ", id.low); }

StatusOr<ServerId> DecodeId(const std::string& text) {
  ServerId id;
  char* end = nullptr;
  id.high = std::strtoull(text.c_str(), &end, 10);
  id.low = std::strtoull(end, &end, 10);
  if (*end != '\0' || id.empty()) return InternalError("host 0 says who the server is unreadably");
  return id;
}

// Where other hosts, of this server and others, reach this one.
StatusOr<std::string> ReachableAddress(const HostOptions& options) {
  if (!options.dist_interface.empty()) return AddressOfInterface(options.dist_interface);
  return AddressTowards(options.dist_init_addr);
}

// UCX itself only says that nobody can be reached.
Status CheckDevices(const std::string& names) {
  std::istringstream in(names);
  for (std::string name; std::getline(in, name, ',');) {
    const std::string device = name.substr(0, name.find(':'));
    std::error_code error;
    const bool known = !device.empty() && device.find('/') == std::string::npos &&
                       (std::filesystem::exists("/sys/class/infiniband/" + device, error) ||
                        std::filesystem::exists("/sys/class/net/" + device, error));
    if (!known) {
      return InvalidArgument(
          Text("--disaggregation-ib-device: found '", name,
               "'; expected devices of /sys/class/infiniband or /sys/class/net"));
    }
  }
  return Status();
}

}  // namespace

void DisaggregationFlags::Register(CLI::App& app) {
  app.add_option("--disaggregation-mode", mode,
                 "prefill: computes prompts and sends their keys to a decode server; decode: gets "
                 "them, and computes answers; null: does both itself")
      ->check(CLI::IsMember({"null", "prefill", "decode"}))
      ->capture_default_str();
  app.add_option("--disaggregation-bootstrap-port", bootstrap_port,
                 "Where a prefill server waits for decode servers, beside --host; 0: any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  app.add_option("--disaggregation-transfer-backend", transfer_backend,
                 "How keys travel: tcp; shm, by memory that both servers of one machine have; ucx, "
                 "by RDMA where there is any; auto: shm where that can be, else ucx where both "
                 "servers have RDMA, else tcp. mooncake, nixl and ascend mean auto")
      ->capture_default_str();
  app.add_option("--disaggregation-ib-device", ib_device,
                 "Network devices of ucx, \"mlx5_0,mlx5_1\"; default: as UCX chooses")
      ->capture_default_str();
  app.add_flag("--disaggregation-decode-enable-radix-cache", decode_radix_cache,
               "A decode server keeps keys for later requests with the same prefix, which are not "
               "sent again; default: off");
  app.add_option("--num-reserved-decode-tokens", reserved_decode_tokens,
                 "Of a decode server: tokens of KV cache that stay free for the answer of each "
                 "running request when one more is taken")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  app.add_flag("--disaggregation-checksum", checksum,
               "Check the keys of every transfer by a checksum; default: off");
  app.add_option("--disaggregation-bootstrap-timeout", bootstrap_timeout,
                 "Seconds that a request waits for the other server to know it too")
      ->envname("SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--disaggregation-waiting-timeout", waiting_timeout,
                 "Seconds that a transfer may go without progress once its keys are computed")
      ->envname("SGLANG_DISAGGREGATION_WAITING_TIMEOUT")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--disaggregation-heartbeat-interval", heartbeat_interval,
                 "Seconds between signs of life of prefill and decode servers")
      ->envname("SGLANG_DISAGGREGATION_HEARTBEAT_INTERVAL")
      ->check(CLI::Range(0.05, 3600.0))
      ->capture_default_str();
  app.add_option("--disaggregation-heartbeat-max-failure", heartbeat_max_failure,
                 "So many that do not come, and the other server counts as lost")
      ->envname("SGLANG_DISAGGREGATION_HEARTBEAT_MAX_FAILURE")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
}

Status DisaggregationFlags::Check() const {
  CAUSEWAY_RETURN_IF_ERROR(FailureProbability().status());
  CAUSEWAY_RETURN_IF_ERROR(CheckDevices(ib_device));
  return ParseTransferBackend(transfer_backend).status();
}

Status Disaggregation::Make(const DisaggregationFlags& flags, const std::string& address,
                            const HostOptions& options, ModelHost& host) {
  if (!flags.ib_device.empty()) ChooseUcxDevices(flags.ib_device);
  TransferOptions transfer;
  transfer.model = host.fingerprint();
  transfer.layout = options.ranks.layout;
  transfer.host = options.ranks.host;
  transfer.checksum = flags.checksum;
  transfer.bootstrap_timeout_ms = flags.bootstrap_timeout * 1000;
  transfer.waiting_timeout_ms = flags.waiting_timeout * 1000;
  transfer.link.heartbeat_ms = static_cast<int64_t>(flags.heartbeat_interval * 1000);
  transfer.link.missed_heartbeats = flags.heartbeat_max_failure;
  CAUSEWAY_ASSIGN_OR_RETURN(transfer.backend, ParseTransferBackend(flags.transfer_backend));
  CAUSEWAY_ASSIGN_OR_RETURN(transfer.failure_probability, FailureProbability());
  // Other hosts of this server are reached at the address of their own network.
  std::string own = address;
  if (transfer.layout.hosts > 1) {
    CAUSEWAY_ASSIGN_OR_RETURN(own, ReachableAddress(options));
  }
  const bool first = transfer.host == 0;
  // Decode servers are given host 0's port by the router, and the others' by host 0.
  transfer.listen =
      Join(first ? address : own, flags.prefills() && first ? flags.bootstrap_port : 0);
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<std::string> ids,
                            host.ExchangeTexts(Encode(ServerId::Random())));
  CAUSEWAY_ASSIGN_OR_RETURN(transfer.server, DecodeId(ids[0]));
  int port = 0;
  if (flags.prefills()) {
    CAUSEWAY_ASSIGN_OR_RETURN(prefill, PrefillRooms::Make(transfer, host.cache()));
    port = prefill->sender().port();
  } else {
    CAUSEWAY_ASSIGN_OR_RETURN(
        decode, DecodeRooms::Make(transfer, host.cache(), ToInt8(host.ops(), host.config())));
    port = decode->receiver().port();
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const std::vector<std::string> addresses,
                            host.ExchangeTexts(Join(own, port)));
  if (prefill) prefill->sender().SetAddresses(addresses);
  if (decode && !first) decode->receiver().SetReportAddress(addresses[0]);
  return Status();
}

void Disaggregation::Attach(RankGroup& ranks) {
  if (prefill) prefill->Attach(ranks);
  if (decode) decode->Attach(ranks);
}

const TransferCounters* Disaggregation::counters() const {
  if (prefill) return &prefill->sender().counters();
  return decode ? &decode->receiver().counters() : nullptr;
}

}  // namespace causeway
