#include "router/logprob_merge.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <optional>
#include <vector>

#include "router/json_scan.h"

namespace causeway {
namespace {

constexpr size_t kMaxEventBytes = 256 << 20;

// Where an answer's logprobs stand, and which prompt it is of.
struct Found {
  int64_t index = 0;
  std::array<std::string_view, kPromptLists.size()> lists;  // their values; null data: not there
};

Found FindLogprobs(std::string_view object) {
  Found found;
  const JsonProblem problem = ScanObject(object, [&found](const JsonMember& member) {
    if (IsKey(member.key, "index")) {
      std::from_chars(member.value.data(), member.value.data() + member.value.size(), found.index);
    } else if (IsKey(member.key, "meta_info") && member.value.starts_with('{')) {
      const JsonProblem none = ScanObject(member.value, [&found](const JsonMember& inner) {
        for (size_t i = 0; i < kPromptLists.size(); ++i) {
          if (IsKey(inner.key, kPromptLists[i])) found.lists[i] = inner.value;
        }
      });
      if (none) found.lists = {};
    }
  });
  if (problem) found.lists = {};
  return found;
}

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

// Between its brackets; empty for null and anything else.
std::string_view Inside(std::string_view list) {
  if (!list.starts_with('[')) return {};
  return Trimmed(list.substr(1, list.size() - 2));
}

// The objects of an answer: itself, or those of its list.
std::vector<std::string_view> Objects(std::string_view answer) {
  answer = Trimmed(answer);
  if (answer.starts_with('{')) return {answer};
  std::vector<std::string_view> out;
  if (ScanArray(answer, [&out](std::string_view value) { out.push_back(value); })) return {};
  return out;
}

// The data of an event, or nothing for what is none, such as a comment.
std::string_view DataOf(std::string_view event) {
  if (!event.starts_with("data:")) return {};
  const std::string_view data = Trimmed(event.substr(5));
  return data.starts_with('{') ? data : std::string_view();
}

// Replaces the lists that `found` has, views into `text`, which began at `begin`.
void Splice(std::string& text, const char* begin, const Found& found,
            const PromptLogprobs::mapped_type& prompt) {
  std::array<size_t, kPromptLists.size()> order = {0, 1, 2};
  // From the back: the places before stay right.
  std::ranges::sort(order, std::ranges::greater(), [&](size_t i) { return found.lists[i].data(); });
  for (const size_t i : order) {
    if (found.lists[i].data() == nullptr || !prompt[i]) continue;
    const std::string_view own = Inside(found.lists[i]);
    std::string merged = "[" + *prompt[i];
    if (!prompt[i]->empty() && !own.empty()) merged += ", ";
    merged += own;
    merged += "]";
    text.replace(static_cast<size_t>(found.lists[i].data() - begin), found.lists[i].size(), merged);
  }
}

// The bytes up to and with the end of the first event; 0: it is not complete.
size_t EventEnd(std::string_view text, size_t from) {
  for (size_t at = text.find('\n', from); at != std::string_view::npos;
       at = text.find('\n', at + 1)) {
    if (text.substr(at + 1, 1) == "\n") return at + 2;
    if (text.substr(at + 1, 2) == "\r\n") return at + 3;
  }
  return 0;
}

}  // namespace

PromptLogprobs ReadPromptLogprobs(std::string_view answer, bool stream) {
  PromptLogprobs out;
  const auto add = [&out](const Found& found, int64_t index) {
    PromptLogprobs::mapped_type lists;
    for (size_t i = 0; i < lists.size(); ++i) {
      if (found.lists[i].data() != nullptr) lists[i] = Inside(found.lists[i]);
    }
    if (lists != PromptLogprobs::mapped_type()) out.emplace(index, std::move(lists));
  };
  if (!stream) {
    int64_t index = 0;
    for (const std::string_view object : Objects(answer)) add(FindLogprobs(object), index++);
    return out;
  }
  for (size_t end = 0; !answer.empty(); answer.remove_prefix(end)) {
    end = EventEnd(answer, 0);
    if (end == 0) end = answer.size();
    const std::string_view data = DataOf(answer.substr(0, end));
    if (data.empty()) continue;
    const Found found = FindLogprobs(data);
    add(found, found.index);
  }
  return out;
}

std::string MergeAnswer(std::string answer, const PromptLogprobs& prompt) {
  std::vector<Found> places;
  for (const std::string_view object : Objects(answer)) places.push_back(FindLogprobs(object));
  const std::string_view whole = answer;
  std::string out = answer;
  // From the back: the places before stay right.
  for (size_t i = places.size(); i-- > 0;) {
    const auto found = prompt.find(static_cast<int64_t>(i));
    if (found == prompt.end()) continue;
    Splice(out, whole.data(), places[i], found->second);
  }
  return out;
}

std::string EventMerger::Add(std::string_view piece) {
  // An event's end may lie in the last bytes that were there, too.
  size_t from = rest_.size() < 3 ? 0 : rest_.size() - 3;
  rest_ += piece;
  std::string out;
  size_t done = 0;
  for (size_t end; (end = EventEnd(rest_, std::max(from, done))) != 0; done = end) {
    std::string event = rest_.substr(done, end - done);
    const std::string_view data = DataOf(event);
    if (!data.empty() && !prompt_.empty()) {
      const Found found = FindLogprobs(data);
      const auto prompt = prompt_.find(found.index);
      if (prompt != prompt_.end()) Splice(event, event.data(), found, prompt->second);
    }
    out += event;
  }
  rest_.erase(0, done);
  return out;
}

bool EventMerger::too_long() const { return rest_.size() > kMaxEventBytes; }

}  // namespace causeway
