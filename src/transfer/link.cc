#include "transfer/link.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace causeway {
namespace {

constexpr int64_t kReadBytes = 64 * 1024;
// What one call of Read takes, before other links have their turn.
constexpr int64_t kReadTurn = int64_t{4} << 20;
constexpr int64_t kForeverMs = int64_t{1000} * 3600 * 24 * 365;
constexpr size_t kMostPieces = 256;  // of one system call; below IOV_MAX

// What takes the place of voided rows.
alignas(64) const char kZeros[kReadBytes] = {};

bool CarriesKeys(MessageType type) {
  return type == MessageType::kRun || type == MessageType::kRunInMemory;
}

}  // namespace

Link::Link(uint64_t id, Socket socket, const LinkOptions& options, int64_t& fault_count)
    : id_(id),
      socket_(std::move(socket)),
      options_(options),
      fault_count_(fault_count),
      hello_until_(Deadline::AfterMs(options.hello_ms)),
      heard_at_(Deadline::Clock::now()),
      next_ping_(Deadline::AfterMs(options.heartbeat_ms)),
      keys_at_(heard_at_) {
  // A size that is set stays, and can't be above the system's limit (often 208 KiB); one that is
  // not grows with the speed of the connection, to 4 MiB (net.ipv4.tcp_wmem).
  if (options.in_flight_bytes > 0) {
    const int bytes = static_cast<int>(std::min<int64_t>(options.in_flight_bytes, 1 << 30));
    setsockopt(socket_.fd(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  }
}

int64_t Link::OutFrame::Bytes() const {
  auto bytes = static_cast<int64_t>(head.size() + owned.size() + tail.size());
  for (const iovec& piece : pieces) bytes += static_cast<int64_t>(piece.iov_len);
  return bytes;
}

void Link::Queue(OutFrame frame, MessageType type) {
  if (CarriesKeys(type)) keys_at_ = Deadline::Clock::now();
  const TransferFault& fault = options_.fault;
  if (fault.action != TransferFault::Action::kNone && fault.type == type &&
      fault_count_++ == fault.nth) {
    switch (fault.action) {
      case TransferFault::Action::kDrop:
        return;
      case TransferFault::Action::kClose:
        dead_ = Unavailable(Text("closed on purpose at a ", NameOf(type)));
        return;
      case TransferFault::Action::kStall:
        stalled_until_ = Deadline::AfterMs(kForeverMs);
        return;
      case TransferFault::Action::kPause:
        stalled_until_ = Deadline::AfterMs(fault.delay_ms);
        break;
      case TransferFault::Action::kDelay:
        held_until_ = Deadline::AfterMs(fault.delay_ms);
        break;
      case TransferFault::Action::kCorrupt:
        // The last bytes of a run's tail are checksum and flag; a message has the checksum in it.
        if (frame.is_run) {
          frame.tail.front() ^= 1;
        } else if (frame.head.size() > kFrameHeaderBytes + kRunHeaderBytes) {
          frame.head[kFrameHeaderBytes + kRunHeaderBytes] ^= 1;
        }
        break;
      case TransferFault::Action::kNone:
        break;
    }
  }
  Append(std::move(frame));
}

void Link::Append(OutFrame frame) {
  if (dead_.ok()) out_.push_back(std::move(frame));
}

void Link::SendRun(const RunHeader& run, std::vector<iovec> pieces, std::string owned,
                   uint64_t checksum) {
  OutFrame frame{.pieces = std::move(pieces),
                 .owned = std::move(owned),
                 .tail = FieldsOf(RunTrailer{checksum, true}),
                 .is_run = true,
                 .run = run};
  const int64_t body = frame.Bytes() + kRunHeaderBytes;
  frame.head = EncodeHeader(MessageType::kRun, body) + FieldsOf(run);
  Queue(std::move(frame), MessageType::kRun);
}

void Link::VoidRun(const RoomKey& key) {
  for (auto each = out_.begin(); each != out_.end();) {
    if (!each->is_run || each->run.key != key) {
      ++each;
      continue;
    }
    if (each->sent == 0) {
      each = out_.erase(each);
      continue;
    }
    std::vector<iovec> zeros;
    for (const iovec& piece : each->pieces) {
      for (size_t done = 0; done < piece.iov_len; done += sizeof kZeros) {
        zeros.push_back({const_cast<char*>(kZeros), std::min(sizeof kZeros, piece.iov_len - done)});
      }
    }
    each->pieces = std::move(zeros);
    each->tail = FieldsOf(RunTrailer{0, false});
    ++each;
  }
}

void Link::DropRun(const RoomKey& key) {
  const bool in_run = state_ == InState::kRunRows || state_ == InState::kRunTrailer;
  if (in_run && run_.key == key) thrown_away_ = true;
}

void Link::Close(const Status& why) {
  if (!dead_.ok()) return;
  Append({.head = Encode(ByeMessage{why.code(), why.message()})});
  if (!stalled()) Write();
  if (dead_.ok()) dead_ = why;
}

void Link::HoldInput(bool held) {
  if (held_ && !held) {
    heard_at_ = Deadline::Clock::now();
    resumed_ = true;
  }
  held_ = held;
  keys_at_ = Deadline::Clock::now();  // it is for them that it is called
}

short Link::PollEvents() const {
  short events = held_ ? POLLRDHUP : POLLIN;
  if (!out_.empty() && held_until_.Passed()) events |= POLLOUT;
  return events;
}

void Link::Write() {
  blocked_ = false;
  while (!out_.empty() && dead_.ok()) {
    if (!held_until_.Passed()) {
      blocked_ = true;
      return;
    }
    OutFrame& frame = out_.front();
    iovec pieces[kMostPieces];
    size_t count = 0;
    int64_t skip = frame.sent;
    const auto add = [&](const void* data, size_t bytes) {
      const auto skipped = static_cast<size_t>(std::min(skip, static_cast<int64_t>(bytes)));
      skip -= static_cast<int64_t>(skipped);
      if (skipped == bytes || count == kMostPieces) return;
      pieces[count++] = {const_cast<char*>(static_cast<const char*>(data)) + skipped,
                         bytes - skipped};
    };
    add(frame.head.data(), frame.head.size());
    for (const iovec& piece : frame.pieces) add(piece.iov_base, piece.iov_len);
    add(frame.owned.data(), frame.owned.size());
    add(frame.tail.data(), frame.tail.size());
    msghdr message{};
    message.msg_iov = pieces;
    message.msg_iovlen = count;
    const ssize_t sent = sendmsg(socket_.fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        blocked_ = true;
      } else {
        dead_ = Unavailable(Text("the connection broke: ", std::strerror(errno)));
      }
      return;
    }
    frame.sent += sent;
    if (frame.sent == frame.Bytes()) out_.pop_front();
  }
}

void Link::Read(LinkOwner& owner) {
  resumed_ = false;
  if (held_) {
    // It is read to its end when the other side has closed it.
    pollfd entry{socket_.fd(), POLLRDHUP, 0};
    if (poll(&entry, 1, 0) <= 0) return;
    held_ = false;
  }
  int64_t turn = 0;
  while (dead_.ok() && !stalled() && !held_ && turn < kReadTurn) {
    while (dead_.ok() && !held_ && Step(owner)) {
    }
    if (!dead_.ok() || stalled() || held_) return;
    ssize_t got = 0;
    // Straight to its place; all of in_ has been consumed then.
    const bool rows = state_ == InState::kRunRows && !thrown_away_;
    if (rows) {
      msghdr message{};
      message.msg_iov = places_.data();
      message.msg_iovlen = std::min(places_.size(), kMostPieces);
      got = recvmsg(socket_.fd(), &message, MSG_DONTWAIT);
    } else {
      in_.erase(0, static_cast<size_t>(in_at_));
      in_at_ = 0;
      const size_t before = in_.size();
      in_.resize(before + kReadBytes);
      got = recv(socket_.fd(), in_.data() + before, kReadBytes, MSG_DONTWAIT);
      in_.resize(before + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    }
    if (got == 0) {
      dead_ = Unavailable("the other side closed the connection");
    } else if (got < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return;
      dead_ = Unavailable(Text("the connection broke: ", std::strerror(errno)));
    } else {
      heard_at_ = Deadline::Clock::now();
      turn += got;
      if (rows) Advance(got);
    }
  }
}

std::string Link::TakeInput(int64_t bytes) {
  std::string out = in_.substr(static_cast<size_t>(in_at_), static_cast<size_t>(bytes));
  in_at_ += bytes;
  return out;
}

void Link::Advance(int64_t bytes) {
  rows_left_ -= bytes;
  if (thrown_away_) return;
  auto left = static_cast<size_t>(bytes);
  size_t gone = 0;
  for (; left > 0; ++gone) {
    iovec& place = places_[gone];
    if (left < place.iov_len) {
      place.iov_base = static_cast<char*>(place.iov_base) + left;
      place.iov_len -= left;
      break;
    }
    left -= place.iov_len;
  }
  places_.erase(places_.begin(), places_.begin() + static_cast<ptrdiff_t>(gone));
}

bool Link::Step(LinkOwner& owner) {
  Status status;
  switch (state_) {
    case InState::kHeader: {
      if (InputLeft() < kFrameHeaderBytes) return false;
      const auto header = DecodeHeader(TakeInput(kFrameHeaderBytes));
      if (!header.ok()) {
        status = header.status();
        break;
      }
      frame_ = *header;
      state_ = frame_.type == MessageType::kRun ? InState::kRunHeader : InState::kBody;
      if (!ready_ && frame_.type != MessageType::kHello && frame_.type != MessageType::kBye) {
        status = InvalidArgument(
            Text("found a ", NameOf(frame_.type), " message first; expected a HELLO"));
      }
      break;
    }
    case InState::kBody:
      if (InputLeft() < frame_.length) return false;
      state_ = InState::kHeader;
      status = EndFrame(owner, TakeInput(frame_.length));
      break;
    case InState::kRunHeader:
      if (frame_.length < kRunHeaderBytes + kRunTrailerBytes) {
        status = InvalidArgument(Text("a malformed RUN message of ", frame_.length, " bytes"));
        break;
      }
      if (InputLeft() < kRunHeaderBytes) return false;
      status = BeginRun(owner);
      break;
    case InState::kRunRows: {
      const int64_t bytes = std::min(InputLeft(), rows_left_);
      if (rows_left_ > 0 && bytes == 0) return false;
      if (thrown_away_) {
        in_at_ += bytes;
        Advance(bytes);
      } else if (bytes > 0) {
        // To the first place only; Step is called again for the next.
        const int64_t part = std::min(bytes, static_cast<int64_t>(places_[0].iov_len));
        std::memcpy(places_[0].iov_base, in_.data() + in_at_, static_cast<size_t>(part));
        in_at_ += part;
        Advance(part);
      }
      if (rows_left_ == 0) state_ = InState::kRunTrailer;
      break;
    }
    case InState::kRunTrailer: {
      if (InputLeft() < kRunTrailerBytes) return false;
      state_ = InState::kHeader;
      keys_at_ = Deadline::Clock::now();
      const std::string bytes = TakeInput(kRunTrailerBytes);
      MessageReader reader(bytes);
      RunTrailer trailer;
      trailer.Visit(reader);
      if (!reader.AllRead()) {
        status = InvalidArgument("a malformed end of a RUN message");
      } else if (!thrown_away_) {
        status = owner.RunArrived(*this, run_, trailer);
      }
      break;
    }
  }
  if (!status.ok()) Close(status);
  return true;
}

Status Link::BeginRun(LinkOwner& owner) {
  const std::string bytes = TakeInput(kRunHeaderBytes);
  MessageReader reader(bytes);
  run_.Visit(reader);
  if (!reader.AllRead() || run_.first < 0 || run_.first > (int64_t{1} << 40) || run_.count < 1 ||
      run_.layer < 0) {
    return InvalidArgument(Text("a RUN message of layer ", run_.layer, ", ", run_.count,
                                " tokens from ", run_.first, " on"));
  }
  rows_left_ = frame_.length - kRunHeaderBytes - kRunTrailerBytes;
  CAUSEWAY_ASSIGN_OR_RETURN(places_, owner.PlaceRun(*this, run_, rows_left_));
  thrown_away_ = places_.empty();
  state_ = InState::kRunRows;
  return Status();
}

Status Link::EndFrame(LinkOwner& owner, const std::string& body) {
  if (CarriesKeys(frame_.type)) keys_at_ = Deadline::Clock::now();
  switch (frame_.type) {
    case MessageType::kBye: {
      CAUSEWAY_ASSIGN_OR_RETURN(const ByeMessage bye, Decode<ByeMessage>(body));
      dead_ = StatusOf(bye.code, bye.text);
      return Status();
    }
    case MessageType::kPing: {
      CAUSEWAY_ASSIGN_OR_RETURN(const PingMessage ping, Decode<PingMessage>(body));
      Send(PongMessage{ping.stamp});
      return Status();
    }
    case MessageType::kPong:
      return Decode<PongMessage>(body).status();
    default:
      return owner.OnMessage(*this, frame_.type, body);
  }
}

int64_t Link::Beat() {
  if (stalled() || !dead_.ok()) return options_.heartbeat_ms;
  const auto silent =
      std::chrono::duration_cast<std::chrono::milliseconds>(Deadline::Clock::now() - heard_at_)
          .count();
  const int64_t most = options_.heartbeat_ms * (options_.missed_heartbeats + 1);
  if (!ready_) {
    if (hello_until_.Passed()) {
      Close(DeadlineExceeded(Text("no HELLO within ", options_.hello_ms, " ms")));
    }
  } else if (silent >= most && !held_) {
    // Not if it was us who stood still: what has come meanwhile is yet to be read.
    pollfd entry{socket_.fd(), POLLIN, 0};
    if (poll(&entry, 1, 0) > 0 && (entry.revents & POLLIN) != 0) return 0;
    Close(Unavailable(Text("the other side has been silent for ", silent, " ms")));
  } else if (next_ping_.Passed()) {
    next_ping_ = Deadline::AfterMs(options_.heartbeat_ms);
    // One that the socket does not take yet is enough.
    if (out_.size() < 2) Send(PingMessage{});
  }
  int64_t wait = ready_ ? next_ping_.RemainingMs() : hello_until_.RemainingMs();
  if (ready_ && !held_) wait = std::min(wait, most - silent);
  if (!held_until_.Passed()) wait = std::min(wait, held_until_.RemainingMs());
  return std::max<int64_t>(wait, 0) + 1;
}

}  // namespace causeway
