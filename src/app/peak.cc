// The best rate that any of our own instruction sets reaches here, so that a share of the peak does
// not flatter a slow choice of kernels.
#include "app/peak.h"

#include <algorithm>

#include "kernels/cpu/bare_peak.h"
#include "kernels/cpu/isa.h"

namespace causeway {

double MeasurePeakFlops(const OpTable& table, DType type) {
  double best = ProductFlops(table, type);
  for (const OpTable* other : SupportedTables()) {
    if (other != &kReferenceOps) best = std::max(best, ProductFlops(*other, type));
  }
  return best;
}

PeakFlops MeasurePeaks(const OpTable& table, DType mode) {
  PeakFlops peak;
  peak.real = MeasurePeakFlops(table, mode);
  peak.int8 = std::max(peak.real, MeasureBarePeak().int8);
  return peak;
}

}  // namespace causeway
