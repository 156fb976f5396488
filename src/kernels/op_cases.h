// The one list of cases by which every instruction set, and every device to come, is tested.
//
// A case knows how to run an operation of any table on inputs that a seed determines, and how
// closely the result must match that of kReferenceOps. kernels/op_test.cc runs the list; a new
// table is done when it passes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/op_data.h"
#include "kernels/op_table.h"

namespace causeway {

// |found - expected| <= absolute + relative * |expected|.
struct Tolerance {
  double absolute = 0;
  double relative = 0;
};

struct OpCase {
  std::string op;    // the member of OpTable
  std::string name;  // every parameter, for messages
  int64_t work = 0;  // multiply-adds or elements: the least failing case is the one reported
  // Every table gives the reference's bits. False where the reference calls std::exp.
  bool exact = true;
  // A sum of f32 products is in it: a table without fma keeps to the tolerance only.
  bool fused = false;
  Tolerance tolerance;
  // `scratch`: kScratchBytes, aligned to 64; what it holds must not matter.
  std::function<OpResult(const OpTable& table, uint64_t seed, void* scratch)> run;
};

// All cases, in the order of OpTable.
std::vector<OpCase> OpCases();

// What differs between `found` and `expected`, with `exact` or else with the tolerance; empty:
// none.
std::string Difference(const OpResult& expected, const OpResult& found, bool exact,
                       Tolerance tolerance);

// The parts of the list, one file each.
void AddGemmCases(std::vector<OpCase>* cases);
void AddRowCases(std::vector<OpCase>* cases);        // norms, rotate, silu_mul, quantize, convert
void AddAttentionCases(std::vector<OpCase>* cases);  // int8 rows, pack_head and attention
void AddIndexerCases(std::vector<OpCase>* cases);    // index_scores and top_k

}  // namespace causeway
