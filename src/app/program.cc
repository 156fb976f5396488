// A child process whose output goes to files, not pipes: it can never block because nobody reads.
#include "app/program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>
#include <system_error>
#include <thread>

#include "base/check.h"

namespace causeway {
namespace {

// What a shell says of a program that it can't execute.
constexpr int kCantExecute = 127;

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void Redirect(int fd, const char* path, int flags) {
  const int file = open(path, flags, 0600);
  if (file < 0 || dup2(file, fd) < 0) _exit(kCantExecute);
  if (file != fd) close(file);
}

// The child between fork and exec. Other threads of the parent may have held locks when it forked,
// so only what is safe in a signal handler may be called here.
[[noreturn]] void Execute(pid_t parent, char* const* argv, const char* out, const char* err) {
  // The system kills the child when the thread that forked it ends, however that happens.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kCantExecute);  // it died before the line above
  // A terminal's Ctrl-C is the parent's, which ends its children in its own order.
  setpgid(0, 0);
  // The parent may wait for signals with sigtimedwait(2); the program shall get them.
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  Redirect(0, "/dev/null", O_RDONLY);
  Redirect(1, out, O_WRONLY | O_CREAT | O_TRUNC);
  Redirect(2, err, O_WRONLY | O_CREAT | O_TRUNC);
  execv(argv[0], argv);
  constexpr std::string_view kMessage = "the program can't be executed\n";
  [[maybe_unused]] const auto written = write(2, kMessage.data(), kMessage.size());
  _exit(kCantExecute);
}

}  // namespace

Program::Program(const std::string& binary, const std::string& directory,
                 std::vector<std::string> arguments)
    : out_(directory + "/stdout"), err_(directory + "/stderr") {
  arguments.insert(arguments.begin(), binary);
  // Made before the fork: the child may not allocate.
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  // What an earlier program has left here is not this one's output, even before the child says a
  // word.
  std::error_code ignored;
  for (const std::string& path : {out_, err_}) std::filesystem::remove(path, ignored);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) Execute(parent, argv.data(), out_.c_str(), err_.c_str());
  if (pid_ < 0) throw StartError(Text("can't start ", binary, ": ", std::strerror(errno)));
}

Program::~Program() {
  if (ended_) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

// Polls, as waitpid(2) has no time-out.
int Program::Wait(Deadline deadline) {
  while (!ended_) {
    int state = 0;
    if (waitpid(pid_, &state, WNOHANG) == pid_) {
      ended_ = true;
      // As a shell reports it: 128 and the signal's number.
      code_ = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
    } else if (deadline.Passed()) {
      return -1;
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  return code_;
}

void Program::Signal(int number) const { kill(pid_, number); }
std::string Program::Stdout() const { return Contents(out_); }
std::string Program::Stderr() const { return Contents(err_); }

}  // namespace causeway
