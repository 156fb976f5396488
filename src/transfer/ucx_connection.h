// UcxConnection: what a decode host reads from one prefill host by UCX.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "cache/kv_cache.h"
#include "transfer/messages.h"
#include "transfer/ucx_worker.h"

namespace causeway {

// Runs are asked for a few at a time (ucx_messages.h). Their rows come into slots, and stay there
// until they are released. A slot into which something may still come is not used for anything else
// before all has come, or the whole connection is over.
//
// Made on any thread; then all calls on the side's UcxThread.
class UcxConnection {
 public:
  // A run, and the slot where it comes to lie: tokens from first / 64 * 64 on, in pages of layer 0.
  struct Reading {
    RunInMemoryMessage run;
    uint64_t id = 0;
    UcxConnection* connection = nullptr;
    size_t slot = 0;
    std::string ask = {};          // the message, which must stay until it has left
    std::vector<bool> begun = {};  // the pieces that come, or have come
    int64_t left = 0;              // pieces that are not there; and the ask, if it has not left
    ucs_status_t status = UCS_OK;
    bool told = false;
  };

  static StatusOr<std::unique_ptr<UcxConnection>> Make(const UcxContext& context,
                                                       const HelloMessage& hello,
                                                       sockaddr_storage address,
                                                       int64_t deadline_ms);
  ~UcxConnection();

  UcxWorker& worker() { return *worker_; }
  void Read(RunInMemoryMessage run);
  // The next run that is there; null: none.
  Reading* Arrived();
  const KvCache& slot(const Reading& reading) const { return *slots_[reading.slot].pages; }
  void Release(Reading* reading);
  // Whether somebody has an Arrived and not yet Released.
  bool lent() const;
  // Why nothing more will come; ok: it will. To be asked in each turn.
  const Status& Check();
  int64_t MsLeft() const;  // to the next deadline
  // Ends all reads. From now on only Release and lent.
  void Close();

 private:
  struct Slot {
    std::unique_ptr<KvCache> pages;
    std::unique_ptr<UcxRegion> latents;
    std::unique_ptr<UcxRegion> index_keys;
    bool used = false;
  };

  UcxConnection(const UcxContext& context, const HelloMessage& hello, sockaddr_storage address,
                int64_t deadline_ms);
  // When there is something to read: a connection that is ended while it is being made is where
  // UCX has most trouble.
  Status Connect();
  void Begin();  // what waits, as far as there are slots
  // Has the slot hold so many pages.
  Status Enlarge(Slot& slot, int64_t pages) const;
  int64_t open() const;  // what has been asked for and has not come
  // Takes a piece; an error where it is none that can come.
  Status Take(const std::string& header, void* data, int64_t bytes,
              const ucp_am_recv_param_t& param);
  void Came(Reading& reading, ucs_status_t status);
  void Break(Status why);

  // Called by UCX inside of Progress and Close.
  static ucs_status_t OnAnswer(void* connection, const void* header, size_t header_bytes,
                               void* data, size_t bytes, const ucp_am_recv_param_t* param);
  static void OnAsked(void* request, ucs_status_t status, void* reading);
  static void OnReceived(void* request, ucs_status_t status, size_t bytes, void* reading);
  static void OnError(void* connection, ucp_ep_h endpoint, ucs_status_t status);

  const UcxContext& context_;
  const UcxApi& ucx_;
  const KvShape shape_;
  const sockaddr_storage address_;
  const int64_t deadline_ms_;

  std::vector<Slot> slots_;
  std::unique_ptr<UcxWorker> worker_;  // of this connection alone: its end ends all reads
  ucp_ep_h endpoint_ = nullptr;
  bool heard_ = false;  // something has come, so that it is a connection

  std::deque<RunInMemoryMessage> waiting_;
  std::list<Reading> readings_;
  uint64_t next_id_ = 1;
  Deadline::Clock::time_point moved_at_;  // when a piece last came, or was asked for after none
  Status broken_;
};

}  // namespace causeway
