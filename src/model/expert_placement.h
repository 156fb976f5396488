// ExpertPlacement: which ep parts hold which experts, and which of them computes a token's. Pure
// and deterministic. Every expert lies in one part, and the hottest of a layer in two.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/model_config.h"
#include "parallel/layout.h"

namespace causeway {

// How many tokens chose each expert: [layers][n_routed_experts]; empty for dense layers.
using ExpertCounts = std::vector<std::vector<int64_t>>;

// The experts that get a second copy: of each layer the `per_layer` hottest.
struct RedundantExperts {
  int64_t per_layer = 0;
  ExpertCounts counts;  // empty: unknown, all alike; then the first experts are copied

  // Whether model and layout can have them; errors name the flag.
  Status Check(const ModelConfig& config, const Layout& layout) const;
};

class ExpertPlacement {
 public:
  ExpertPlacement(const ModelConfig& config, const Layout& layout,
                  const RedundantExperts& redundant);

  // Whether a part holds the expert, as its own or as a copy.
  bool Holds(int part, int64_t layer, int32_t expert) const;
  // The part that computes the expert for the tokens of rank `home`: the home's own if it holds it.
  // Of two others, the homes' parts take the first and the copy in turn. So the choice depends on
  // nothing but the home, and with an even number of parts each of the two serves half of them.
  int PartOf(int64_t layer, int32_t expert, int home) const;

 private:
  struct Parts {
    int first = 0;   // as the layout cuts the experts
    int second = 0;  // of the copy; `first` if there is none
  };
  // Gives the hottest experts of a layer a second part, the one with the least load.
  void PlaceCopies(std::vector<Parts>& of_layer, const RedundantExperts& redundant,
                   std::vector<int64_t> counts) const;

  const Layout layout_;
  std::vector<std::vector<Parts>> parts_;  // [layers][experts]; empty for dense layers
};

}  // namespace causeway
