#include "kernels/op_cases.h"

#include <cmath>
#include <iomanip>

namespace causeway {

std::vector<OpCase> OpCases() {
  std::vector<OpCase> cases;
  AddGemmCases(&cases);
  AddRowCases(&cases);
  AddAttentionCases(&cases);
  AddIndexerCases(&cases);
  return cases;
}

// Empty if alike, else the first value that differs, with its bits.
std::string Difference(const OpResult& expected, const OpResult& found, bool exact,
                       Tolerance tolerance) {
  if (!found.fault.empty()) return found.fault;
  if (expected.values.size() != found.values.size()) {
    return Text(found.values.size(), " values, expected ", expected.values.size());
  }
  for (size_t i = 0; i < expected.values.size(); ++i) {
    const double e = expected.values[i];
    const double f = found.values[i];
    // Exact, or within the tolerance; a NaN is like a NaN and nothing else.
    const bool same =
        exact ? expected.bits[i] == found.bits[i]
              : std::isnan(e) == std::isnan(f) &&
                    !(std::fabs(e - f) > tolerance.absolute + tolerance.relative * std::fabs(e));
    if (same) continue;
    std::ostringstream out;
    out << std::setprecision(9) << "value " << i << " is " << f << " (0x" << std::hex
        << found.bits[i] << "), expected " << e << " (0x" << expected.bits[i] << ")";
    if (!exact) out << " within " << tolerance.absolute << " + " << tolerance.relative << " of it";
    return out.str();
  }
  return "";
}

}  // namespace causeway
