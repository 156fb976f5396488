// Rotary tables with YaRN, and the softmax scale that goes with them.
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "checkpoint/model_config.h"
#include "kernels/op_set.h"

namespace causeway {

// cos and sin for positions [0, positions), each [positions, qk_rope_head_dim / 2] f32, with the
// YaRN factor m(mscale) / m(mscale_all_dim) in them. Angles are formed in double, so that they are
// right at any position. Formulas: docs/model.md, "RoPE".
class RopeTable {
 public:
  RopeTable(const ModelConfig& config, int64_t positions);

  // Valid as long as the table.
  RopeView view() const { return {cos_.as<float>(), sin_.as<float>(), rope_dim_}; }
  int64_t positions() const { return positions_; }

 private:
  int64_t rope_dim_;
  int64_t positions_;
  Buffer cos_;
  Buffer sin_;
};

// (nope + rope)^-1/2, times m(mscale_all_dim)^2 where YaRN is configured with it.
float SoftmaxScale(const ModelConfig& config);

}  // namespace causeway
