// The values of a random tensor.
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/model_config.h"
#include "checkpoint/tensor_names.h"

namespace causeway {

// Element i of a tensor is a function of the seed, the tensor's name and i alone, made of integer
// operations and one float multiply-add: no machine, thread count or shard size can change it.
// Near-normal: the sum of four uniform 16-bit numbers.
class RandomValues {
 public:
  // Mean and deviation by the tensor's place in the model. The copies of embedding and head in MTP
  // layers have the values of the originals.
  RandomValues(uint64_t seed, const TensorSpec& spec, const ModelConfig& config);

  float mean() const { return mean_; }
  float deviation() const { return deviation_; }
  // Elements [begin, begin + count).
  void Fill(int64_t begin, int64_t count, float* out) const;

 private:
  uint64_t key_;
  float mean_;
  float deviation_;
};

}  // namespace causeway
