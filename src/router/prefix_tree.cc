#include "router/prefix_tree.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace causeway {

namespace {

// How many bytes both begin with. In blocks: prompts share many thousands.
size_t SharedBytes(std::string_view a, std::string_view b) {
  constexpr size_t kBlock = 256;
  const size_t most = std::min(a.size(), b.size());
  size_t same = 0;
  while (same + kBlock <= most && std::memcmp(a.data() + same, b.data() + same, kBlock) == 0) {
    same += kBlock;
  }
  while (same < most && a[same] == b[same]) ++same;
  return same;
}

}  // namespace

struct PrefixTree::Node {
  std::string edge;  // the bytes from the parent to here; not empty, but for the root
  Node* parent = nullptr;
  std::vector<std::unique_ptr<Node>> children;  // by the first byte of their edges
  Node* newer = nullptr;
  Node* older = nullptr;

  // Where a child whose edge begins with `byte` stands, or would.
  auto Lower(char byte) {
    return std::lower_bound(children.begin(), children.end(), byte,
                            [](const auto& child, char c) { return child->edge[0] < c; });
  }
  Node* Child(char byte) {
    const auto found = Lower(byte);
    return found != children.end() && (*found)->edge[0] == byte ? found->get() : nullptr;
  }
};

PrefixTree::PrefixTree(int64_t max_size) : max_size_(max_size), root_(std::make_unique<Node>()) {}

// Not left to unique_ptr: a path may be deeper than the thread's stack.
PrefixTree::~PrefixTree() {
  max_size_ = 0;
  Evict();
}

void PrefixTree::Unlink(Node* node) {
  (node->newer != nullptr ? node->newer->older : newest_) = node->older;
  (node->older != nullptr ? node->older->newer : oldest_) = node->newer;
}

void PrefixTree::LinkFront(Node* node) {
  node->newer = nullptr;
  node->older = newest_;
  (newest_ != nullptr ? newest_->newer : oldest_) = node;
  newest_ = node;
}

void PrefixTree::LinkBefore(Node* node, Node* next) {
  node->older = next;
  node->newer = next->newer;
  (next->newer != nullptr ? next->newer->older : newest_) = node;
  next->newer = node;
}

void PrefixTree::Touch(Node* node) {
  for (; node != root_.get(); node = node->parent) {
    Unlink(node);
    LinkFront(node);
  }
}

PrefixTree::Place PrefixTree::Find(std::string_view text) const {
  Place place{.node = root_.get(), .matched = 0, .partly = nullptr};
  while (place.matched < text.size()) {
    Node* child = place.node->Child(text[place.matched]);
    if (child == nullptr) break;
    const std::string_view rest = text.substr(place.matched);
    const size_t same = SharedBytes(rest, child->edge);
    place.matched += same;
    if (same < child->edge.size()) {
      place.partly = child;
      place.in_edge = same;
      break;
    }
    place.node = child;
  }
  return place;
}

size_t PrefixTree::Match(std::string_view text) {
  const Place place = Find(text);
  Touch(place.partly != nullptr ? place.partly : place.node);
  return place.matched;
}

void PrefixTree::Insert(std::string_view text) {
  // What alone exceeds the limit would only push out all others.
  const int64_t longest = std::max<int64_t>(0, max_size_ / 2 - 2 * kNodeSize);
  text = text.substr(0, static_cast<size_t>(longest));
  const Place place = Find(text);
  Node* end = place.node;
  if (place.partly != nullptr && place.matched == text.size()) {
    end = place.partly;  // it ends within an edge: nothing is new
  } else if (place.partly != nullptr) {
    // The edge is cut: its first part becomes a node of its own.
    Node* lower = place.partly;
    const auto slot = place.node->Lower(lower->edge[0]);
    auto upper = std::make_unique<Node>();
    upper->edge = lower->edge.substr(0, place.in_edge);
    upper->parent = place.node;
    std::unique_ptr<Node> below = std::move(*slot);
    below->edge.erase(0, place.in_edge);
    below->edge.shrink_to_fit();
    below->parent = upper.get();
    LinkBefore(upper.get(), lower);
    end = upper.get();
    upper->children.push_back(std::move(below));
    *slot = std::move(upper);
    size_ += kNodeSize;
  }
  if (place.matched < text.size()) {
    auto leaf = std::make_unique<Node>();
    leaf->edge = text.substr(place.matched);
    leaf->parent = end;
    LinkFront(leaf.get());
    size_ += kNodeSize + static_cast<int64_t>(leaf->edge.size());
    Node* added = leaf.get();
    end->children.insert(end->Lower(added->edge[0]), std::move(leaf));
    end = added;
  }
  Touch(end);
  Evict();
}

void PrefixTree::Evict() {
  while (size_ > max_size_ && oldest_ != nullptr) {
    Node* node = oldest_;
    CHECK(node->children.empty(), "the least recently used node has children");
    Unlink(node);
    size_ -= kNodeSize + static_cast<int64_t>(node->edge.size());
    Node* parent = node->parent;
    parent->children.erase(parent->Lower(node->edge[0]));
  }
}

}  // namespace causeway
