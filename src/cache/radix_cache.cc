#include "cache/radix_cache.h"

#include <algorithm>

#include "base/check.h"

namespace causeway {

struct RadixNode {
  RadixNode* parent = nullptr;  // null: the root of a space, which has no pages
  std::string space;            // of a root
  std::vector<int32_t> ids;     // [pages, page_tokens]
  std::vector<int32_t> pages;   // at least one
  std::vector<std::unique_ptr<RadixNode>> children;  // their first pages differ; sorted by them
  int64_t locks = 0;                                 // holds on it and on what is below it
  int64_t used = 0;                                  // clock_ of the last Touch

  int64_t count() const { return static_cast<int64_t>(pages.size()); }
};

namespace {

using Ids = std::span<const int32_t>;
using Children = std::vector<std::unique_ptr<RadixNode>>;

// The place of the child whose first page has these ids, or where it would be.
template <typename ChildrenOf>
auto FindChild(ChildrenOf& children, Ids first_page) {
  return std::lower_bound(children.begin(), children.end(), first_page,
                          [](const std::unique_ptr<RadixNode>& child, Ids wanted) {
                            const Ids first = Ids(child->ids).first(wanted.size());
                            return std::lexicographical_compare(first.begin(), first.end(),
                                                                wanted.begin(), wanted.end());
                          });
}

bool BeginsWith(const RadixNode& node, Ids first_page) {
  return std::equal(first_page.begin(), first_page.end(), node.ids.begin());
}

}  // namespace

RadixCache::RadixCache(int64_t page_tokens) : page_tokens_(page_tokens) {
  CHECK(page_tokens > 0, page_tokens);
}

RadixCache::~RadixCache() = default;

RadixCache::Walked RadixCache::Walk(const RadixKey& key) const {
  Walked at;
  const auto root = roots_.find(key.space);
  if (root == roots_.end()) return at;
  at.node = root->second.get();
  const auto page = static_cast<size_t>(page_tokens_);
  Ids left = key.ids.first(key.ids.size() / page * page);
  while (!left.empty()) {
    const Ids first = left.first(page);
    const auto child = FindChild(at.node->children, first);
    if (child == at.node->children.end() || !BeginsWith(**child, first)) break;
    at.node = child->get();
    const auto differ =
        std::mismatch(left.begin(), left.end(), at.node->ids.begin(), at.node->ids.end());
    at.of_node = (differ.first - left.begin()) / page_tokens_;
    at.total += at.of_node;
    if (at.of_node < at.node->count()) break;
    left = left.subspan(at.node->ids.size());
  }
  return at;
}

int64_t RadixCache::Match(const RadixKey& key) const { return Walk(key).total; }

RadixNode* RadixCache::Split(RadixNode* node, int64_t count) {
  CHECK(0 < count && count < node->count(), count, " of ", node->count());
  auto upper = std::make_unique<RadixNode>();
  RadixNode* result = upper.get();
  const auto ids = node->ids.begin() + count * page_tokens_;
  const auto pages = node->pages.begin() + count;
  upper->parent = node->parent;
  upper->ids.assign(node->ids.begin(), ids);
  upper->pages.assign(node->pages.begin(), pages);
  upper->locks = node->locks;  // every hold on the node goes through its new parent
  // The first page stays the same, and so does the place among the children.
  const auto place =
      FindChild(node->parent->children, Ids(upper->ids).first(static_cast<size_t>(page_tokens_)));
  upper->children.push_back(std::move(*place));
  *place = std::move(upper);
  node->parent = result;
  node->ids.erase(node->ids.begin(), ids);
  node->pages.erase(node->pages.begin(), pages);
  return result;
}

void RadixCache::Leave(RadixNode* node) {
  const auto found = evictable_.find(node->used);
  if (found != evictable_.end() && found->second == node) evictable_.erase(found);
}

void RadixCache::Enter(RadixNode* node) {
  if (node->parent == nullptr || !node->children.empty() || node->locks > 0) return;
  evictable_[node->used] = node;
}

void RadixCache::Touch(RadixNode* node) {
  // Upwards: a parent is younger than its child, though it can't be evicted before it anyway.
  for (; node->parent != nullptr; node = node->parent) {
    Leave(node);
    node->used = ++clock_;
    Enter(node);
  }
}

RadixNode* RadixCache::Lock(const RadixKey& key, std::vector<int32_t>& pages) {
  ++counters_.lookups;
  const Walked at = Walk(key);
  if (at.total == 0) return nullptr;
  ++counters_.hits;
  counters_.hit_pages += at.total;
  RadixNode* held = at.of_node < at.node->count() ? Split(at.node, at.of_node) : at.node;
  Touch(held);
  Leave(held);
  const auto first = static_cast<int64_t>(pages.size());
  for (RadixNode* node = held; node->parent != nullptr; node = node->parent) {
    if (node->locks++ == 0) locked_pages_ += node->count();
    pages.insert(pages.begin() + first, node->pages.begin(), node->pages.end());
  }
  return held;
}

void RadixCache::Unlock(RadixNode* held) {
  if (held == nullptr) return;
  for (RadixNode* node = held; node->parent != nullptr; node = node->parent) {
    CHECK(node->locks > 0, "a hold was given back twice");
    if (--node->locks == 0) locked_pages_ -= node->count();
  }
  Enter(held);
}

std::vector<int32_t> RadixCache::Insert(const RadixKey& key, std::span<const int32_t> pages) {
  const size_t ids = pages.size() * static_cast<size_t>(page_tokens_);
  CHECK(key.ids.size() >= ids, pages.size(), " pages for ", key.ids.size(), " ids");
  std::vector<int32_t> duplicates;
  if (pages.empty()) return duplicates;
  Walked at = Walk({key.space, key.ids.first(ids)});
  // From the end of what is there to its beginning: pages that differ from the caller's.
  int64_t index = at.total;
  int64_t of_node = at.of_node;
  for (RadixNode* node = at.node; index > 0; node = node->parent, of_node = node->count()) {
    for (int64_t i = of_node - 1; i >= 0; --i) {
      const int32_t page = pages[static_cast<size_t>(--index)];
      if (page != node->pages[static_cast<size_t>(i)]) duplicates.push_back(page);
    }
  }
  const auto rest = pages.subspan(static_cast<size_t>(at.total));
  if (rest.empty()) {
    Touch(at.node);
    return duplicates;
  }
  if (at.node == nullptr) {
    auto& root = roots_[std::string(key.space)];
    root = std::make_unique<RadixNode>();
    root->space = key.space;
    at.node = root.get();
  }
  if (at.of_node < at.node->count()) at.node = Split(at.node, at.of_node);
  auto child = std::make_unique<RadixNode>();
  RadixNode* added = child.get();
  const Ids its_ids = key.ids.first(ids).subspan(static_cast<size_t>(at.total * page_tokens_));
  child->parent = at.node;
  child->ids.assign(its_ids.begin(), its_ids.end());
  child->pages.assign(rest.begin(), rest.end());
  for (const int32_t page : rest) {
    CHECK(page >= 0, page);
    const auto number = static_cast<size_t>(page);
    if (in_tree_.size() <= number) in_tree_.resize(number + 1);
    CHECK(!in_tree_[number], "page ", page, " is in the tree already");
    in_tree_[number] = true;
  }
  pages_ += child->count();
  counters_.inserted_pages += child->count();
  Leave(at.node);  // no leaf any more
  Children& children = at.node->children;
  children.insert(FindChild(children, its_ids.first(static_cast<size_t>(page_tokens_))),
                  std::move(child));
  Touch(added);
  return duplicates;
}

std::vector<int32_t> RadixCache::Evict(int64_t count) {
  std::vector<int32_t> out;
  while (static_cast<int64_t>(out.size()) < count && !evictable_.empty()) {
    RadixNode* leaf = evictable_.begin()->second;
    // From the end of its run: what is left is a prefix still.
    const int64_t taken = std::min(count - static_cast<int64_t>(out.size()), leaf->count());
    for (int64_t i = 0; i < taken; ++i) {
      out.push_back(leaf->pages.back());
      in_tree_[static_cast<size_t>(leaf->pages.back())] = false;
      leaf->pages.pop_back();
    }
    leaf->ids.resize(leaf->pages.size() * static_cast<size_t>(page_tokens_));
    pages_ -= taken;
    if (leaf->pages.empty()) RemoveLeaf(leaf);
  }
  counters_.evicted_pages += static_cast<int64_t>(out.size());
  return out;
}

void RadixCache::RemoveLeaf(RadixNode* leaf) {
  Leave(leaf);
  RadixNode* parent = leaf->parent;
  // Its ids are gone: it is found by address.
  const auto place =
      std::find_if(parent->children.begin(), parent->children.end(),
                   [&](const std::unique_ptr<RadixNode>& child) { return child.get() == leaf; });
  parent->children.erase(place);
  if (parent->parent != nullptr) {
    Enter(parent);
  } else if (parent->children.empty()) {
    roots_.erase(roots_.find(parent->space));
  }
}

std::vector<RadixEntry> RadixCache::Entries() const {
  std::vector<RadixEntry> out;
  for (const auto& [space, root] : roots_) {
    CHECK(space == root->space && root->pages.empty() && !root->children.empty(), space);
    AddEntries(*root, {.space = space, .ids = {}}, out);
  }
  int64_t locked = 0;
  for (const RadixEntry& entry : out) {
    CHECK(in_tree_[static_cast<size_t>(entry.page)], entry.page);
    locked += entry.locked ? 1 : 0;
  }
  CHECK(static_cast<int64_t>(out.size()) == pages_ && locked == locked_pages_, out.size(), " ",
        pages_, " ", locked, " ", locked_pages_);
  CHECK(std::count(in_tree_.begin(), in_tree_.end(), true) == pages_, pages_);
  return out;
}

void RadixCache::AddEntries(const RadixNode& node, const RadixEntry& at,
                            std::vector<RadixEntry>& out) const {
  const bool leaf = node.children.empty() && node.parent != nullptr;
  const auto found = evictable_.find(node.used);
  const bool entered = found != evictable_.end() && found->second == &node;
  CHECK(entered == (leaf && node.locks == 0), node.locks);
  RadixEntry entry = at;
  for (int64_t i = 0; i < node.count(); ++i) {
    const auto ids = node.ids.begin() + i * page_tokens_;
    entry.ids.insert(entry.ids.end(), ids, ids + page_tokens_);
    entry.page = node.pages[static_cast<size_t>(i)];
    entry.locked = node.locks > 0;
    out.push_back(entry);
  }
  int64_t below = 0;
  const RadixNode* last = nullptr;
  for (const auto& child : node.children) {
    CHECK(child->parent == &node && !child->pages.empty(), child->count());
    CHECK(static_cast<int64_t>(child->ids.size()) == child->count() * page_tokens_, child->count());
    below += child->locks;
    // Sorted, and different within the first page.
    if (last != nullptr) {
      CHECK(std::lexicographical_compare(last->ids.begin(), last->ids.begin() + page_tokens_,
                                         child->ids.begin(), child->ids.begin() + page_tokens_),
            "unsorted children");
    }
    last = child.get();
    AddEntries(*child, entry, out);
  }
  CHECK(node.parent == nullptr || below <= node.locks, below, " ", node.locks);
}

}  // namespace causeway
