// Sums are added in one fixed binary tree over the ranks of the group, whatever hosts they are on:
// the same bits for every number of hosts. Within a host by reading each other's memory, between
// hosts by exchange.
#include "parallel/tensor_group.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace causeway {
namespace {

// pieces[0][i] = the sum of all pieces[*][i], added as a binary tree.
template <typename T>
void AddTree(std::vector<Buffer>& pieces, int64_t count) {
  // Neighbours first: 0+1, 2+3, then 0+2. The order is part of the result.
  for (size_t step = 1; step < pieces.size(); step *= 2) {
    for (size_t i = 0; i < pieces.size(); i += 2 * step) {
      T* lower = pieces[i].as<T>();
      const T* upper = pieces[i + step].as<T>();
      for (int64_t c = 0; c < count; ++c) lower[c] = lower[c] + upper[c];
    }
  }
}

}  // namespace

TensorGroup::TensorGroup(RankLink& link, const Layout& layout, int rank, ReadCounts& reads)
    : link_(link),
      reads_(reads),
      index_(layout.PlaceOf(rank).tp),
      size_(layout.tp),
      first_host_(layout.HostOf(rank - index_)) {
  // This host's ranks are a whole subtree, or the whole group.
  CHECK(size_ % link.size() == 0 && index_ % link.size() == link.index(), size_, " ranks, ",
        link.size(), " on this host");
}

void* TensorGroup::Partial(int64_t rows, int64_t cols) {
  // Two buffers in turn: others may still read the last sum while the next is made.
  turn_ = 1 - turn_;
  Buffer& part = parts_[turn_];
  if (part.bytes() < rows * cols * 4) part = Buffer(rows * cols * 4);
  return part.data();
}

template <typename T>
const T* TensorGroup::TreeSum(CollectiveName name, int64_t rows, int64_t cols) {
  T* mine = parts_[turn_].as<T>();
  link_.Barrier(name, mine);
  // Each rank adds up some rows, in place in the memory of the lower rank of each pair. Nobody else
  // touches these rows now.
  const int ranks = link_.size();
  std::vector<T*> parts;
  for (int i = 0; i < ranks; ++i) parts.push_back(const_cast<T*>(link_.Shared<T>(i)));
  // These rows are this rank's to sum; together the ranks of the host sum all of them.
  const Range range = HostRows(rows);
  for (int64_t row = range.begin; row < range.end; ++row) {
    for (int step = 1; step < ranks; step *= 2) {
      for (int i = 0; i < ranks; i += 2 * step) {
        T* lower = parts[static_cast<size_t>(i)] + row * cols;
        const T* upper = parts[static_cast<size_t>(i + step)] + row * cols;
        for (int64_t c = 0; c < cols; ++c) lower[c] = lower[c] + upper[c];
      }
    }
  }
  // Of these rows the parts of all others; of the other rows the sums that others have made.
  reads_.Add(name.operation, (range.size() * (ranks - 1) + rows - range.size()) * cols *
                                 static_cast<int64_t>(sizeof(T)));
  T* sums = parts[0];
  const HostAction add_hosts = [&](Communicator& hosts) {
    if (spans_hosts()) AddHosts(hosts, name, sums, rows * cols);
  };
  link_.Barrier(name, mine, add_hosts);
  return sums;
}

// Two hosts send each other everything. More would send more than they must: there each host adds
// up its share and hands the sums on. Either way 2 * (hosts - 1) * count values travel.
template <typename T>
void TensorGroup::AddHosts(Communicator& hosts, CollectiveName name, T* data, int64_t count) const {
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  if (host_count() == 2) {
    std::vector<Buffer> sent = ExchangeBetweenHosts(hosts, name, data, count * kSize);
    AddTree<T>(sent, count);
    if (count > 0) std::memcpy(data, sent[0].data(), static_cast<size_t>(count * kSize));
    return;
  }
  const Range own = ShareOf(count, host_index(), host_count());
  std::vector<Buffer> parts;
  for (int i = 0; i < host_count(); ++i) parts.emplace_back(own.size() * kSize);
  std::vector<Outgoing> to(static_cast<size_t>(hosts.size()));
  std::vector<Incoming> from(to.size());
  for (int i = 0; i < host_count(); ++i) {
    const auto host = static_cast<size_t>(first_host_ + i);
    const Range range = ShareOf(count, i, host_count());
    if (range.size() > 0) to[host] = {data + range.begin, range.size() * kSize};
    from[host] = {parts[static_cast<size_t>(i)].data(), own.size() * kSize};
  }
  hosts.Exchange(name, to, from);
  AddTree<T>(parts, own.size());
  if (own.size() > 0) {
    std::memcpy(data + own.begin, parts[0].data(), static_cast<size_t>(own.size() * kSize));
  }
  GatherFromHosts(hosts, name, data, count, kSize);
}

template <typename T, typename Add>
void TensorGroup::ForEachSum(CollectiveName name, int64_t rows, int64_t cols, const Add& add) {
  if (link_.size() == 2 && !spans_hosts()) {
    // Each reads the other's part instead of half of it and half of the sums: as much, and nobody
    // has to wait for sums.
    link_.Barrier(name, parts_[turn_].as<T>());
    const T* lower = link_.Shared<T>(0);
    const T* upper = link_.Shared<T>(1);
    reads_.Add(name.operation, rows * cols * static_cast<int64_t>(sizeof(T)));
    for (int64_t row = 0; row < rows; ++row, lower += cols, upper += cols) {
      add(row, [lower, upper](int64_t c) { return lower[c] + upper[c]; });
    }
    return;
  }
  const T* sums = TreeSum<T>(name, rows, cols);
  for (int64_t row = 0; row < rows; ++row, sums += cols) {
    add(row, [sums](int64_t c) { return sums[c]; });
  }
}

void TensorGroup::AddTreeSum(CollectiveName name, int64_t rows, int64_t cols, View<float, 2> out) {
  ForEachSum<float>(name, rows, cols, [&](int64_t row, const auto& sum) {
    float* to = out.row(row);
    for (int64_t c = 0; c < cols; ++c) to[c] = to[c] + sum(c);
  });
}

void TensorGroup::AddScaledSum(CollectiveName name, int64_t rows, int64_t cols,
                               const float* row_scale, const float* column_scale,
                               View<float, 2> out) {
  ForEachSum<int32_t>(name, rows, cols, [&](int64_t row, const auto& sum) {
    float* to = out.row(row);
    for (int64_t c = 0; c < cols; ++c) {
      // The scales after the sum: int32 sums are exact, and only this line rounds.
      to[c] = to[c] + static_cast<float>(sum(c)) * row_scale[row] * column_scale[c];
    }
  });
}

void TensorGroup::MaxOf(CollectiveName name, const float* mine, int64_t count, float* most) {
  link_.Barrier(name, mine);
  // A maximum is the same in any order.
  std::copy_n(link_.Shared<float>(0), count, most);
  for (int i = 1; i < link_.size(); ++i) {
    const float* other = link_.Shared<float>(i);
    for (int64_t c = 0; c < count; ++c) most[c] = std::max(most[c], other[c]);
  }
  reads_.Add(name.operation, count * (link_.size() - 1) * 4);
  if (!spans_hosts()) return;
  const HostAction over_hosts = [&](Communicator& hosts) {
    for (const Buffer& sent : ExchangeBetweenHosts(hosts, name, most, count * 4)) {
      for (int64_t c = 0; c < count; ++c) most[c] = std::max(most[c], sent.as<float>()[c]);
    }
  };
  link_.Barrier(name, most, over_hosts);
  // Rank 0 has the maximum over hosts.
  if (link_.index() != 0) std::copy_n(link_.Shared<float>(0), count, most);
}

void TensorGroup::ShareHostRows(CollectiveName name, void* data, int64_t rows, int64_t row_bytes) {
  if (link_.size() == 1) return;
  link_.Barrier(name, data);
  for (int i = 0; i < link_.size(); ++i) {
    if (i == link_.index()) continue;
    const Range range = ShareOf(rows, i, link_.size());
    if (range.size() == 0) continue;  // `data` may be null
    reads_.Add(name.operation, range.size() * row_bytes);
    std::memcpy(static_cast<char*>(data) + range.begin * row_bytes,
                link_.Shared<char>(i) + range.begin * row_bytes,
                static_cast<size_t>(range.size() * row_bytes));
  }
}

void TensorGroup::ShareColumns(CollectiveName name, void* data, int64_t rows, int64_t stride,
                               int64_t bytes, int64_t unit) {
  CHECK(shares_memory(), size_, " ranks, ", link_.size(), " on this host");
  const auto columns = [&](int rank) {  // in bytes
    const Range units = ShareOf((bytes + unit - 1) / unit, rank, link_.size());
    return Range{std::min(bytes, units.begin * unit), std::min(bytes, units.end * unit)};
  };
  auto* to = static_cast<char*>(data);
  const Range own = columns(link_.index());
  auto* copy = static_cast<char*>(Partial(rows, (own.size() + 3) / 4));
  // A rank without columns has no copy: null.
  for (int64_t row = 0; row < rows && own.size() > 0; ++row) {
    std::memcpy(copy + row * own.size(), to + row * stride + own.begin,
                static_cast<size_t>(own.size()));
  }
  link_.Barrier(name, copy);
  for (int i = 0; i < link_.size(); ++i) {
    if (i == link_.index()) continue;
    const Range theirs = columns(i);
    if (theirs.size() == 0) continue;
    const char* from = link_.Shared<char>(i);
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(to + row * stride + theirs.begin, from + row * theirs.size(),
                  static_cast<size_t>(theirs.size()));
    }
    reads_.Add(name.operation, rows * theirs.size());
  }
}

void TensorGroup::ShareHomeRows(CollectiveName name, void* data, int64_t rows, int64_t row_bytes) {
  if (whole()) return;
  const int ranks = link_.size();
  // Homes share the rows by rank, as ShareOf cuts them.
  const int first = index_ - link_.index();  // of this host's ranks, in the group
  const auto copy_from = [&](const void* from, int rank) {
    const Range range = ShareOf(rows, rank, size_);
    if (range.size() == 0) return;  // `data` may be null
    std::memcpy(static_cast<char*>(data) + range.begin * row_bytes,
                static_cast<const char*>(from) + range.begin * row_bytes,
                static_cast<size_t>(range.size() * row_bytes));
  };
  // On several hosts rank 0 of the host gathers first, so that the host sends all its rows at once.
  const HostAction from_hosts = [&](Communicator& hosts) {
    if (!spans_hosts()) return;
    for (int i = 1; i < ranks; ++i) copy_from(link_.Shared<char>(i), first + i);
    GatherFromHosts(hosts, name, data, rows, row_bytes);
  };
  link_.Barrier(name, data, from_hosts);
  for (int rank = 0; rank < size_; ++rank) {
    if (rank == index_) continue;
    const bool here = first <= rank && rank < first + ranks;
    const int owner = here && !spans_hosts() ? rank - first : 0;
    if (owner == link_.index()) continue;
    copy_from(link_.Shared<char>(owner), rank);
    reads_.Add(name.operation, ShareOf(rows, rank, size_).size() * row_bytes);
  }
}

std::vector<Buffer> TensorGroup::ExchangeBetweenHosts(Communicator& hosts, CollectiveName name,
                                                      const void* data, int64_t bytes) const {
  std::vector<Buffer> received;
  for (int i = 0; i < host_count(); ++i) received.emplace_back(bytes);
  std::vector<Outgoing> to(static_cast<size_t>(hosts.size()));
  std::vector<Incoming> from(static_cast<size_t>(hosts.size()));
  for (int i = 0; i < host_count(); ++i) {
    const auto host = static_cast<size_t>(first_host_ + i);
    to[host] = {data, bytes};
    from[host] = {received[static_cast<size_t>(i)].data(), bytes};
  }
  hosts.Exchange(name, to, from);
  return received;
}

void TensorGroup::GatherFromHosts(Communicator& hosts, CollectiveName name, void* data,
                                  int64_t total, int64_t item_bytes) const {
  char* bytes = static_cast<char*>(data);
  const Range own = ShareOf(total, host_index(), host_count());
  std::vector<Outgoing> to(static_cast<size_t>(hosts.size()));
  std::vector<Incoming> from(to.size());
  for (int i = 0; i < host_count(); ++i) {
    // Its own rows are there already.
    if (i == host_index()) continue;
    const auto host = static_cast<size_t>(first_host_ + i);
    const Range theirs = ShareOf(total, i, host_count());
    if (own.size() > 0) to[host] = {bytes + own.begin * item_bytes, own.size() * item_bytes};
    if (theirs.size() > 0) {
      from[host] = {bytes + theirs.begin * item_bytes, theirs.size() * item_bytes};
    }
  }
  hosts.Exchange(name, to, from);
}

}  // namespace causeway
