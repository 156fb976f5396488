// For tests: texts of a grammar.
#pragma once

#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/automaton.h"

namespace causeway {

inline Automaton::State StateAfter(Automaton& automaton, std::string_view text) {
  Automaton::State state = automaton.start();
  automaton.StartWork();
  for (const char c : text) {
    if (state == Automaton::kDead) break;
    state = automaton.Next(state, static_cast<uint8_t>(c));
  }
  return state;
}

inline bool Matches(Automaton& automaton, std::string_view text) {
  const Automaton::State state = StateAfter(automaton, text);
  return state != Automaton::kDead && automaton.Accepts(state);
}

// A text from a state to an end, which closes what is open where it can.
inline std::string SomeEnd(Automaton& automaton, Automaton::State from) {
  std::string order = "}]\":,0ntf";
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    if (order.substr(0, 10).find(c) == std::string::npos) order += c;
  }
  struct Visit {
    Automaton::State state;
    size_t next = 0;  // in `order`
  };
  std::vector<Visit> path = {{from}};
  std::set<Automaton::State> seen = {from};
  std::string text;
  while (!path.empty() && !automaton.Accepts(path.back().state)) {
    Visit& last = path.back();
    if (last.next == order.size()) {
      path.pop_back();
      if (!text.empty()) text.pop_back();
      continue;
    }
    automaton.StartWork();
    const char c = order[last.next++];
    const Automaton::State next = automaton.Next(last.state, static_cast<uint8_t>(c));
    if (next == Automaton::kDead || !seen.insert(next).second) continue;
    path.push_back({next});
    text += c;
  }
  return path.empty() ? "no end can be reached" : text;
}

// A random text of the grammar: random bytes, and some end after `length` of them.
inline std::string RandomText(Automaton& automaton, std::mt19937& random, size_t length) {
  std::string out;
  Automaton::State state = automaton.start();
  while (out.size() < length && !automaton.Complete(state)) {
    if (automaton.Accepts(state) && random() % 8 == 0) return out;
    automaton.StartWork();
    std::string live;
    for (int byte = 0; byte < 256; ++byte) {
      if (automaton.Next(state, static_cast<uint8_t>(byte)) != Automaton::kDead) {
        live += static_cast<char>(byte);
      }
    }
    if (live.empty()) break;
    // What gives a text its structure is as likely as all the rest.
    std::string structure;
    for (const char c : live) {
      if (std::string_view("\"{}[],:").find(c) != std::string_view::npos) structure += c;
    }
    const std::string& from = !structure.empty() && random() % 2 == 0 ? structure : live;
    out += from[random() % from.size()];
    state = automaton.Next(state, static_cast<uint8_t>(out.back()));
  }
  return out + SomeEnd(automaton, state);
}

}  // namespace causeway
