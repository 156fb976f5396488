// The layout matrix: one batch through many layouts, every logit compared bit for bit with that of
// a single rank. For the test of the first promise and for `causeway eval layouts`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/model_host.h"

namespace causeway {

// One way to compute the batch.
struct LayoutCase {
  Layout layout;
  int64_t chunk = -1;  // prompt tokens of a sequence in a step; -1: all

  std::string ToString() const;
};

// Every legal layout of up to `most_ranks` ranks for this model on `hosts` hosts, times backends,
// partitions and chunk sizes. Threads per rank: 1 and 2 in turn.
std::vector<LayoutCase> LayoutCases(const ModelConfig& config, DType mode, int most_ranks,
                                    int hosts);

// `count` of the cases, drawn with the seed, in their order; all if there are not more.
std::vector<LayoutCase> SampleCases(std::vector<LayoutCase> cases, int64_t count, uint64_t seed);

// `count` of the cases of all groups, drawn with the seed: of each group as many as of the others,
// or all where it has not so many.
std::vector<std::vector<LayoutCase>> SampleGroups(std::vector<std::vector<LayoutCase>> groups,
                                                  int64_t count, uint64_t seed);

// Prompts of lengths 1, 2, a prime and long (over two pages and any top-k of the fixtures), from a
// fixed seed.
std::vector<std::vector<int32_t>> MatrixPrompts(int64_t vocab_size);

// Computes the prompts together, each in the data-parallel group index % dp, and then some tokens
// after each in decode steps: of all sequences, one token and several, and of the longest alone.
// Returns the logits of all positions, one sequence after another. The host must have been loaded
// for the layout's number of hosts; on one host any layout will do.
StatusOr<std::vector<float>> MatrixLogits(ModelHost& host, const LayoutCase& one,
                                          const std::vector<std::vector<int32_t>>& prompts);

}  // namespace causeway
