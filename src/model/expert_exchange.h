// ExpertExchange: tokens travel to the ranks that hold their experts, and outputs come home.
//
// Every token has a home, the rank that has its residual row. Experts lie in ep parts; for the
// tokens of a home one rank of each part is their worker (Layout::ExpertRank). A worker takes its
// homes in ascending rank, their tokens in order and a token's slots in order; the k-th slot that
// it takes from a home is row k of what comes back to that home. So neither side sends an index.
#pragma once

#include <cstdint>
#include <vector>

#include "base/arena.h"
#include "base/buffer.h"
#include "checkpoint/model_config.h"
#include "kernels/op_set.h"
#include "model/expert_placement.h"
#include "parallel/communicator.h"
#include "parallel/layout.h"
#include "parallel/rank_link.h"
#include "parallel/read_counts.h"

namespace causeway {

// Tokens of one home and their experts.
struct RoutedTokens {
  Activation input;  // [rows, hidden], as the experts' products read it
  int64_t rows = 0;
  const int32_t* experts = nullptr;  // [rows, num_experts_per_tok], best first
  const float* weights = nullptr;    // the same
};

// Slots (token, expert) in the order of experts.
struct ExpertOrder {
  std::vector<int64_t> first;  // [experts + 1]: slots of expert e are [first[e], first[e + 1])
  std::vector<int32_t> row;    // of the input
  std::vector<int32_t> slot;   // which of the slots given it is

  // experts[i]: of slot i, or -1: no slot; rows[i]: its row of the input.
  static ExpertOrder Of(int64_t experts, const std::vector<int32_t>& expert,
                        const std::vector<int32_t>& row);
  int64_t slots() const { return static_cast<int64_t>(row.size()); }
};

// One rank's end. Used by its thread only.
class ExpertExchange {
 public:
  // `reads` counts what is read from other ranks.
  ExpertExchange(const ModelConfig& config, const Layout& layout, int rank,
                 const RedundantExperts& redundant, RankLink& host, ReadCounts& reads);

  // What a worker has to compute.
  struct Work {
    Activation input;             // in the arena
    std::vector<int32_t> expert;  // of each slot, homes in ascending order
    std::vector<int32_t> row;     // of each slot, in `input`
    int64_t slots() const { return static_cast<int64_t>(expert.size()); }
  };
  // Collective. This rank offers `tokens`, which must stay as they are until Combine returns, and
  // gets the work that is its own. home_rows[rank]: how many tokens each rank of the world offers.
  Work Dispatch(int32_t layer, const RoutedTokens& tokens, const std::vector<int64_t>& home_rows,
                Arena& arena);
  // Memory for the outputs of the work, [slots, hidden] f32.
  float* Outputs(int64_t slots);
  int64_t bytes() const { return outputs_.bytes(); }  // held for them
  // Collective. result[part]: the outputs of this rank's slots whose experts are in that part, in
  // the order of tokens and slots, [*, hidden]; good until the next Dispatch.
  std::vector<const float*> Combine(int32_t layer);
  // The part that computes an expert for the tokens of this rank.
  int PartOf(int64_t layer, int32_t expert) const {
    return placement_.PartOf(layer, expert, rank_);
  }
  const ExpertPlacement& placement() const { return placement_; }

 private:
  // What came from other hosts, kept by the host's first rank.
  struct Remote {
    std::vector<RoutedTokens> tokens;  // [world]: of homes on other hosts
    std::vector<std::vector<int32_t>> experts;
    std::vector<std::vector<char>> rows;
    std::vector<std::vector<float>> scales;
    std::vector<std::vector<float>> outputs;          // [hosts]
    std::vector<std::vector<const float*>> of_parts;  // [this host's ranks][ep], null: of this host
  };
  // What a rank shares at Dispatch and at Combine.
  struct Offer {
    RoutedTokens tokens;
    const float* outputs = nullptr;
    std::vector<int64_t> first_slot;  // of each home of this worker, then the end of the last
    Remote remote;
  };

  // Ranks of this host share memory: their offers are read where they lie.
  bool IsHere(int rank) const { return layout_.HostOf(rank) == layout_.HostOf(rank_); }
  const Offer& OfferOf(int rank) const { return *host_.Shared<Offer>(rank - first_rank_); }
  // Rows of a home that travel to a host.
  std::vector<int64_t> RowsFor(int64_t layer, int home, const RoutedTokens& tokens, int host) const;
  // On the communication thread.
  void FetchTokens(Communicator& hosts, CollectiveName name, const std::vector<int64_t>& home_rows);
  void FetchOutputs(Communicator& hosts, CollectiveName name);

  const ModelConfig& config_;
  const Layout& layout_;
  const int rank_;
  const int first_rank_;  // of this host
  RankLink& host_;
  ReadCounts& reads_;
  const ExpertPlacement placement_;
  Offer offer_;
  Buffer outputs_;
};

}  // namespace causeway
