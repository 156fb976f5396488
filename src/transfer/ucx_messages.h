// What a decode host and a prefill host say to each other by UCX. A decode host asks for a run; the
// answer is one message for the latents of each of its pages, and one for the index keys, each with
// an AnswerHeader. With RDMA, UCX takes the rows of larger ones from memory to memory.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstdint>

#include "cache/kv_cache.h"
#include "kernels/op_table.h"
#include "transfer/messages.h"

namespace causeway {

inline constexpr unsigned kAskId = 1;
inline constexpr unsigned kAnswerId = 2;

struct AskMessage {
  uint64_t id = 0;  // chosen by who asks; the answers have it
  RunInMemoryMessage run = {};
  template <typename Visitor>
  void Visit(Visitor& v) {
    v.Number(id);
    run.Visit(v);
  }
};

struct AnswerHeader {
  uint64_t id = 0;
  uint32_t piece = 0;  // 2 i: the latents of the run's page i; 2 i + 1: its index keys
  template <typename Visitor>
  void Visit(Visitor& v) {
    v.Number(id);
    v.Number(piece);
  }
};

inline int64_t PiecesOf(const RunInMemoryMessage& run, const KvShape& shape) {
  return static_cast<int64_t>(run.pages.size()) * (shape.index_bytes() > 0 ? 2 : 1);
}

// Where a piece lies in a cache that has its page at `page` of `layer`. Of latents the rows of the
// run; of index keys the whole page, in which those of a token do not lie together.
inline iovec PieceAt(const RunHeader& run, int64_t piece, const KvCache& cache, int64_t layer,
                     int32_t page) {
  const KvShape& shape = cache.shape();
  if (piece % 2 == 1) {
    return {cache.IndexPage(layer, page), static_cast<size_t>(kPage * shape.index_bytes())};
  }
  const int64_t page_begin = (run.first / kPage + piece / 2) * kPage;
  const int64_t begin = std::max(run.first - page_begin, int64_t{0});
  const int64_t end = std::min(run.tokens().end - page_begin, kPage);
  return {static_cast<char*>(cache.LatentPage(layer, page)) + begin * shape.latent_bytes(),
          static_cast<size_t>((end - begin) * shape.latent_bytes())};
}

// What UCX needs to know of an address.
inline void SetPort(sockaddr_storage& address, int port) {
  const in_port_t raw = htons(static_cast<uint16_t>(port));
  if (address.ss_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6&>(address).sin6_port = raw;
  } else {
    reinterpret_cast<sockaddr_in&>(address).sin_port = raw;
  }
}
inline int PortOf(const sockaddr_storage& address) {
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                   : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}
inline socklen_t BytesOf(const sockaddr_storage& address) {
  return address.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
}

}  // namespace causeway
