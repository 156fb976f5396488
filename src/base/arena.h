// Arena: scratch memory of one rank, handed out by bumping a pointer and taken back all at once.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/check.h"
#include "base/view.h"

namespace causeway {

// Grows by whole blocks and keeps them, or has one block that is limited. Not zeroed between uses.
// One thread.
class Arena {
 public:
  // From now on no more than `bytes` can be in use at a time; asking for more is a bug of who
  // stated the limit. Only while nothing is in use.
  void Limit(int64_t bytes) {
    CHECK(block_ == 0 && offset_ == 0, "arena in use: block ", block_, " byte ", offset_);
    if (blocks_.empty() || blocks_[0].bytes() < bytes) {
      // Larger than asked for, so that slowly growing limits seldom need another; what is never
      // written takes no memory.
      const auto rounded = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(bytes)));
      blocks_.clear();
      blocks_.push_back(Buffer::Untouched(rounded));
    }
    limit_ = bytes;
  }
  // `bytes` aligned to 64.
  void* Allocate(int64_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (limit_ > 0) {
      CHECK(offset_ + bytes <= limit_, "scratch memory: ", offset_, " bytes in use, ", bytes,
            " more asked for, limit ", limit_);
      most_ = std::max(most_, offset_ + bytes);
    }
    // On to a block with room; what is left of the one before stays unused until the scope ends.
    while (block_ < blocks_.size() && offset_ + bytes > blocks_[block_].bytes()) {
      ++block_;
      offset_ = 0;
    }
    if (block_ == blocks_.size()) {
      blocks_.emplace_back(std::max(bytes, kBlockBytes));
      total_ += blocks_.back().bytes();
      offset_ = 0;
    }
    void* data = static_cast<char*>(blocks_[block_].data()) + offset_;
    offset_ += bytes;
    return data;
  }
  // Not initialised, and valid until the ArenaScope around them ends; so are the next two.
  template <typename T>
  T* Array(int64_t count) {
    return static_cast<T*>(Allocate(count * static_cast<int64_t>(sizeof(T))));
  }
  View<float, 2> Floats(int64_t rows, int64_t cols) {
    return View<float, 2>(Array<float>(rows * cols), {rows, cols});
  }
  Rows Matrix(DType type, int64_t rows, int64_t cols) {
    return Rows::Dense(Allocate(rows * cols * SizeOf(type)), type, rows, cols);
  }
  // Bytes held: whole blocks, or of a limited one the most that was ever in use.
  int64_t bytes() const { return limit_ > 0 ? most_ : total_; }

 private:
  friend class ArenaScope;
  static constexpr int64_t kBlockBytes = int64_t{16} << 20;

  std::vector<Buffer> blocks_;
  size_t block_ = 0;    // the block in use
  int64_t offset_ = 0;  // its first free byte
  int64_t total_ = 0;
  int64_t limit_ = 0;  // 0: none
  int64_t most_ = 0;   // ever in use under a limit
};

// Gives back at its end what was allocated since its beginning.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), block_(arena.block_), offset_(arena.offset_) {}
  ~ArenaScope() {
    arena_.block_ = block_;
    arena_.offset_ = offset_;
  }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  size_t block_;
  int64_t offset_;
};

}  // namespace causeway
