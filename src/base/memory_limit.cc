// Files as proc(5) and the kernel's admin-guide/cgroup-v1/memory and cgroup-v2 describe them.
#include "base/memory_limit.h"

#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>

namespace causeway {
namespace {

std::optional<int64_t> ParseInteger(const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return value;
}

// The number in a file; nothing if there is none, as in "max".
std::optional<int64_t> ReadInteger(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  return file >> word ? ParseInteger(word) : std::nullopt;
}

// Takes the limit of the cgroup and of each around it, up to the mount.
void Narrow(MemoryLimit& limit, const std::string& root, const std::string& mount,
            std::string group, const std::string& file) {
  // In a container the path may be that of the host, where it is mounted at the top instead: then
  // only the top is found.
  for (;;) {
    const std::string path = Text(mount, group, group.ends_with("/") ? "" : "/", file);
    const std::optional<int64_t> bytes = ReadInteger(root + path);
    // v1 says "no limit" by a number near 2^63, which narrows nothing.
    if (bytes.has_value() && *bytes < limit.bytes) limit = {*bytes, path};
    if (group.empty() || group == "/") return;
    group = group.substr(0, group.rfind('/'));
  }
}

}  // namespace

StatusOr<MemoryLimit> FindMemoryLimit(const std::string& root) {
  const std::string meminfo = "/proc/meminfo";
  MemoryLimit limit;
  std::ifstream memory(root + meminfo);
  std::string line;
  while (std::getline(memory, line)) {
    std::istringstream words(line);
    std::string key;
    std::string kib;
    if (words >> key >> kib && key == "MemTotal:") {
      limit = {ParseInteger(kib).value_or(0) * 1024, Text("MemTotal of ", meminfo)};
    }
  }
  if (limit.bytes <= 0) return NotFound(Text(root, meminfo, " has no line MemTotal: N kB"));
  // "0::/path" is v2; "N:memory,...:/path" the memory controller of v1.
  std::ifstream groups(root + "/proc/self/cgroup");
  while (std::getline(groups, line)) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = Text(",", line.substr(first + 1, second - first - 1), ",");
    const std::string group = line.substr(second + 1);
    if (!group.starts_with("/")) continue;
    if (controllers == ",,") {
      Narrow(limit, root, "/sys/fs/cgroup", group, "memory.max");
    } else if (controllers.find(",memory,") != std::string::npos) {
      Narrow(limit, root, "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes");
    }
  }
  return limit;
}

}  // namespace causeway
