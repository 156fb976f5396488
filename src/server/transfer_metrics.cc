#include "server/transfer_metrics.h"

#include <vector>

namespace causeway {
namespace {

const std::vector<double> kMilliseconds = {1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10'000};
const std::vector<double> kMegabytes = {1, 5, 10, 50, 100, 500, 1000, 5000, 10'000};
const std::vector<double> kSpeeds = {0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 20, 50, 100};  // GB/s

}  // namespace

TransferMetrics::TransferMetrics(MetricRegistry& registry, const MetricLabels& labels,
                                 ServerRole role)
    : decodes_(role == ServerRole::kDecode),
      bootstrapping_(registry.AddGauge("sglang:num_prefill_bootstrap_queue_reqs",
                                       "Requests of which the decode server does not know yet.",
                                       labels)),
      sending_(registry.AddGauge("sglang:num_prefill_inflight_queue_reqs",
                                 "Computed prompts whose keys have not all been sent.", labels)),
      allocating_(registry.AddGauge("sglang:num_decode_prealloc_queue_reqs",
                                    "Requests that wait for pages for their keys.", labels)),
      receiving_(registry.AddGauge("sglang:num_decode_transfer_queue_reqs",
                                   "Requests whose keys have not all come.", labels)),
      bootstrap_failed_(registry.AddCounter("sglang:num_bootstrap_failed_reqs_total",
                                            "Requests that the other server never took.", labels)),
      transfer_failed_(registry.AddCounter("sglang:num_transfer_failed_reqs_total",
                                           "Requests whose transfer failed.", labels)),
      speed_(registry.AddHistogram("sglang:kv_transfer_speed_gb_s",
                                   "Keys of a request by the time of its transfer, GB/s.", kSpeeds,
                                   labels)),
      latency_(registry.AddHistogram("sglang:kv_transfer_latency_ms",
                                     "From a request's first keys to its last, ms.", kMilliseconds,
                                     labels)),
      bootstrap_(registry.AddHistogram("sglang:kv_transfer_bootstrap_ms",
                                       "Until the other server knew of a request, ms.",
                                       kMilliseconds, labels)),
      alloc_(registry.AddHistogram("sglang:kv_transfer_alloc_ms",
                                   "Until a request had pages for its keys, ms.", kMilliseconds,
                                   labels)),
      total_(registry.AddHistogram("sglang:kv_transfer_total_mb", "Keys of a request, MB.",
                                   kMegabytes, labels)) {}

void TransferMetrics::OnEnd(const KvTransfer& transfer) {
  if (transfer.end == KvTransfer::End::kBootstrapFailed) bootstrap_failed_.Add();
  if (transfer.end == KvTransfer::End::kTransferFailed) transfer_failed_.Add();
  if (transfer.end != KvTransfer::End::kWell) return;
  const auto bytes = static_cast<double>(transfer.bytes);
  bootstrap_.Observe(transfer.bootstrap_seconds * 1e3);
  if (decodes_) alloc_.Observe(transfer.alloc_seconds * 1e3);
  latency_.Observe(transfer.seconds * 1e3);
  total_.Observe(bytes * 1e-6);
  if (transfer.seconds > 0) speed_.Observe(bytes * 1e-9 / transfer.seconds);
}

void TransferMetrics::Set(const RoomLoad& load) {
  bootstrapping_.Set(static_cast<double>(load.bootstrapping));
  sending_.Set(static_cast<double>(load.sending));
  allocating_.Set(static_cast<double>(load.allocating));
  receiving_.Set(static_cast<double>(load.receiving));
}

}  // namespace causeway
