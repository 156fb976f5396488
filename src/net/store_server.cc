// One thread serves all clients with poll(2), so that nothing here needs a lock. What travels is
// described in store_wire.h.
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <list>
#include <map>
#include <optional>
#include <vector>

#include "base/check.h"
#include "net/store.h"
#include "net/store_wire.h"

namespace causeway {
namespace {

constexpr int64_t kGoodbyeMs = 1'000;  // for a client that is turned away to read why
constexpr int64_t kPauseMs = 100;      // without accepting, when there are no descriptors left
constexpr int64_t kLongestWaitMs = 24 * 3600 * 1000;

// Takes as long wherever the first difference is.
bool EqualInConstantTime(std::string_view found, std::string_view expected) {
  unsigned difference = found.size() == expected.size() ? 0 : 1;
  for (size_t i = 0; i < found.size(); ++i) {
    const char other = expected.empty() ? '\0' : expected[i % expected.size()];
    difference |= static_cast<unsigned char>(found[i] ^ other);
  }
  return difference == 0;
}

}  // namespace

// What the server's thread alone touches. A connection is in one of four states: it owes its token;
// idle, so that its next request is read; it waits for a key; it is being turned away. It is read
// from only while no answer to it is unsent, so that it can make us hold one request and one
// answer.
class StoreServer::Loop {
 public:
  Loop(Socket listener, int wake_fd, std::string token, StoreLimits limits,
       std::atomic<int64_t>& refused)
      : listener_(std::move(listener)),
        wake_fd_(wake_fd),
        token_(std::move(token)),
        limits_(limits),
        refused_(refused) {}

  void Run() {
    for (;;) {
      const bool accepting = accept_from_.Passed();
      polled_.clear();
      polled_.push_back({wake_fd_, POLLIN, 0});
      polled_.push_back({accepting ? listener_.fd() : -1, POLLIN, 0});
      int64_t sleep_ms = accepting ? kLongestWaitMs : kPauseMs;
      // Asks poll for what the connection's state allows: to write while an answer is unsent, else
      // to read unless it waits for a key; always for the end of the other side.
      for (const Connection& each : connections_) {
        short events = POLLRDHUP;
        if (!each.out.empty()) {
          events |= POLLOUT;
        } else if (!each.key) {
          events |= POLLIN;
        }
        polled_.push_back({each.socket.fd(), events, 0});
        // + 1: RemainingMs rounds down, and a sleep of 0 ms would spin through the last
        // millisecond.
        if (each.Timed()) sleep_ms = std::min(sleep_ms, each.until.RemainingMs() + 1);
      }
      if (poll(polled_.data(), polled_.size(), static_cast<int>(sleep_ms)) < 0 && errno != EINTR) {
        return;  // no memory: the clients see their connections end
      }
      // The owner's destructor has written to it.
      if (polled_[0].revents != 0) return;
      // `index` follows the connections that poll has seen; those it has not are accepted after the
      // loop.
      size_t index = 2;
      for (auto each = connections_.begin(); each != connections_.end(); ++index) {
        const bool stays = Serve(*each, polled_[index].revents);
        each = stays ? std::next(each) : connections_.erase(each);
      }
      if (polled_[1].revents != 0) Accept();
    }
  }

 private:
  struct Connection {
    bool Timed() const { return !joined || leaving || key; }

    Socket socket;
    Deadline until;  // to send the token, to see the key, or to read why it is turned away
    bool joined = false;
    bool leaving = false;
    std::optional<std::string> key = {};  // waited for
    std::string in = {};
    std::string out = {};
  };

  void Accept() {
    for (;;) {
      Socket socket(accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (socket.fd() < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
          accept_from_ = Deadline::AfterMs(kPauseMs);
        }
        return;
      }
      if (static_cast<int64_t>(connections_.size()) >= limits_.connections) {
        // Rather lose the oldest one that has shown no token than a client that may have one.
        const auto stranger = std::find_if(connections_.begin(), connections_.end(),
                                           [](const Connection& each) { return !each.joined; });
        refused_.fetch_add(1, std::memory_order_relaxed);
        if (stranger == connections_.end()) continue;
        connections_.erase(stranger);
      }
      connections_.push_back({std::move(socket), Deadline::AfterMs(limits_.token_ms)});
    }
  }

  // Does what can be done now for one connection; false where it is over.
  bool Serve(Connection& each, short events) {
    if (each.Timed() && each.until.Passed()) {
      if (!each.key) {
        if (!each.leaving) refused_.fetch_add(1, std::memory_order_relaxed);
        return false;
      }
      Answer(each, StoreAnswer::kNotThere, Text("nobody has set '", *each.key, "'"));
      each.key.reset();
    }
    if ((events & (POLLERR | POLLNVAL)) != 0) return false;
    if (each.key && (events & (POLLHUP | POLLRDHUP)) != 0) return false;
    if ((events & (POLLIN | POLLHUP | POLLRDHUP)) != 0 && each.out.empty() && !Read(each)) {
      return false;
    }
    // One that has said its last word and does not read our answer would keep poll awake.
    return Write(each) && (each.out.empty() || (events & (POLLHUP | POLLRDHUP)) == 0);
  }

  // Reads what is there and answers the requests that are complete.
  bool Read(Connection& each) {
    char chunk[16 * 1024];
    const ssize_t got = recv(each.socket.fd(), chunk, sizeof chunk, MSG_DONTWAIT);
    if (got == 0) return false;
    if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    if (each.leaving) return true;  // read so that the goodbye is not lost in a reset
    each.in.append(chunk, static_cast<size_t>(got));
    AnswerRequests(each);
    return true;
  }

  void AnswerRequests(Connection& each) {
    while (each.out.empty() && !each.key && !each.leaving) {
      uint32_t length = 0;
      std::string_view rest = each.in;
      if (!TakeNumber(rest, length)) return;
      // 16 covers the operation, the length of the key and one number.
      const int64_t largest = each.joined
                                  ? 16 + limits_.key_bytes + limits_.value_bytes
                                  : static_cast<int64_t>(kStoreHello.size()) + kStoreTokenBytes;
      // By the length alone: nobody makes the server collect a message that it would then refuse.
      if (length > largest) {
        TurnAway(each, Text("found a message of ", length, " bytes; expected at most ", largest));
        return;
      }
      if (rest.size() < length) return;
      const std::string body(rest.substr(0, length));
      each.in.erase(0, sizeof length + length);
      if (each.joined) {
        Handle(each, body);
      } else {
        Join(each, body);
      }
    }
  }

  void Join(Connection& each, std::string_view body) {
    if (!body.starts_with(kStoreHello)) {
      TurnAway(each, "this is a Causeway store of another version, and this client is none of its");
      return;
    }
    body.remove_prefix(kStoreHello.size());
    if (!EqualInConstantTime(body, token_)) {
      TurnAway(each, "the token is not this server's");
      return;
    }
    each.joined = true;
    Answer(each, StoreAnswer::kOk, "");
  }

  void Handle(Connection& each, std::string_view body) {
    const auto wrong = [&](std::string_view why) { Answer(each, StoreAnswer::kWrong, why); };
    if (body.empty()) return wrong("found an empty request");
    const char operation = body[0];
    body.remove_prefix(1);
    uint32_t key_bytes = 0;
    if (!TakeNumber(body, key_bytes) || key_bytes > body.size()) {
      return wrong("found a request that is too short");
    }
    if (key_bytes > limits_.key_bytes) {
      return wrong(
          Text("found a key of ", key_bytes, " bytes; expected at most ", limits_.key_bytes));
    }
    const std::string key(body.substr(0, key_bytes));
    body.remove_prefix(key_bytes);
    const auto entry = entries_.find(key);
    int64_t number = 0;
    switch (operation) {
      case 'S':
        if (Store(each, key, body)) Answer(each, StoreAnswer::kOk, "");
        return;
      case 'G':
        if (!TakeNumber(body, number)) return wrong("found a request that is too short");
        if (entry != entries_.end()) return Answer(each, StoreAnswer::kOk, entry->second);
        each.key = key;
        each.until = Deadline::AfterMs(std::clamp<int64_t>(number, 0, kLongestWaitMs));
        return;
      case 'A': {
        if (!TakeNumber(body, number)) return wrong("found a request that is too short");
        // A counter is stored as its digits, so that Get can read it.
        int64_t sum = 0;
        if (entry != entries_.end()) {
          const char* const end = entry->second.data() + entry->second.size();
          const auto parsed = std::from_chars(entry->second.data(), end, sum);
          if (parsed.ec != std::errc() || parsed.ptr != end) {
            return wrong(Text("'", key, "' is not a counter"));
          }
        }
        if (__builtin_add_overflow(sum, number, &sum)) return wrong("the counter is full");
        std::string answer;
        AppendNumber(answer, sum);
        if (Store(each, key, Text(sum))) Answer(each, StoreAnswer::kOk, answer);
        return;
      }
      default:
        return wrong("found an unknown operation");
    }
  }

  // Sets a key and answers those who wait for it; false, with an answer, over a limit.
  bool Store(Connection& each, const std::string& key, std::string_view value) {
    if (static_cast<int64_t>(value.size()) > limits_.value_bytes) {
      Answer(each, StoreAnswer::kWrong,
             Text("found a value of ", value.size(), " bytes; expected at most ",
                  limits_.value_bytes));
      return false;
    }
    if (static_cast<int64_t>(entries_.size()) >= limits_.entries && !entries_.contains(key)) {
      Answer(each, StoreAnswer::kWrong, Text("the store holds ", limits_.entries, " keys already"));
      return false;
    }
    entries_[key] = value;
    for (Connection& other : connections_) {
      if (other.key != key) continue;
      other.key.reset();
      Answer(other, StoreAnswer::kOk, value);
    }
    return true;
  }

  void TurnAway(Connection& each, const std::string& why) {
    refused_.fetch_add(1, std::memory_order_relaxed);
    Answer(each, StoreAnswer::kRefused, why);
    each.in.clear();
    each.leaving = true;
    each.until = Deadline::AfterMs(kGoodbyeMs);
  }

  static void Answer(Connection& each, StoreAnswer kind, std::string_view text) {
    std::string body(1, static_cast<char>(kind));
    body += text;
    each.out = Frame(body);
  }

  bool Write(Connection& each) {
    while (!each.out.empty()) {
      const ssize_t sent =
          send(each.socket.fd(), each.out.data(), each.out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
      each.out.erase(0, static_cast<size_t>(sent));
      if (!each.out.empty()) continue;
      if (each.leaving) shutdown(each.socket.fd(), SHUT_WR);
      AnswerRequests(each);  // one that came together with the last
    }
    return true;
  }

  const Socket listener_;
  const int wake_fd_;
  const std::string token_;
  const StoreLimits limits_;
  std::atomic<int64_t>& refused_;
  Deadline accept_from_ = Deadline::AfterMs(0);
  std::list<Connection> connections_;  // the oldest first
  std::map<std::string, std::string> entries_;
  std::vector<pollfd> polled_;
};

StatusOr<std::unique_ptr<StoreServer>> StoreServer::Make(const std::string& address,
                                                         std::string token, StoreLimits limits) {
  if (static_cast<int64_t>(token.size()) > kStoreTokenBytes) {
    return InvalidArgument(
        Text("found a token of ", token.size(), " bytes; expected at most ", kStoreTokenBytes));
  }
  CAUSEWAY_ASSIGN_OR_RETURN(Socket listener, ListenAt(address));
  std::unique_ptr<StoreServer> server(new StoreServer);
  server->port_ = PortOf(listener);
  server->wake_ = Socket(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (server->wake_.fd() < 0) return InternalError(Text("eventfd: ", std::strerror(errno)));
  server->loop_ = std::make_unique<Loop>(std::move(listener), server->wake_.fd(), std::move(token),
                                         limits, server->refused_);
  server->thread_ = std::thread([loop = server->loop_.get()] { loop->Run(); });
  return server;
}

StoreServer::~StoreServer() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  CHECK(write(wake_.fd(), &one, sizeof one) == sizeof one, errno);
  thread_.join();
}

}  // namespace causeway
