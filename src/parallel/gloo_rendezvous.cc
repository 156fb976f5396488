// How processes that know one address become a mesh: rank 0 serves a store there; everybody says in
// it who they are and what they were started with, compares that with the others, and then
// exchanges the addresses of its sockets.
#include "parallel/gloo_rendezvous.h"

#include <gloo/transport/tcp/device.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <sstream>
#include <vector>

#include "base/check.h"
#include "net/socket.h"

namespace causeway {
namespace {

// For two ranks that are both there to connect.
constexpr int64_t kConnectMs = 60'000;
constexpr int64_t kShortestMs = 100;

// What a rank tells the others about itself, as four lines in the store.
struct Hello {
  uint64_t nonce = 0;  // another one in every process
  int size = 0;
  std::string version;
  std::string config;

  std::string ToText() const { return Text(nonce, "\n", size, "\n", version, "\n", config); }

  static Hello Parse(const std::string& text) {
    Hello hello;
    std::istringstream in(text);
    in >> hello.nonce >> hello.size;
    in.ignore(1);
    std::getline(in, hello.version);
    std::getline(in, hello.config, '\0');
    return hello;
  }
};

std::string HelloKey(int rank) { return Text("hello/", rank); }
std::string AddressKey(int rank) { return Text("addresses/", rank); }

class Rendezvous {
 public:
  Rendezvous(const GlooOptions& options, Deadline deadline)
      : options_(options), deadline_(deadline), begin_(Deadline::Clock::now()) {
    std::random_device random;
    own_ = {(uint64_t{random()} << 32) | random(), options.size, options.version, options.config};
  }

  StatusOr<GlooMesh> Run() {
    CAUSEWAY_RETURN_IF_ERROR(Name(Join()));
    CAUSEWAY_RETURN_IF_ERROR(Name(ExchangeHellos()));
    CAUSEWAY_RETURN_IF_ERROR(Name(ConnectAll()));
    return std::move(mesh_);
  }

 private:
  // Every error says which host of how many has it, and where they were to meet.
  Status Name(const Status& status) const {
    if (status.ok()) return status;
    return Status(status.code(),
                  Text("--dist-init-addr ", options_.init_addr, ": ", options_.noun, " ",
                       options_.rank, " of ", options_.size, ": ", status.message()));
  }

  std::string Waited() const {
    const auto waited = Deadline::Clock::now() - begin_;
    const auto tenths = std::chrono::duration_cast<std::chrono::milliseconds>(waited).count() / 100;
    return Text(tenths / 10, ".", tenths % 10, " s");
  }

  // Rank 0 opens the store; every rank becomes its client. What is wrong with this rank's own flags
  // is found before, while nobody waits for it.
  Status Join() {
    CAUSEWAY_ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(options_.init_addr));
    // Others could not connect to "any address".
    if (at.port == 0 || at.host == "0.0.0.0" || at.host == "::") {
      return InvalidArgument(
          Text("expected an address and port of ", options_.noun, " 0 as the others reach it"));
    }
    if (options_.interface.empty()) {
      CAUSEWAY_ASSIGN_OR_RETURN(own_address_, AddressTowards(options_.init_addr));
    } else {
      CAUSEWAY_ASSIGN_OR_RETURN(own_address_, AddressOfInterface(options_.interface));
    }
    if (options_.rank == 0) {
      CAUSEWAY_ASSIGN_OR_RETURN(mesh_.server,
                                StoreServer::Make(options_.init_addr, options_.token));
    }
    auto client = StoreClient::Connect(options_.init_addr, options_.token, deadline_);
    if (client.ok()) {
      store_ = std::move(*client);
      return Status();
    }
    const Status& why = client.status();
    if (why.code() == StatusCode::kInvalidArgument) return why;  // the token
    return Status(why.code(), Text("waited ", Waited(), " for ", options_.noun,
                                   " 0, which serves there once it is started: ", why.message()));
  }

  Status ExchangeHellos() {
    // Rank 0's first. Who disagrees with it says hello all the same, so that rank 0 learns it too,
    // and does not look at the store again: rank 0 may close it at once.
    Status agrees;
    if (options_.rank != 0) {
      const auto first = store_->Get(HelloKey(0), deadline_);
      if (!first.ok()) return StoreError(first.status(), Text(options_.noun, " 0"));
      agrees = Compare(0, Hello::Parse(*first));
    }
    const Status said = store_->Set(HelloKey(options_.rank), own_.ToText(), deadline_);
    CAUSEWAY_RETURN_IF_ERROR(agrees);
    CAUSEWAY_RETURN_IF_ERROR(StoreError(said, "the store"));
    for (int peer = 0; peer < options_.size; ++peer) {
      const auto text = store_->Get(HelloKey(peer), deadline_);
      if (text.status().code() == StatusCode::kDeadlineExceeded) return Missing(peer);
      if (!text.ok()) return StoreError(text.status(), Text(options_.noun, " ", peer));
      const Hello hello = Hello::Parse(*text);
      CAUSEWAY_RETURN_IF_ERROR(Compare(peer, hello));
      // Rank 0's nonce names the session for all.
      if (peer == 0) mesh_.session = hello.nonce;
    }
    return Status();
  }

  Status Compare(int peer, const Hello& hello) const {
    // The key is overwritten by whoever comes last with the same number.
    if (peer == options_.rank && hello.nonce != own_.nonce) {
      return InvalidArgument(
          Text("another process joined as ", options_.noun, " ", peer, " after this one"));
    }
    const auto differ = [&](const char* what, const auto& theirs, const auto& mine) {
      return InvalidArgument(Text(options_.noun, " ", peer, " was started with ", what, " ", theirs,
                                  ", this ", options_.noun, " with ", mine, "; expected the same"));
    };
    // In this order: another version may mean other flags by the same words.
    if (hello.version != own_.version) return differ("Causeway", hello.version, own_.version);
    if (hello.size != own_.size) return differ("a number of hosts of", hello.size, own_.size);
    if (hello.config != own_.config) return differ("flags or model", hello.config, own_.config);
    return Status();
  }

  // `first` has not come by the deadline; which others have not either?
  Status Missing(int first) {
    std::string missing = Text(first);
    for (int peer = first + 1; peer < options_.size; ++peer) {
      // Without waiting: the time is up, and the store knows who has come.
      if (!store_->Get(HelloKey(peer), Deadline::AfterMs(0)).ok()) missing += Text(", ", peer);
    }
    return DeadlineExceeded(
        Text("waited ", Waited(), " for ", options_.noun, " ", missing,
             ", which did not join; is it started with this --dist-init-addr?"));
  }

  Status StoreError(const Status& status, const std::string& awaited) const {
    if (status.ok()) return status;
    return Status(status.code(),
                  Text("waiting for ", awaited, " for ", Waited(), ": ", status.message(),
                       "; see also what ", options_.noun, " 0 says"));
  }

  // A pair of sockets with each peer, all on the chosen network. Gloo listens for each of its pairs
  // and takes whoever comes first, which is why this begins only when all ranks are there: it is
  // over in milliseconds.
  Status ConnectAll() {
    try {
      mesh_.device = gloo::transport::tcp::CreateDevice({own_address_.c_str()});
      mesh_.context = mesh_.device->createContext(options_.rank, options_.size);
      // Gloo waits five times as long for a connection.
      const int64_t wait_ms =
          std::clamp<int64_t>(deadline_.RemainingMs(), kShortestMs, kConnectMs) / 5;
      mesh_.context->setTimeout(std::chrono::milliseconds(wait_ms));
      std::string addresses;  // one of the same length for each rank; of this rank: zeros
      for (int peer = 0; peer < options_.size; ++peer) {
        if (peer == options_.rank) continue;
        const std::vector<char> bytes = mesh_.context->createPair(peer)->address().bytes();
        if (addresses.empty()) {
          addresses.resize(bytes.size() * static_cast<size_t>(options_.size));
        }
        std::memcpy(addresses.data() + bytes.size() * static_cast<size_t>(peer), bytes.data(),
                    bytes.size());
      }
      CAUSEWAY_RETURN_IF_ERROR(
          StoreError(store_->Set(AddressKey(options_.rank), addresses, deadline_), "the store"));
    } catch (const std::exception& error) {
      return Unavailable(Text("can't use address ", own_address_, ": ", GlooErrorText(error)));
    }
    for (int peer = 0; peer < options_.size; ++peer) {
      if (peer != options_.rank) CAUSEWAY_RETURN_IF_ERROR(Connect(peer));
    }
    return Status();
  }

  Status Connect(int peer) {
    const auto addresses = store_->Get(AddressKey(peer), deadline_);
    if (!addresses.ok())
      return StoreError(addresses.status(), Text("the address of ", options_.noun, " ", peer));
    // Each rank's text holds one address for each peer; ours is at our place in it.
    const size_t bytes = addresses->size() / static_cast<size_t>(options_.size);
    const auto mine = addresses->begin() + static_cast<int64_t>(bytes) * options_.rank;
    try {
      mesh_.context->getPair(peer)->connect(
          std::vector<char>(mine, mine + static_cast<int64_t>(bytes)));
    } catch (const std::exception& error) {
      return Unavailable(Text("can't connect to ", options_.noun, " ", peer, " from address ",
                              own_address_, " after ", Waited(), ": ", GlooErrorText(error),
                              "; do the two hosts share that network?"));
    }
    return Status();
  }

  const GlooOptions& options_;
  const Deadline deadline_;
  const Deadline::Clock::time_point begin_;
  std::string own_address_;  // numeric, in the network that the data takes
  Hello own_;
  GlooMesh mesh_;
  std::unique_ptr<StoreClient> store_;
};

}  // namespace

StatusOr<GlooMesh> ConnectGlooMesh(const GlooOptions& options, Deadline deadline) {
  return Rendezvous(options, deadline).Run();
}

std::string GlooErrorText(const std::exception& error) {
  const std::string text = error.what();
  const size_t end = text.find("] ");
  return text.starts_with('[') && end != std::string::npos ? text.substr(end + 2) : text;
}

}  // namespace causeway
