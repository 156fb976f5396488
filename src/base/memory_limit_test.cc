#include "base/memory_limit.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace causeway {
namespace {

// A machine's files below a folder of its own.
class MemoryLimitTest : public testing::Test {
 protected:
  void SetUp() override {
    Write("/proc/meminfo", "MemTotal:       1000 kB\nMemFree:         500 kB\n");
  }
  ~MemoryLimitTest() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void Expect(int64_t bytes, const std::string& source) const {
    const auto limit = FindMemoryLimit(root_);
    ASSERT_TRUE(limit.ok()) << limit.status().message();
    EXPECT_EQ(limit->bytes, bytes);
    EXPECT_EQ(limit->source, source);
  }

  const std::string root_ = Text(testing::TempDir(), "/memory_limit_test.", getpid());
};

TEST_F(MemoryLimitTest, WithoutACgroupItIsTheMachinesMemory) {
  Expect(1'024'000, "MemTotal of /proc/meminfo");
}

TEST_F(MemoryLimitTest, TheSmallestLimitOfACgroupAndThoseAroundItCounts) {
  Write("/proc/self/cgroup", "0::/a/b\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "max\n");
  Expect(1'024'000, "MemTotal of /proc/meminfo");
  Write("/sys/fs/cgroup/a/memory.max", "300000\n");
  Expect(300'000, "/sys/fs/cgroup/a/memory.max");
  Write("/sys/fs/cgroup/a/b/memory.max", "400000\n");
  Expect(300'000, "/sys/fs/cgroup/a/memory.max");
  Write("/sys/fs/cgroup/a/b/memory.max", "200000\n");
  Expect(200'000, "/sys/fs/cgroup/a/b/memory.max");
  Write("/sys/fs/cgroup/a/b/memory.max", "9000000\n");
  Write("/sys/fs/cgroup/a/memory.max", "9000000\n");
  Expect(1'024'000, "MemTotal of /proc/meminfo");
}

TEST_F(MemoryLimitTest, AContainerThatSeesOnlyItsOwnTopHasThatLimit) {
  Write("/proc/self/cgroup", "0::/../../docker/0123\n");
  Write("/sys/fs/cgroup/memory.max", "500000\n");
  Expect(500'000, "/sys/fs/cgroup/memory.max");
}

TEST_F(MemoryLimitTest, TheFirstVersionOfCgroupsCountsToo) {
  Write("/proc/self/cgroup", "7:cpu,cpuacct:/x\n5:memory:/jobs/7\n1:name=systemd:/y\n0::/z\n");
  Write("/sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes", "9223372036854771712\n");
  Write("/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "70000\n");
  Write("/sys/fs/cgroup/cpu/x/memory.limit_in_bytes", "1\n");
  Expect(70'000, "/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes");
}

TEST_F(MemoryLimitTest, FilesThatMakeNoSenseAreNoLimitAndNoMemoryIsAnError) {
  Write("/proc/self/cgroup", "nonsense\n0:\n\n0::a/b\n0::/a\n");
  Write("/sys/fs/cgroup/a/memory.max", "-\n");
  Expect(1'024'000, "MemTotal of /proc/meminfo");
  Write("/proc/meminfo", "MemTotal: many kB\n");
  EXPECT_EQ(FindMemoryLimit(root_).status().message(),
            root_ + "/proc/meminfo has no line MemTotal: N kB");
}

TEST(MemoryLimit, ThisMachineHasOne) {
  const auto limit = FindMemoryLimit();
  ASSERT_TRUE(limit.ok()) << limit.status().message();
  EXPECT_GT(limit->bytes, 16 << 20);
}

}  // namespace
}  // namespace causeway
