// How many bytes of a model's weights a host packs and a rank uses, without loading them.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/model_config.h"
#include "checkpoint/safetensors.h"
#include "model/weights.h"

namespace causeway {

// Packed bytes, without padding and the scales of int8 rows and fp8 blocks; norms and biases are
// not counted.
struct WeightBytes {
  int64_t attention = 0;   // with the indexer
  int64_t dense = 0;       // feed-forward of dense layers
  int64_t shared = 0;      // gates and shared experts of MoE layers
  int64_t experts = 0;     // routed
  int64_t vocabulary = 0;  // lm_head
  int64_t total() const { return attention + dense + shared + experts + vocabulary; }
};

// What each piece of a model takes when it is packed; BytesOf adds up what a share holds.
class WeightSizes {
 public:
  // Reads the formats of the tensors, not their values. Errors as of Weights::Load.
  static StatusOr<WeightSizes> Of(const Checkpoint& checkpoint, const ModelConfig& config,
                                  DType mode);

  // Of what the share of a host says: the total is Weights::packed_bytes().
  WeightBytes BytesOf(const WeightShare& host) const { return BytesOf(host, host); }
  // Of what a rank uses of what its host packs.
  WeightBytes BytesOf(const WeightShare& rank, const WeightShare& host) const;
  // The embedding: every host reads rows of it in the mapped file.
  int64_t embedding_bytes() const { return embedding_; }

  // What matrices that are cut take, of one head or one inner column.
  struct Cut {
    int64_t bytes = 0;        // with fp8 as bf16
    int64_t fp8_rows = 0;     // less, if those cut in rows (q_b; gate and up) stay fp8
    int64_t fp8_columns = 0;  // less, if those cut in columns (o; down) do
    int64_t Of(bool rows_fit, bool columns_fit) const {
      return bytes - (rows_fit ? fp8_rows : 0) - (columns_fit ? fp8_columns : 0);
    }
  };

 private:
  WeightSizes() = default;
  // Whether the columns `part` of `inner` can stay fp8 in a row-parallel matrix.
  bool ColumnsFit(int64_t inner, const Range& part) const;

  ModelConfig config_;
  int64_t attention_ = 0;        // whole on every rank: down-projections, indexer
  Cut head_;                     // of one attention head
  Cut inner_;                    // of one inner column of the dense layers
  int64_t shared_ = 0;           // whole on every rank
  std::vector<int64_t> expert_;  // of one routed expert, per layer; 0: a dense layer
  int64_t vocab_ = 0;            // ids
  int64_t id_ = 0;               // of one id's row of lm_head
  int64_t embedding_ = 0;
};

}  // namespace causeway
