// Prefill and decode servers of one or several hosts in one process, without a model: for tests.
#pragma once

#include <condition_variable>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernels/op_table.h"
#include "transfer/rank_map.h"
#include "transfer/receiver.h"
#include "transfer/sender.h"
#include "transfer/ucx_memory.h"

namespace causeway {

// Why keys can't go by UCX here; ok: they can.
inline Status UcxProblem() {
  static const Status problem =
      UcxReader::Make([](const std::function<void()>&) {}, 1'000).status();
  return problem;
}

// All that can be tried here; says what can't.
inline std::vector<TransferBackend> AllBackends() {
  std::vector<TransferBackend> backends = {TransferBackend::kTcp, TransferBackend::kSharedMemory};
  if (UcxProblem().ok()) {
    backends.push_back(TransferBackend::kUcx);
  } else {
    std::cout << "[  SKIPPED ] ucx: " << UcxProblem().message() << "\n";
  }
  return backends;
}

// The message in which keys go.
inline MessageType RunTypeOf(TransferBackend backend) {
  return backend == TransferBackend::kTcp ? MessageType::kRun : MessageType::kRunInMemory;
}

// The events of all rooms of one side, by any thread.
template <typename Event>
class EventLog {
 public:
  void Add(const Event& event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(event);
    changed_.notify_all();
  }
  // The first event for which `fits` holds; nothing if there is none within the time.
  std::optional<Event> Wait(const std::function<bool(const Event&)>& fits, int64_t ms = 20'000) {
    std::unique_lock lock(mutex_);
    std::optional<Event> found;
    changed_.wait_until(lock, Deadline::AfterMs(ms).at(), [&] {
      for (const Event& event : events_) {
        if (fits(event)) {
          found = event;
          return true;
        }
      }
      return false;
    });
    return found;
  }
  int Count(const std::function<bool(const Event&)>& fits) {
    const std::lock_guard lock(mutex_);
    int count = 0;
    for (const Event& event : events_) count += fits(event);
    return count;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Event> events_;
};

// Keys of a sequence, random: of token t of layer l, rows of latent_bytes() and index_bytes().
class Keys {
 public:
  Keys(const KvShape& shape, int64_t tokens, uint64_t seed) : shape_(shape), tokens_(tokens) {
    std::mt19937_64 random(seed);
    bytes_.resize(static_cast<size_t>(shape.layers * tokens * RowBytes()));
    for (char& byte : bytes_) byte = static_cast<char>(random());
    if (shape.type != DType::kBf16) return;
    // Finite bf16 numbers where conversions compute with them.
    for (size_t i = 1; i < bytes_.size(); i += 2) {
      bytes_[i] = static_cast<char>((bytes_[i] & 0x80) | 0x3e | (bytes_[i] & 1));
    }
  }
  const char* Latent(int64_t layer, int64_t token) const {
    return bytes_.data() + (layer * tokens_ + token) * RowBytes();
  }
  const char* IndexKey(int64_t layer, int64_t token) const {
    return Latent(layer, token) + shape_.latent_bytes();
  }
  int64_t tokens() const { return tokens_; }
  const KvShape& shape() const { return shape_; }

  void Store(const KvCache& cache, const std::vector<int32_t>& pages, int64_t layer,
             Range tokens) const {
    for (int64_t t = tokens.begin; t < tokens.end; ++t) {
      const int32_t page = pages[static_cast<size_t>(t / kPage)];
      cache.StoreLatent(layer, page, t % kPage, Latent(layer, t));
      if (shape_.index_dim > 0) cache.StoreIndexKey(layer, page, t % kPage, IndexKey(layer, t));
    }
  }
  // How many rows of `tokens` a cache does not have as they are here.
  int64_t Differences(const KvCache& cache, const std::vector<int32_t>& pages, Range tokens) const {
    std::vector<char> row(static_cast<size_t>(RowBytes()));
    int64_t differ = 0;
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      for (int64_t t = tokens.begin; t < tokens.end; ++t) {
        const int32_t page = pages[static_cast<size_t>(t / kPage)];
        cache.LoadLatent(layer, page, t % kPage, row.data());
        if (shape_.index_dim > 0) {
          cache.LoadIndexKey(layer, page, t % kPage, row.data() + shape_.latent_bytes());
        }
        differ += std::memcmp(row.data(), Latent(layer, t), row.size()) != 0;
      }
    }
    return differ;
  }

 private:
  int64_t RowBytes() const { return shape_.latent_bytes() + shape_.index_bytes(); }

  const KvShape shape_;
  const int64_t tokens_;
  std::vector<char> bytes_;
};

struct SimulatedOptions {
  Layout layout;
  KvShape shape;
  int64_t pages = 64;
  TransferOptions transfer = {};
  KvMemory memory = KvMemory::kShared;
  RowConversions conversions = {};
};

class PrefillServer {
 public:
  explicit PrefillServer(const SimulatedOptions& options)
      : options_(options), id_(ServerId::Random()) {
    std::vector<std::string> addresses;
    for (int host = 0; host < options.layout.hosts; ++host) {
      TransferOptions transfer = options.transfer;
      transfer.layout = options.layout;
      transfer.host = host;
      transfer.server = id_;
      if (host > 0) transfer.listen = "127.0.0.1:0";
      hosts_.push_back(std::make_unique<Host>(options.shape, options.pages, options.memory));
      Host& each = *hosts_.back();
      auto sender = KvSender::Make(transfer, each.cache,
                                   [&each](const SenderEvent& event) { each.events.Add(event); });
      CHECK(sender.ok(), sender.status().message());
      each.sender = std::move(*sender);
      addresses.push_back(Text("127.0.0.1:", each.sender->port()));
    }
    for (auto& host : hosts_) host->sender->SetAddresses(addresses);
  }

  // Host 0 last, or the others would look for it.
  ~PrefillServer() {
    while (!hosts_.empty()) hosts_.pop_back();
  }

  const Layout& layout() const { return options_.layout; }
  int port() const { return hosts_[0]->sender->port(); }
  KvSender& sender(int host = 0) { return *hosts_[static_cast<size_t>(host)]->sender; }
  const KvCache& cache(int host = 0) { return hosts_[static_cast<size_t>(host)]->cache; }
  EventLog<SenderEvent>& events(int host = 0) { return hosts_[static_cast<size_t>(host)]->events; }

  void Expect(uint64_t room, int64_t tokens, int dp = 0) {
    for (auto& host : hosts_) CHECK(host->sender->Expect(room, tokens, dp).ok(), room);
  }
  std::optional<SenderEvent> WaitOpened(uint64_t room, int64_t ms = 20'000) {
    return events().Wait(
        [room](const SenderEvent& e) {
          return e.room == room && e.kind == SenderEvent::Kind::kOpened;
        },
        ms);
  }
  std::optional<SenderEvent> WaitEnded(uint64_t room, int64_t ms = 20'000, int host = 0) {
    return events(host).Wait(
        [room](const SenderEvent& e) {
          return e.room == room && e.kind == SenderEvent::Kind::kEnded;
        },
        ms);
  }

  // Computes a prompt, in chunks: each host gets only those rows right that it sends, and names
  // them layer by layer. The first `cached` tokens come from a prefix cache.
  void Compute(uint64_t room, const Keys& keys, const std::vector<int32_t>& pages, int64_t chunk,
               int64_t cached = 0, int dp = 0, const std::string& metadata = "metadata") {
    for (auto& host : hosts_) host->sender->Begin(room, pages);
    Write(room, keys, pages, RunsOfCached(layout(), dp, {0, cached}), kAllLayers);
    for (int64_t begin = cached; begin < keys.tokens(); begin += chunk) {
      const int64_t end = std::min(begin + chunk, keys.tokens());
      std::vector<std::vector<Slice>> slices(static_cast<size_t>(layout().world()));
      const auto of_group = Partition(layout().partition, layout().cp, {}, {{begin, end}});
      for (int cp = 0; cp < layout().cp; ++cp) {
        for (int tp = 0; tp < layout().tp; ++tp) {
          slices[static_cast<size_t>(layout().RankAt({dp, cp, tp}))] =
              of_group[static_cast<size_t>(cp)];
        }
      }
      const auto runs = RunsOfChunk(layout(), dp, slices, 0);
      for (int64_t layer = 0; layer < keys.shape().layers; ++layer) {
        Write(room, keys, pages, runs, layer);
      }
    }
    for (auto& host : hosts_) host->sender->Finish(room, metadata);
  }

 private:
  struct Host {
    Host(const KvShape& shape, int64_t pages, KvMemory memory) : cache(shape, pages, memory) {}
    const KvCache cache;
    EventLog<SenderEvent> events;
    std::unique_ptr<KvSender> sender;
  };

  void Write(uint64_t room, const Keys& keys, const std::vector<int32_t>& pages,
             const std::vector<RankRun>& runs, int64_t layer) {
    for (int host = 0; host < layout().hosts; ++host) {
      const std::vector<Range> mine = RunsOfHost(runs, host);
      for (const Range& tokens : mine) {
        for (int64_t l = layer == kAllLayers ? 0 : layer;
             l < (layer == kAllLayers ? keys.shape().layers : layer + 1); ++l) {
          keys.Store(cache(host), pages, l, tokens);
        }
      }
      if (!mine.empty()) sender(host).PagesWritten(room, layer, mine);
    }
  }

  const SimulatedOptions options_;
  const ServerId id_;
  std::vector<std::unique_ptr<Host>> hosts_;
};

class DecodeServer {
 public:
  explicit DecodeServer(const SimulatedOptions& options)
      : options_(options), id_(ServerId::Random()) {
    for (int host = 0; host < options.layout.hosts; ++host) {
      TransferOptions transfer = options.transfer;
      transfer.layout = options.layout;
      transfer.host = host;
      transfer.server = id_;
      hosts_.push_back(std::make_unique<Host>(options.shape, options.pages));
      Host& each = *hosts_.back();
      auto receiver =
          KvReceiver::Make(transfer, each.cache, options.conversions,
                           [&each](const ReceiverEvent& event) { each.events.Add(event); });
      CHECK(receiver.ok(), receiver.status().message());
      each.receiver = std::move(*receiver);
      if (host > 0) {
        each.receiver->SetReportAddress(Text("127.0.0.1:", hosts_[0]->receiver->port()));
      }
    }
  }

  // Host 0 last, or the others would look for it.
  ~DecodeServer() {
    while (!hosts_.empty()) hosts_.pop_back();
  }

  const Layout& layout() const { return options_.layout; }
  KvReceiver& receiver(int host = 0) { return *hosts_[static_cast<size_t>(host)]->receiver; }
  const KvCache& cache(int host = 0) { return hosts_[static_cast<size_t>(host)]->cache; }
  EventLog<ReceiverEvent>& events(int host = 0) {
    return hosts_[static_cast<size_t>(host)]->events;
  }

  void Open(const RoomOpen& open) {
    receiver().Open(open);
    for (int host = 1; host < layout().hosts; ++host) {
      receiver(host).Open(*RoomOpen::Decode(open.Encode()));
    }
  }
  std::optional<ReceiverEvent> WaitEnd(uint64_t room, int64_t ms = 20'000, int host = 0) {
    return events(host).Wait([room](const ReceiverEvent& e) { return e.room == room && e.ends(); },
                             ms);
  }

 private:
  struct Host {
    Host(const KvShape& shape, int64_t pages) : cache(shape, pages) {}
    const KvCache cache;
    EventLog<ReceiverEvent> events;
    std::unique_ptr<KvReceiver> receiver;
  };

  const SimulatedOptions options_;
  const ServerId id_;
  std::vector<std::unique_ptr<Host>> hosts_;
};

// `count` different pages of `all`, in an order that `seed` chooses.
inline std::vector<int32_t> SomePages(int64_t count, int64_t all, uint64_t seed) {
  std::vector<int32_t> pages;
  for (int32_t page = 0; page < all; ++page) pages.push_back(page);
  std::mt19937_64 random(seed);
  std::shuffle(pages.begin(), pages.end(), random);
  pages.resize(static_cast<size_t>(count));
  return pages;
}

inline int64_t PagesOf(int64_t tokens) { return (tokens + kPage - 1) / kPage; }

}  // namespace causeway
