// TensorGroup: an attention TP group, seen by one of its ranks. All its ranks hold the same tokens;
// each holds some of the heads and of the dense layers' inner columns. One of the two kinds of sums
// in Causeway that cross ranks is made here, in an order that does not depend on how many they are.
#pragma once

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/view.h"
#include "parallel/layout.h"
#include "parallel/rank_link.h"
#include "parallel/read_counts.h"

namespace causeway {

// Used by its rank's thread only. What is passed to a collective must stay as it is until the next
// collective of the group has returned.
class TensorGroup {
 public:
  // `link` joins the ranks of the group that are on this host; it must outlive this, as `reads`
  // must, which counts what is read from them.
  TensorGroup(RankLink& link, const Layout& layout, int rank, ReadCounts& reads);

  // True if this rank holds whole rows, so that there is nothing to add.
  bool whole() const { return size_ == 1; }
  // This rank's share of `total` heads or columns.
  Range ShareOfColumns(int64_t total) const { return ShareOf(total, index_, size_); }
  // The rows among `rows` that this rank does for the ranks of its group on this host (what depends
  // on caches, which every host has), and those that it does for the whole group.
  Range HostRows(int64_t rows) const { return ShareOf(rows, link_.index(), link_.size()); }
  Range HomeRows(int64_t rows) const { return ShareOf(rows, index_, size_); }

  // How many sums a rank has to make that needs `own` of them, and of all ranks of the world none
  // more than `most`. Between hosts all groups call the same exchanges in the same order, so that
  // there those with fewer sums make some of no rows.
  int64_t SumsOf(int64_t own, int64_t most) const { return spans_hosts() ? most : own; }

  // Memory [rows, cols] for this rank's part of a sum, f32 or int32; good until the second next
  // call.
  void* Partial(int64_t rows, int64_t cols);
  // out += the parts of all ranks, added in a binary tree over the ranks: the upper end of the tree
  // over the runs of k (kernels/op_table.h) whose lower end each rank has made. `mine`: Partial.
  void AddTreeSum(CollectiveName name, int64_t rows, int64_t cols, View<float, 2> out);
  // Held for Partial.
  int64_t bytes() const { return parts_[0].bytes() + parts_[1].bytes(); }
  // The same for exact int8 sums: out += (float(sum) * row_scale[i]) * column_scale[j].
  void AddScaledSum(CollectiveName name, int64_t rows, int64_t cols, const float* row_scale,
                    const float* column_scale, View<float, 2> out);
  // most[i] = the largest of mine[i] over the ranks.
  void MaxOf(CollectiveName name, const float* mine, int64_t count, float* most);
  // The HostRows, or the HomeRows, of each rank come to all: `data` [rows, row_bytes], dense.
  void ShareHostRows(CollectiveName name, void* data, int64_t rows, int64_t row_bytes);
  void ShareHomeRows(CollectiveName name, void* data, int64_t rows, int64_t row_bytes);

  // True if the ranks of the group share memory and are several: then they can also cut columns.
  bool shares_memory() const { return link_.size() > 1 && !spans_hosts(); }
  // Columns that each rank has made come to all. Each of the rows, `stride` bytes apart, has
  // `bytes` bytes in units of `unit` (the last may be shorter), of which a rank has made
  // HostRows(units). Nothing need stay as it is: the ranks read a copy. Only if shares_memory().
  void ShareColumns(CollectiveName name, void* data, int64_t rows, int64_t stride, int64_t bytes,
                    int64_t unit);

 private:
  // Calls add(row, sum) for each row, where sum(c) is the sum of all parts in column c.
  template <typename T, typename Add>
  void ForEachSum(CollectiveName name, int64_t rows, int64_t cols, const Add& add);
  // The sum of all parts, [rows, cols].
  template <typename T>
  const T* TreeSum(CollectiveName name, int64_t rows, int64_t cols);
  // data[count] of each host is added up in a binary tree over the hosts of the group.
  template <typename T>
  void AddHosts(Communicator& hosts, CollectiveName name, T* data, int64_t count) const;
  // Sends `bytes` to each other host of the group and returns what each sent, this host's own
  // included, in the order of hosts.
  std::vector<Buffer> ExchangeBetweenHosts(Communicator& hosts, CollectiveName name,
                                           const void* data, int64_t bytes) const;
  // Of `total` items that are cut over the hosts of the group, the share of each comes to all;
  // data [total, item_bytes].
  void GatherFromHosts(Communicator& hosts, CollectiveName name, void* data, int64_t total,
                       int64_t item_bytes) const;
  int host_count() const { return size_ / link_.size(); }
  int host_index() const { return index_ / link_.size(); }
  bool spans_hosts() const { return link_.size() < size_; }

  RankLink& link_;
  ReadCounts& reads_;
  const int index_;  // in the group, over all hosts
  const int size_;
  const int first_host_;  // of the hosts that the group's ranks are on
  Buffer parts_[2];  // used in turn: a rank may still read the last sum when the next part is made
  int turn_ = 0;
};

}  // namespace causeway
