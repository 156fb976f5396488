#include "app/out_of_memory.h"

#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <thread>

namespace causeway {
namespace {

// Another thread's, which no one can catch.
template <typename Exception>
void EndByThread(const Exception& exception) {
  EndInOrderWhenOutOfMemory();
  std::thread([&] { throw exception; }).join();
}

TEST(OutOfMemory, EndsTheProcessWithOneLine) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(EndByThread(std::bad_alloc()), testing::ExitedWithCode(1),
              "^causeway: error: out of memory; [^\n]*\n$");
}

TEST(OutOfMemory, LeavesOtherFaultsAsTheyAre) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(EndByThread(std::runtime_error("x")), testing::KilledBySignal(SIGABRT), "");
}

}  // namespace
}  // namespace causeway
