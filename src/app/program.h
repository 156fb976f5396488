// Runs a program as a child process, for tests of the commands.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/deadline.h"

extern char** environ;

namespace causeway {

// One run. Its outputs go to files in `directory`, so that a child can't block on a full pipe.
class Program {
 public:
  Program(const std::string& binary, const std::string& directory,
          std::vector<std::string> arguments)
      : out_(directory + "/stdout"), err_(directory + "/stderr") {
    arguments.insert(arguments.begin(), binary);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const int flags = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, out_.c_str(), flags, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, err_.c_str(), flags, 0600);
    const int failed = posix_spawn(&pid_, binary.c_str(), &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    CHECK(failed == 0, "can't run ", binary, ": ", failed);
  }
  ~Program() {
    if (!ended_) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // The exit code; 128 + the signal's number; -1 if it still runs at the deadline.
  int Wait(Deadline deadline) {
    int state = 0;
    while (!ended_) {
      ended_ = waitpid(pid_, &state, WNOHANG) == pid_;
      if (ended_) break;
      if (deadline.Passed()) return -1;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
  }
  void Signal(int number) const { kill(pid_, number); }
  std::string Stdout() const { return Contents(out_); }
  std::string Stderr() const { return Contents(err_); }

 private:
  static std::string Contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  const std::string out_;
  const std::string err_;
  pid_t pid_ = 0;
  bool ended_ = false;
};

}  // namespace causeway
