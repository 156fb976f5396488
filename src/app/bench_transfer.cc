#include "app/bench_transfer.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "app/bench_input.h"
#include "app/flags.h"
#include "base/buffer.h"
#include "base/queue.h"
#include "base/trace.h"
#include "kernels/op_table.h"
#include "net/socket.h"
#include "transfer/receiver.h"
#include "transfer/sender.h"

namespace causeway {
namespace {

constexpr int64_t kWaitMs = 120'000;

struct BenchTransferFlags {
  int64_t tokens = 16'384;
  int64_t layers = 8;
  int64_t index_dim = 128;
  bool int8_kv = false;
  bool checksum = false;
  int64_t run_tokens = TransferOptions().run_tokens;
  int repeat = 5;
  bool json = false;
};

// Bytes a second of each turn.
struct Result {
  const char* name;
  std::vector<double> speeds = {};
  double best() const { return *std::max_element(speeds.begin(), speeds.end()); }
};

// A prefill and a decode server of one host each, over loopback, and their caches. As in serving,
// each has one transfer thread; here both are in one process.
class Pair {
 public:
  static StatusOr<std::unique_ptr<Pair>> Make(const BenchTransferFlags& flags,
                                              TransferBackend backend, const KvCache& from,
                                              const KvCache& to) {
    TransferOptions options;
    options.model = "bench";
    options.backend = backend;
    options.checksum = flags.checksum;
    options.run_tokens = flags.run_tokens;
    auto pair = std::unique_ptr<Pair>(new Pair(flags, from, to));
    CAUSEWAY_ASSIGN_OR_RETURN(
        pair->sender_, KvSender::Make(options, from, [self = pair.get()](const SenderEvent& event) {
          if (event.kind == SenderEvent::Kind::kOpened) self->opened_.TryPush(event.room);
        }));
    CAUSEWAY_ASSIGN_OR_RETURN(
        pair->receiver_,
        KvReceiver::Make(options, to, {}, [self = pair.get()](const ReceiverEvent& event) {
          if (event.ends()) self->ended_.TryPush(event);
        }));
    return pair;
  }

  // Sends all tokens once, all of which are there; seconds from the first word to the last.
  StatusOr<double> Run() {
    ++room_;
    CAUSEWAY_RETURN_IF_ERROR(sender_->Expect(room_, flags_.tokens, 0));
    receiver_->Open({room_, "127.0.0.1", sender_->port(), 0, flags_.tokens, 0, decode_pages_});
    // The connection is made before the first turn is timed, and kept.
    if (!opened_.Pop(Deadline::AfterMs(kWaitMs))) return DeadlineExceeded("the room did not open");
    const int64_t begin_ns = NowNs();
    sender_->Begin(room_, prefill_pages_);
    const Range all{0, flags_.tokens};
    sender_->PagesWritten(room_, kAllLayers, {&all, 1});
    sender_->Finish(room_, "");
    const auto end = ended_.Pop(Deadline::AfterMs(kWaitMs));
    if (!end) return DeadlineExceeded("the room did not end");
    if (end->kind != ReceiverEvent::Kind::kCompleted) return end->status;
    return static_cast<double>(NowNs() - begin_ns) * 1e-9;
  }

  // The same keys by memcpy on this thread: page by page, between the same places.
  double Copy() const {
    const KvShape& shape = from_.shape();
    const int64_t begin_ns = NowNs();
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      for (size_t i = 0; i < prefill_pages_.size(); ++i) {
        std::memcpy(to_.LatentPage(layer, decode_pages_[i]),
                    from_.LatentPage(layer, prefill_pages_[i]),
                    static_cast<size_t>(kPage * shape.latent_bytes()));
        std::memcpy(to_.IndexPage(layer, decode_pages_[i]),
                    from_.IndexPage(layer, prefill_pages_[i]),
                    static_cast<size_t>(kPage * shape.index_bytes()));
      }
    }
    return static_cast<double>(NowNs() - begin_ns) * 1e-9;
  }

 private:
  Pair(const BenchTransferFlags& flags, const KvCache& from, const KvCache& to)
      : flags_(flags), from_(from), to_(to) {
    // Scattered, as in a cache that has been in use.
    std::mt19937 random(1);
    for (std::vector<int32_t>* pages : {&prefill_pages_, &decode_pages_}) {
      pages->resize(static_cast<size_t>(from.pages()));
      std::iota(pages->begin(), pages->end(), 0);
      std::shuffle(pages->begin(), pages->end(), random);
    }
  }

  const BenchTransferFlags flags_;
  const KvCache& from_;
  const KvCache& to_;
  std::vector<int32_t> prefill_pages_;
  std::vector<int32_t> decode_pages_;
  Queue<uint64_t> opened_{16};
  Queue<ReceiverEvent> ended_{16};
  uint64_t room_ = 0;
  // Last: their threads use all above.
  std::unique_ptr<KvSender> sender_;
  std::unique_ptr<KvReceiver> receiver_;
};

// As many bytes through a connection of loopback and nothing else: what TCP can give here.
StatusOr<double> PlainLoopback(int64_t bytes) {
  constexpr int64_t kBlock = int64_t{1} << 20;
  CAUSEWAY_ASSIGN_OR_RETURN(const Socket listener, ListenAt("127.0.0.1:0"));
  const Deadline deadline = Deadline::AfterMs(kWaitMs);
  CAUSEWAY_ASSIGN_OR_RETURN(const Socket to,
                            ConnectTo(Text("127.0.0.1:", PortOf(listener)), deadline));
  const Socket from(accept4(listener.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  // As large as the caches, so that they come from memory and go there.
  const Buffer source(bytes);
  const Buffer target(bytes);
  const int64_t begin_ns = NowNs();
  Status sent;
  std::thread sender([&] {
    for (int64_t at = 0; at < bytes && sent.ok(); at += kBlock) {
      sent = to.Send(source.as<char>() + at, std::min(kBlock, bytes - at), deadline);
    }
  });
  const Status received = from.Receive(target.data(), bytes, deadline);
  sender.join();
  CAUSEWAY_RETURN_IF_ERROR(sent);
  CAUSEWAY_RETURN_IF_ERROR(received);
  return static_cast<double>(NowNs() - begin_ns) * 1e-9;
}

Status RunTransfer(const BenchTransferFlags& flags) {
  const KvShape shape = {.layers = flags.layers,
                         .latent_dim = 576,
                         .index_dim = flags.index_dim,
                         .type = DType::kBf16,
                         .int8_kv = flags.int8_kv};
  const int64_t pages = (flags.tokens + kPage - 1) / kPage;
  const KvCache from(shape, pages, KvMemory::kShared);
  const KvCache to(shape, pages);
  std::mt19937_64 random(1);
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    for (int32_t page = 0; page < pages; ++page) {
      auto* words = static_cast<uint64_t*>(from.LatentPage(layer, page));
      for (int64_t i = 0; i < kPage * shape.latent_bytes() / 8; ++i) words[i] = random();
    }
  }
  CAUSEWAY_ASSIGN_OR_RETURN(const auto shm,
                            Pair::Make(flags, TransferBackend::kSharedMemory, from, to));
  CAUSEWAY_ASSIGN_OR_RETURN(const auto tcp, Pair::Make(flags, TransferBackend::kTcp, from, to));
  auto ucx = Pair::Make(flags, TransferBackend::kUcx, from, to);
  if (!ucx.ok()) std::fprintf(stderr, "no ucx: %s\n", ucx.status().message().c_str());
  const double bytes = static_cast<double>(flags.tokens * shape.BytesPerToken());
  std::vector<Result> results = {{"memcpy"}, {"loopback"}, {"shm"}, {"tcp"}};
  if (ucx.ok()) results.push_back({"ucx"});
  // In turn, so that a slow minute of the machine meets all; the first turn warms up.
  for (int turn = 0; turn < flags.repeat + 1; ++turn) {
    const double copy = shm->Copy();
    CAUSEWAY_ASSIGN_OR_RETURN(const double plain, PlainLoopback(static_cast<int64_t>(bytes)));
    CAUSEWAY_ASSIGN_OR_RETURN(const double by_shm, shm->Run());
    CAUSEWAY_ASSIGN_OR_RETURN(const double by_tcp, tcp->Run());
    double by_ucx = 1;
    if (ucx.ok()) {
      CAUSEWAY_ASSIGN_OR_RETURN(by_ucx, (*ucx)->Run());
    }
    if (turn == 0) continue;
    results[0].speeds.push_back(bytes / copy);
    results[1].speeds.push_back(bytes / plain);
    results[2].speeds.push_back(bytes / by_shm);
    results[3].speeds.push_back(bytes / by_tcp);
    if (ucx.ok()) results[4].speeds.push_back(bytes / by_ucx);
  }
  if (flags.json) {
    nlohmann::json out = {{"tokens", flags.tokens}, {"layers", flags.layers}, {"bytes", bytes}};
    for (const Result& result : results) {
      out[result.name] = {{"bytes_per_s", result.best()},
                          {"median_bytes_per_s", Median(result.speeds)},
                          {"share_of_memcpy", Median(result.speeds) / Median(results[0].speeds)},
                          {"share_of_loopback", Median(result.speeds) / Median(results[1].speeds)}};
    }
    std::printf("%s\n", out.dump().c_str());
    return Status();
  }
  std::printf("%lld tokens, %lld layers, %.1f MB a turn, %d turns%s\n",
              static_cast<long long>(flags.tokens), static_cast<long long>(flags.layers),
              bytes * 1e-6, flags.repeat, flags.checksum ? ", with checksums" : "");
  std::printf("%-8s %10s %10s %12s %14s\n", "", "best GB/s", "median", "of memcpy", "of loopback");
  for (const Result& result : results) {
    const double median = Median(result.speeds);
    std::printf("%-8s %10.2f %10.2f %10.0f %% %12.0f %%\n", result.name, result.best() * 1e-9,
                median * 1e-9, 100 * median / Median(results[0].speeds),
                100 * median / Median(results[1].speeds));
  }
  return Status();
}

}  // namespace

void AddBenchTransfer(CLI::App& bench, Run& run) {
  auto flags = std::make_shared<BenchTransferFlags>();
  CLI::App* transfer = bench.add_subcommand(
      "transfer",
      "Keys from a prefill cache to a decode cache: shared memory, TCP on loopback, UCX");
  transfer->add_option("--input-len,--tokens", flags->tokens, "Tokens of the prompt")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str();
  transfer->add_option("--layers", flags->layers, "Layers")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  transfer->add_option("--index-dim", flags->index_dim, "Values of an index key; 0: none")
      ->check(CLI::IsMember({0, 64, 128}))
      ->capture_default_str();
  transfer->add_flag("--int8", flags->int8_kv, "Latents in int8");
  transfer->add_flag("--checksum", flags->checksum, "Check every run");
  transfer->add_option("--run-tokens", flags->run_tokens, "Tokens of a message, at most")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  transfer->add_option("--repeat", flags->repeat, "Timed turns; one more warms up")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  RegisterJson(*transfer, flags->json);
  transfer->callback([flags, &run] { run = [flags] { return RunTransfer(*flags); }; });
}

}  // namespace causeway
