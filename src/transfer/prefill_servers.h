// PrefillServers: which prefill servers a decode host has to do with, and by which links.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/status.h"
#include "transfer/messages.h"
#include "transfer/remote_memory.h"
#include "transfer/row_intake.h"

namespace causeway {

// By the address of a server's host 0. With LinkLoop's lock held.
class PrefillServers {
 public:
  // A connection to one prefill host.
  struct Host {
    uint64_t link = 0;     // 0: none yet
    uint64_t attempt = 0;  // to connect, that is under way; 0: none
    HelloMessage hello = {};
    // Of the link, once it is ready; no memory: keys come by TCP.
    std::unique_ptr<RowIntake> intake = {};
    std::unique_ptr<RemoteMemory> memory = {};

    TransferBackend way() const {
      return memory == nullptr ? TransferBackend::kTcp : memory->backend();
    }
  };

  // Of a request's bootstrap_host and bootstrap_port.
  static std::string AddressOf(const std::string& host, int port) {
    return host.find(':') == std::string::npos ? Text(host, ":", port)
                                               : Text("[", host, "]:", port);
  }
  static std::string NameOf(const std::string& server, int host) {
    return Text("host ", host, " of the prefill server at ", server);
  }

  std::map<int, Host>& Hosts(const std::string& server) { return servers_[server]; }
  Host& At(const std::string& server, int host) { return servers_[server][host]; }
  // Where a host is reached: host 0 has said where the others are.
  StatusOr<std::string> AddressAt(const std::string& server, int host) {
    if (host == 0) return server;
    const auto& addresses = At(server, 0).hello.addresses;
    if (static_cast<size_t>(host) < addresses.size()) return addresses[static_cast<size_t>(host)];
    return Unavailable(
        Text("the prefill server at ", server, " does not say where its host ", host, " is"));
  }
  // Requests name any address: what nobody answers at must not stay.
  void ForgetIfUnused(const std::string& server) {
    const auto found = servers_.find(server);
    if (found == servers_.end()) return;
    for (const auto& [host, at] : found->second) {
      if (at.link != 0 || at.attempt != 0) return;
    }
    servers_.erase(found);
  }
  void Clear() { servers_.clear(); }

 private:
  std::map<std::string, std::map<int, Host>> servers_;
};

}  // namespace causeway
