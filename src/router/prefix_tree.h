// Which prompts a worker has seen: an approximation of what its prefix cache holds.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace causeway {

// A radix tree over bytes. Its size is bounded: what has not been used for the longest time goes.
class PrefixTree {
 public:
  // `max_size`: bytes of text, and kNodeSize for each node.
  explicit PrefixTree(int64_t max_size);
  ~PrefixTree();
  PrefixTree(const PrefixTree&) = delete;
  PrefixTree& operator=(const PrefixTree&) = delete;

  // How many of the text's first bytes are the beginning of a text that was inserted. Counts as a
  // use of it.
  size_t Match(std::string_view text);
  void Insert(std::string_view text);
  int64_t size() const { return size_; }

  static constexpr int64_t kNodeSize = 64;

 private:
  struct Node;

  // The deepest node that `text` reaches, and how many bytes it matches, those within the edge of
  // the next node, `partly`, too.
  struct Place {
    Node* node;
    size_t matched;
    Node* partly;        // null: it ends at the node
    size_t in_edge = 0;  // of partly's edge
  };
  Place Find(std::string_view text) const;
  // Moves the node and all above it to the front of the list of uses, in this order: a node stands
  // before all below it, so that the last one has no children.
  void Touch(Node* node);
  void Unlink(Node* node);
  void LinkFront(Node* node);
  void LinkBefore(Node* node, Node* next);
  void Evict();

  int64_t max_size_;
  int64_t size_ = 0;
  std::unique_ptr<Node> root_;
  // A list of all nodes but the root, by use.
  Node* newest_ = nullptr;
  Node* oldest_ = nullptr;
};

}  // namespace causeway
