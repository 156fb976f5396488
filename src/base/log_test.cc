#include "base/log.h"

#include <gtest/gtest.h>

namespace causeway {
namespace {

std::string Logged(const std::string& value) {
  testing::internal::CaptureStderr();
  LogLine("test").Add("value", value).Add("count", 7).AddSeconds("took_s", 0.12345);
  return testing::internal::GetCapturedStderr();
}

TEST(LogLine, HasATimeAnEventAndItsKeys) {
  const std::string line = Logged("plain/v1-x");
  EXPECT_EQ(line.find("time="), 0u) << line;
  EXPECT_NE(line.find("Z event=test value=plain/v1-x count=7 took_s=0.1235\n"), std::string::npos)
      << line;
}

TEST(LogLine, AValueOfAClientStaysOnItsLineAndMovesNoCursor) {
  for (const auto& [value, expected] : std::vector<std::pair<std::string, std::string>>{
           {"", R"("")"},
           {"a b", R"("a b")"},
           {"a=b", R"("a=b")"},
           {"x\nevent=request", R"("x\nevent=request")"},
           {"\"\\", R"("\"\\")"},
           {std::string("\0\x1b[2J\x7f", 6), R"("\u0000\u001b[2J\u007f")"},
           {"\xc2\x9b\x32J", R"("\u009b2J")"},
           {"\xc3\xa9t\xc3\xa9", "\"\xc3\xa9t\xc3\xa9\""},
           {"\xc2", "\"\xc2\""}}) {
    const std::string line = Logged(value);
    EXPECT_NE(line.find(" value=" + expected + " count"), std::string::npos) << line;
    EXPECT_EQ(line.find('\n'), line.size() - 1);
  }
}

}  // namespace
}  // namespace causeway
