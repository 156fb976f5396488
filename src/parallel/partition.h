// Partition: which rank computes which tokens of a batch. Pure and deterministic.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/layout.h"

namespace causeway {

// New tokens of one sequence in a batch: positions [begin, end), of which [0, begin) are already
// in the KV cache.
struct ExtendRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// A run of consecutive tokens of one extend, computed by one rank.
struct Slice {
  int32_t extend = 0;  // index into the batch
  int64_t begin = 0;   // absolute positions
  int64_t end = 0;
  bool operator==(const Slice&) const = default;
};

// Modelled cost of a token at position p, in any unit:
//   linear + (p < dense_end ? dense * (p + 1) : flat) + index * (p + 1 if p >= index_from else 0)
// and, once for a slice that begins at b < dense_end: again * b, for what it computes of the keys
// before it although another rank has done so too.
// Five numbers of model/cost.h and two limits: parallel/ knows no model.
struct TokenCost {
  double linear = 1.0;
  double dense = 0.0;      // per visible key: attention to all of them
  int64_t dense_end = -1;  // positions from here on attend to a fixed number of keys; -1: none
  double flat = 0.0;       // for that number
  double again = 0.0;      // per key before a slice
  double index = 0.0;      // per visible key, indexer
  int64_t index_from = 0;  // positions below select everything and need no scores
  // Cost of all tokens in [begin, end); closed form.
  double Of(int64_t begin, int64_t end) const;
  // Of one slice with them.
  double OfSlice(int64_t begin, int64_t end) const;
};

// result[rank] lists the slices of each of cp ranks, ascending by (extend, begin). Every token of
// every extend is in exactly one slice; ranks may own none. Any batch size, length and cp.
//   contiguous: the flattened batch cut in cp runs of (nearly) equal token count
//   zigzag:     each extend in 2*cp runs, rank i takes runs i and 2*cp-1-i
//   balanced:   modelled cost equal on every rank; a short extend stays whole on one rank, a long
//               one is split; few slices per rank
std::vector<std::vector<Slice>> Partition(PartitionKind kind, int cp, const TokenCost& cost,
                                          const std::vector<ExtendRange>& batch);

}  // namespace causeway
