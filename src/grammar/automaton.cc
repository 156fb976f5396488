#include "grammar/automaton.h"

#include <algorithm>
#include <map>
#include <unordered_set>

namespace causeway {
namespace {

uint64_t Pair(int32_t a, int32_t b) {
  return (uint64_t{static_cast<uint32_t>(a)} << 32) | static_cast<uint32_t>(b);
}

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
  return hash ^ (hash >> 29);
}

constexpr int32_t kBottom = 0;  // the frame of the root rule

}  // namespace

Automaton::Automaton(Grammar grammar, AutomatonLimits limits)
    : grammar_(std::move(grammar)), limits_(limits) {
  // Bytes with the same memberships share a class.
  std::map<std::vector<bool>, uint16_t> classes;
  for (int byte = 0; byte < 256; ++byte) {
    std::vector<bool> members;
    for (const ByteSet& set : grammar_.sets()) members.push_back(set.Has(byte));
    const auto size = static_cast<uint16_t>(classes.size());
    class_of_byte_.push_back(classes.emplace(std::move(members), size).first->second);
  }
  classes_ = classes.size();
  Reset();
}

void Automaton::Reset() {
  frames_ = {Frame{}};
  frame_index_.clear();
  states_.clear();
  state_index_.clear();
  work_ = 0;
  exhausted_ = false;
  Close({{grammar_.start(), kBottom}});
}

Automaton::State Automaton::ResetKeeping(State state) {
  std::vector<Item> items = states_[static_cast<size_t>(state)].items;
  // Frames are what items refer to: of a regular expression there is only one.
  std::vector<Frame> frames = frames_;
  std::unordered_map<uint64_t, int32_t> index = frame_index_;
  Reset();
  frames_ = std::move(frames);
  frame_index_ = std::move(index);
  return Close(std::move(items));
}

int32_t Automaton::Enter(int32_t to, int32_t caller) {
  const auto [entry, fresh] =
      frame_index_.emplace(Pair(to, caller), static_cast<int32_t>(frames_.size()));
  if (fresh) {
    frames_.push_back({to, caller, frames_[static_cast<size_t>(caller)].depth + 1});
  }
  return entry->second;
}

Automaton::State Automaton::Close(std::vector<Item> open) {
  StateData out;
  std::unordered_set<uint64_t> seen;
  // Only what can still reach the end within the depth that is allowed: there are no dead ends.
  const auto add = [&](int32_t position, int32_t frame) {
    const int32_t need = grammar_.positions()[static_cast<size_t>(position)].need;
    if (frames_[static_cast<size_t>(frame)].depth + need > kMaxCallDepth) return;
    if (seen.insert(Pair(position, frame)).second) open.push_back({position, frame});
  };
  for (const Item& item : std::exchange(open, {})) add(item.position, item.frame);
  while (!open.empty()) {
    const Item item = open.back();
    open.pop_back();
    if (++work_ > limits_.max_work) {
      exhausted_ = true;
      return kDead;
    }
    const Grammar::Position& position = grammar_.positions()[static_cast<size_t>(item.position)];
    if (position.end) {
      const Frame frame = frames_[static_cast<size_t>(item.frame)];
      if (item.frame == kBottom) {
        out.accepts = true;
      } else {
        add(frame.to, frame.caller);
      }
    }
    bool reads = false;
    for (const Grammar::Edge& edge : position.edges) {
      switch (edge.kind) {
        case Grammar::Edge::Kind::kBytes:
          reads = reads || (frames_[static_cast<size_t>(item.frame)].depth +
                                    grammar_.positions()[static_cast<size_t>(edge.to)].need <=
                                kMaxCallDepth &&
                            grammar_.sets()[static_cast<size_t>(edge.what)] != ByteSet());
          break;
        case Grammar::Edge::Kind::kEmpty:
          add(edge.to, item.frame);
          break;
        case Grammar::Edge::Kind::kCall: {
          const int32_t depth = frames_[static_cast<size_t>(item.frame)].depth;
          const int32_t rest = grammar_.positions()[static_cast<size_t>(edge.to)].need;
          const int32_t inside = grammar_.positions()[static_cast<size_t>(edge.what)].need;
          if (depth + std::max(rest, inside + (edge.tail ? 0 : 1)) > kMaxCallDepth) break;
          add(edge.what, edge.tail ? item.frame : Enter(edge.to, item.frame));
          break;
        }
      }
    }
    if (reads) out.items.push_back(item);
  }
  if (out.items.empty() && !out.accepts) return kDead;
  std::sort(out.items.begin(), out.items.end());
  uint64_t hash = out.accepts ? 1 : 0;
  for (const Item& item : out.items) hash = Mix(hash, Pair(item.position, item.frame));
  const auto [first, last] = state_index_.equal_range(hash);
  for (auto it = first; it != last; ++it) {
    const StateData& known = states_[static_cast<size_t>(it->second)];
    if (known.items == out.items && known.accepts == out.accepts) return it->second;
  }
  // Twice what makes it full(): a walk that began before may end.
  if (states_.size() >= 2 * limits_.max_states) {
    exhausted_ = true;
    return kDead;
  }
  out.next.assign(classes_, kUnknown);
  const auto state = static_cast<State>(states_.size());
  states_.push_back(std::move(out));
  state_index_.emplace(hash, state);
  return state;
}

Automaton::State Automaton::Explore(State state, uint8_t byte) {
  std::vector<Item> open;
  for (const Item& item : states_[static_cast<size_t>(state)].items) {
    for (const Grammar::Edge& edge :
         grammar_.positions()[static_cast<size_t>(item.position)].edges) {
      ++work_;
      if (edge.kind == Grammar::Edge::Kind::kBytes &&
          grammar_.sets()[static_cast<size_t>(edge.what)].Has(byte)) {
        open.push_back({edge.to, item.frame});
      }
    }
  }
  const State next = open.empty() ? kDead : Close(std::move(open));
  if (!exhausted_) states_[static_cast<size_t>(state)].next[class_of_byte_[byte]] = next;
  return next;
}

}  // namespace causeway
