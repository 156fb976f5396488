// Feeds the kept inputs of a fuzz target (testdata/fuzz/NAME) to its entry point, without
// libFuzzer: what was found once stays mended, with every compiler and sanitizer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace causeway {
namespace {

TEST(FuzzReplay, EveryKeptInputPassesItsChecks) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(CAUSEWAY_CORPUS)) {
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  ASSERT_FALSE(files.empty()) << CAUSEWAY_CORPUS;
  for (const auto& path : files) {
    std::ifstream file(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    // Seen if the target aborts: its checks end the process.
    SCOPED_TRACE(path.string());
    std::printf("%s\n", path.filename().c_str());
    // A copy of its own: a read past the end is then seen by the address sanitizer.
    const std::vector<uint8_t> copy(bytes.begin(), bytes.end());
    EXPECT_EQ(LLVMFuzzerTestOneInput(copy.data(), copy.size()), 0);
  }
}

}  // namespace
}  // namespace causeway
