// The prefix cache: which pages hold the keys of which tokens. Knows no requests and no memory: ids
// and page numbers only. Used by the engine thread only.
//
// A tree of whole pages. A node holds a run of pages and the ids of their tokens; a path from the
// root spells a prefix. What an id stands for is the caller's business, as long as equal ids after
// equal ids mean equal bits in the page.
//
// Every page of a PagePool is exactly one of: free in the pool; owned by one sequence; in the tree.
// Insert moves a page from a sequence to the tree, Evict and Clear move it to the caller, who gives
// it back to the pool. A sequence may read pages of the tree as long as it has them locked.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace causeway {

struct RadixNode;

// What is looked for. Equal ids of different spaces have nothing in common: for what must never be
// shared (caches of different hosts, salts, adapters).
struct RadixKey {
  std::string_view space;
  std::span<const int32_t> ids;  // a last page that is not whole is ignored
};

struct RadixCounters {
  int64_t lookups = 0;  // calls of Lock
  int64_t hits = 0;     // those that found a page
  int64_t hit_pages = 0;
  int64_t inserted_pages = 0;
  int64_t evicted_pages = 0;  // by Evict and Clear
};

// One page of the tree, for tests and for debugging.
struct RadixEntry {
  std::string space;
  std::vector<int32_t> ids;  // of the whole path, this page's included
  int32_t page = 0;
  bool locked = false;
};

class RadixCache {
 public:
  // page_tokens: ids of a page.
  explicit RadixCache(int64_t page_tokens);
  ~RadixCache();

  // Pages of the longest cached prefix of the key. Changes nothing.
  int64_t Match(const RadixKey& key) const;
  // Locks that prefix and appends its pages to `pages`. Null if nothing is cached; else the hold,
  // to be given to Unlock once. Locks count: a page is locked while any hold covers it.
  RadixNode* Lock(const RadixKey& key, std::vector<int32_t>& pages);
  void Unlock(RadixNode* held);  // null: nothing

  // Takes the pages of the key's first pages.size() whole pages, which the caller owns or has
  // locked. Returns those that the caller still owns, since the tree has others with the same ids.
  [[nodiscard]] std::vector<int32_t> Insert(const RadixKey& key, std::span<const int32_t> pages);

  // Takes up to `count` pages out that nobody has locked and returns them: ends of paths first,
  // the least recently locked or inserted of them first.
  [[nodiscard]] std::vector<int32_t> Evict(int64_t count);
  // All that nobody has locked. What is locked stays, and can be found: it is in use, and right.
  [[nodiscard]] std::vector<int32_t> Clear() { return Evict(pages_); }

  int64_t pages() const { return pages_; }
  int64_t locked_pages() const { return locked_pages_; }
  int64_t evictable_pages() const { return pages_ - locked_pages_; }
  const RadixCounters& counters() const { return counters_; }

  // Every page, parents before children. CHECKs that the tree is sound; takes time.
  std::vector<RadixEntry> Entries() const;

 private:
  // How far a key leads.
  struct Walked {
    RadixNode* node = nullptr;  // the last on the way, perhaps a root; null: the space is empty
    int64_t of_node = 0;        // pages of its run that match
    int64_t total = 0;          // pages of the whole path
  };

  Walked Walk(const RadixKey& key) const;
  // Cuts a node's run after its first `count` pages, which become its parent. The node itself
  // keeps the rest, so that holds stay what they are. Returns the parent.
  RadixNode* Split(RadixNode* node, int64_t count);
  // Makes the path up to this node the most recently used.
  void Touch(RadixNode* node);
  // Puts a node among evictable_, if it is, and takes it from there: around every change of it.
  void Enter(RadixNode* node);
  void Leave(RadixNode* node);
  void RemoveLeaf(RadixNode* leaf);
  void AddEntries(const RadixNode& node, const RadixEntry& at, std::vector<RadixEntry>& out) const;

  const int64_t page_tokens_;
  std::map<std::string, std::unique_ptr<RadixNode>, std::less<>> roots_;  // of spaces with pages
  std::map<int64_t, RadixNode*> evictable_;  // leaves without locks, by last use
  std::vector<bool> in_tree_;                // by page number
  int64_t clock_ = 0;                        // of Touch; no two nodes have the same time
  int64_t pages_ = 0;
  int64_t locked_pages_ = 0;
  RadixCounters counters_;
};

}  // namespace causeway
