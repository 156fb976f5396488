// The errors of ranks that meet in different collectives or sizes: they have taken different
// branches, a bug that every backend names instead of hanging.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "parallel/communicator.h"

namespace causeway {

// What a rank has called.
struct Call {
  int rank;
  CollectiveName name;
  bool exchanges;  // or waits at a barrier
};

// Throws unless both ranks have made the same call.
// `noun` is what errors call a member of the group.
inline void CheckSameCall(std::string_view noun, const Call& mine, const Call& theirs) {
  const bool same_name =
      mine.name.layer == theirs.name.layer &&
      std::string_view(mine.name.operation) == std::string_view(theirs.name.operation);
  if (same_name && mine.exchanges == theirs.exchanges) return;
  const char* how = "";
  const char* their_how = "";
  if (mine.exchanges != theirs.exchanges) {
    how = mine.exchanges ? " (exchange)" : " (barrier)";
    their_how = theirs.exchanges ? " (exchange)" : " (barrier)";
  }
  throw StepFailed(Text(noun, " ", mine.rank, " is in ", NameOf(mine.name), how, ", ", noun, " ",
                        theirs.rank, " in ", NameOf(theirs.name), their_how));
}

// Sizes between a rank and its peer in one exchange, as each of the two knows them.
struct PeerSizes {
  CollectiveName name;
  int rank;
  int peer;
  int64_t sent;           // by the peer to this rank
  int64_t expected;       // by this rank from the peer
  int64_t peer_expected;  // by the peer from this rank
  int64_t given;          // by this rank to the peer
};

// Throws unless sender and receiver mean the same sizes, in both directions.
inline void CheckPeerSizes(std::string_view noun, const PeerSizes& sizes) {
  const auto fail = [&](int from, int64_t bytes, int to, int64_t expected) {
    throw StepFailed(Text(noun, " ", sizes.rank, ": ", NameOf(sizes.name), ": ", noun, " ", from,
                          " sends ", bytes, " bytes, ", noun, " ", to, " expects ", expected));
  };
  if (sizes.sent != sizes.expected) fail(sizes.peer, sizes.sent, sizes.rank, sizes.expected);
  if (sizes.given != sizes.peer_expected) {
    fail(sizes.rank, sizes.given, sizes.peer, sizes.peer_expected);
  }
}

}  // namespace causeway
