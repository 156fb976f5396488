// CHECK for what can't happen, and the two exceptions of the program.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace causeway {

// Thrown where a step can't go on (a dead peer, a collective past its deadline). Caught in exactly
// two places: main, and RankWorker::RunStep, which turns it into the status of the batch's
// requests.
class StepFailed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Thrown where the program can't start (no memory, no such CPU feature); caught in main.
class StartError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Joins any printable values into one string, as in Text("rank ", 3, " of ", 8).
template <typename... Values>
std::string Text(const Values&... values) {
  std::ostringstream out;
  (out << ... << values);
  return std::move(out).str();
}

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const std::string& values);

// Ends the process with file, line, condition and values if the condition is false; in every build.
#define CHECK(condition, ...)                                                                 \
  do {                                                                                        \
    if (!(condition)) [[unlikely]] {                                                          \
      ::causeway::CheckFailed(__FILE__, __LINE__, #condition, ::causeway::Text(__VA_ARGS__)); \
    }                                                                                         \
  } while (false)

}  // namespace causeway
