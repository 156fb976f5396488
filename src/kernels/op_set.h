// OpSet: what the model calls. Checks shapes once, spreads the primitives of an instruction set
// over a rank's thread team, and owns the workers' scratch memory.
//
// Work is cut into items by fixed rules, and no primitive's result depends on the cut, so neither
// the number of threads nor the batch can change a bit (DESIGN section 5).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/arena.h"
#include "base/buffer.h"
#include "base/thread_team.h"
#include "base/view.h"
#include "kernels/op_table.h"
#include "kernels/packed_weight.h"

namespace causeway {

// The input of matrix products: rows in the mode's type and, where a product with int8 weights
// follows, the same rows quantised per row.
// Its int8 copy is made by OpSet::Prepare or NormInput and lives as long as the arena's scope.
struct Activation {
  Rows rows;               // [m, k] f32 or bf16
  Rows quantized = {};     // [m, k rounded up to 4] int8, or empty
  float* scale = nullptr;  // [m]

  // Memory for rows of `type`, and for their int8 copies if they are for weights of that type.
  static Activation Of(DType type, DType weight_type, int64_t rows, int64_t cols, Arena& arena);

  Activation Slice(int64_t begin, int64_t end) const;
};

// Rotary tables: cos and sin of every position, [positions, rope_dim / 2].
struct RopeView {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t rope_dim = 0;
};

// One rank's operations. Used by the rank's thread only.
class OpSet {
 public:
  OpSet(const OpTable& table, ThreadTeam& team);

  const OpTable& table() const { return table_; }
  ThreadTeam& team() const { return team_; }
  int64_t scratch_bytes() const { return team_.size() * kScratchBytes; }

  // Rows ready for products with weights of `weight_type`; int8 copies live in the arena. Where the
  // rows are parts of longer ones, row_amax [rows] gives the largest magnitude of each whole row.
  Activation Prepare(const Rows& rows, DType weight_type, Arena& arena,
                     const float* row_amax = nullptr) const;

  // out = x W^T. out.type f32 or bf16; with a product of f32 weights, x is f32.
  void Linear(const Activation& x, const Weight& w, const Rows& out) const;
  // out += x W^T, in f32.
  void AddLinear(const Activation& x, const Weight& w, View<float, 2> out) const {
    AddLinearPanels(x, w, 0, w.panels(), out);
  }
  // The same for the columns of panels [panel_begin, panel_end).
  void AddLinearPanels(const Activation& x, const Weight& w, int64_t panel_begin, int64_t panel_end,
                       View<float, 2> out) const;
  // This rank's part of x W^T where x is columns [k_begin, k_begin + x.cols) of the whole input:
  // dense [x.rows, w.n()] f32, or the exact int32 sums of an int8 product. w_sum: as in GemmArgs,
  // of those columns (int8 only).
  void PartOfLinear(const Activation& x, const Weight& w, int64_t k_begin, const int32_t* w_sum,
                    void* out) const;
  // Panels [panel_begin, panel_end) only, into the same columns of out: a vocabulary-parallel head.
  void LinearPanels(const Activation& x, const Weight& w, int64_t panel_begin, int64_t panel_end,
                    const Rows& out) const;

  // out = norm(x) * weight (+ bias), rounded to out's type.
  void RmsNorm(View<const float, 2> x, const float* weight, float eps, const Rows& out) const;
  // RmsNorm to `out` and, where it has them, its int8 copies, each row quantised while it is still
  // in the cache. `exact`: also the rows in f32, unless it is empty.
  void NormInput(View<const float, 2> x, const float* weight, float eps, const Activation& out,
                 const Rows& exact = {}) const;
  void LayerNorm(View<const float, 2> x, const float* weight, const float* bias, float eps,
                 const Rows& out) const;

  // Rotates rope.rope_dim values of each head from `rope_begin` on, by positions[row]; x and out
  // are [rows, heads * head_dim].
  void Rotate(View<const float, 2> x, int64_t heads, int64_t rope_begin, bool interleaved,
              const RopeView& rope, const int32_t* positions, const Rows& out) const;

  // Columns [begin, end) of x W^T in f32, in the arena: [x.rows, end - begin].
  View<float, 2> LinearColumns(const Activation& x, const Weight& w, int64_t begin, int64_t end,
                               Arena& arena) const;

  // out [x.rows, end - begin] = silu(g) * u, where g are columns [begin, end) of x W^T and u those
  // that lie half of W's columns further. One product where these are whole panels, else with both
  // in the arena; the bits are the same.
  void SiluProduct(const Activation& x, const Weight& w, int64_t begin, int64_t end, Arena& arena,
                   const Rows& out) const;

  // out = silu(gate) * up; gate and up have the same stride.
  void SiluMul(View<const float, 2> gate, View<const float, 2> up, const Rows& out) const;

  // amax[i] = the largest magnitude in row i (f32 or bf16).
  // For row_amax of Prepare.
  void RowAmax(const Rows& rows, float* amax) const;

  // Runs body(item, scratch) for items [0, items) over the team: for operations that the model
  // composes from primitives itself (attention, experts). scratch: kScratchBytes, aligned, one per
  // worker; `worker` is in [0, team().size()).
  void ForEach(int64_t items, const std::function<void(int64_t item, void* scratch)>& body) const;
  void ForEachWorker(
      int64_t items,
      const std::function<void(int64_t item, int worker, void* scratch)>& body) const;

 private:
  void Gemm(GemmArgs args) const;
  // The int8 copies of rows [begin, end).
  void Quantize(const Activation& x, int64_t begin, int64_t end, const float* row_amax) const;
  // Cuts m rows into runs for ForEach.
  void ForRows(int64_t m, const std::function<void(int64_t begin, int64_t end)>& body) const;

  const OpTable& table_;
  ThreadTeam& team_;
  std::vector<Buffer> scratch_;  // one per worker
};

// The arguments of x W^T that a weight and an activation determine; the caller adds panels, rows
// and output.
GemmArgs GemmOf(const Activation& x, const Weight& w);
// The same where x is columns [k_begin, k_begin + x.cols) of the input.
GemmArgs GemmOf(const Activation& x, const Weight& w, int64_t k_begin);

// Whether columns [begin, end) of silu(gate) * up are one product: whole panels.
bool SiluFits(const GemmArgs& args, int64_t begin, int64_t end);
// Makes a product of gate and up that of these columns of silu(gate) * up, to out [m, end - begin].
void SetSilu(int64_t begin, int64_t end, const Rows& out, GemmArgs& args);

}  // namespace causeway
