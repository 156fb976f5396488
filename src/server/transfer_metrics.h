// Series of a prefill or decode server about what it sends or receives, by SGLang's names.
#pragma once

#include "base/metrics.h"
#include "engine/request.h"

namespace causeway {

// Used on the io thread only. The registry must outlive it.
class TransferMetrics {
 public:
  TransferMetrics(MetricRegistry& registry, const MetricLabels& labels, ServerRole role);

  void OnEnd(const KvTransfer& transfer);
  void Set(const RoomLoad& load);

 private:
  const bool decodes_;
  Gauge& bootstrapping_;
  Gauge& sending_;
  Gauge& allocating_;
  Gauge& receiving_;
  Counter& bootstrap_failed_;
  Counter& transfer_failed_;
  Histogram& speed_;
  Histogram& latency_;
  Histogram& bootstrap_;
  Histogram& alloc_;
  Histogram& total_;
};

}  // namespace causeway
