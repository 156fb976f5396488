// Runs a grammar over bytes, deterministically.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "grammar/grammar.h"

namespace causeway {

struct AutomatonLimits {
  size_t max_states = 50'000;           // that are kept
  int64_t max_work = int64_t{1} << 24;  // steps between two calls of StartWork
};

// A state is everything that a text read so far may be in the middle of: pairs of a position in a
// rule and the calls under way. States and transitions are made when they are first asked for, and
// kept. Used by one thread at a time.
class Automaton {
 public:
  using State = int32_t;
  static constexpr State kDead = -1;  // no text that matches begins like this

  explicit Automaton(Grammar grammar, AutomatonLimits limits = {});

  State start() const { return 0; }
  // From any state that is not dead, some text leads to the end.
  State Next(State state, uint8_t byte) {
    const State next = states_[static_cast<size_t>(state)].next[class_of_byte_[byte]];
    return next != kUnknown ? next : Explore(state, byte);
  }
  // The text read so far matches.
  bool Accepts(State state) const { return states_[static_cast<size_t>(state)].accepts; }
  // It matches, and nothing can follow.
  bool Complete(State state) const {
    const StateData& data = states_[static_cast<size_t>(state)];
    return data.accepts && data.items.empty();
  }

  // Gives Next new steps to spend.
  void StartWork() { work_ = 0; }
  // A limit was reached: what Next has called dead since may not be. Only Reset helps then.
  bool exhausted() const { return exhausted_; }
  bool full() const { return states_.size() >= limits_.max_states; }
  // Forgets all states but the first.
  void Reset();
  // The same, but for this state too, which must not accept; returns its new name.
  State ResetKeeping(State state);
  size_t states() const { return states_.size(); }

 private:
  static constexpr State kUnknown = -2;

  // Where to go on after a rule, and after the rule that called it, and so on.
  struct Frame {
    int32_t to = 0;
    int32_t caller = -1;
    int32_t depth = 0;
  };
  struct Item {
    int32_t position;
    int32_t frame;
    auto operator<=>(const Item&) const = default;
  };
  struct StateData {
    std::vector<Item> items;  // sorted; each position has an edge that reads a byte
    bool accepts = false;
    std::vector<State> next;  // per class of bytes
  };

  State Explore(State state, uint8_t byte);
  // All that can be reached from the items without a byte, as a state.
  State Close(std::vector<Item> open);
  int32_t Enter(int32_t to, int32_t caller);

  const Grammar grammar_;
  const AutomatonLimits limits_;
  std::vector<uint16_t> class_of_byte_;  // bytes that no set of the grammar tells apart
  size_t classes_ = 0;
  std::vector<Frame> frames_;
  std::unordered_map<uint64_t, int32_t> frame_index_;  // by to and caller
  std::vector<StateData> states_;
  std::unordered_multimap<uint64_t, State> state_index_;  // by a hash of the items
  int64_t work_ = 0;
  bool exhausted_ = false;
};

}  // namespace causeway
