// Runs a program as a child process: the hosts of `eval layouts`, and the commands in tests.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/deadline.h"

namespace causeway {

// One run. Its outputs go to files in `directory`, so that a child can't block on a full pipe. The
// child doesn't outlive this object, nor the thread that made it, however that ends.
class Program {
 public:
  // Throws StartError if the system refuses one more process. A binary that can't be executed ends
  // at once with exit code 127.
  Program(const std::string& binary, const std::string& directory,
          std::vector<std::string> arguments);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // The exit code; 128 + the signal's number; -1 if it still runs at the deadline.
  int Wait(Deadline deadline);
  void Signal(int number) const;
  pid_t pid() const { return pid_; }
  // What it has written so far.
  std::string Stdout() const;
  std::string Stderr() const;

 private:
  const std::string out_;
  const std::string err_;
  pid_t pid_ = 0;
  bool ended_ = false;
  int code_ = 0;  // once ended
};

}  // namespace causeway
