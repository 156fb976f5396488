// One request that is passed on, from the client's bytes to the last of its answer.
//
//   wait at the gate -> choose workers -> try -> (pause -> choose others -> try)... -> answered
//
// A try ends without effect on the client until the first byte of an answer has been passed on;
// from then on there are no others, and a failure is told within the stream.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "router/logprob_merge.h"
#include "router/request_facts.h"
#include "router/router_core.h"

namespace causeway {

// What a route passes on, and how.
struct Passage {
  const char* path = "";  // at the workers
  RequestKind kind = RequestKind::kOther;
  const char* name = "";       // in metrics
  const char* id_prefix = "";  // of names that the router gives to requests
};

// Starts it on the io thread. It ends by itself.
void StartExchange(const Passage& passage, ClientCall call);

class Exchange;

// The prefill half of a pair. Shared by the exchange and the coroutine that reads its answer, which
// may end a little later than the exchange.
struct PrefillLeg {
  PrefillLeg(Worker& worker, RouterCore& core, Exchange* owner) : core(core), owner(owner) {
    lease.emplace(worker);
    call.emplace(worker.upstream);
  }
  RouterCore& core;
  Exchange* owner;  // null once it has ended
  // Both until it is done; the call ends first, as it refers to what the lease keeps.
  std::optional<WorkerLease> lease;
  std::optional<UpstreamCall> call;
  RequestLabels labels;
  std::string head;
  std::shared_ptr<const std::string> body;
  bool keep = false;   // the answer is wanted, for its logprobs
  std::string answer;  // if kept, or an error; else its beginning
  bool done = false;
  // Why it failed, for the client; nothing: it has not.
  std::optional<HttpResponse> failure;
};

class Exchange {
 public:
  Exchange(const Passage& passage, ClientCall call);
  ~Exchange();
  boost::asio::awaitable<void> Run();

  // What other events tell it. Each only wakes what waits.
  void Admitted();                 // the gate lets it pass
  void QueuedTooLong();            // the gate does not
  void Gone();                     // its client has gone, or the router stops
  void Sent() { wake_.cancel(); }  // its client has taken all that it was sent
  // The prefill half's answer is there, or has failed.
  void PrefillEnded();

 private:
  // How a try ended: with an answer, or with what the client is to be told if there is no other.
  struct Outcome {
    bool answered = false;
    HttpResponse error = {};
    bool retryable = false;
  };

  // Whether it may go on; else it has been answered.
  boost::asio::awaitable<bool> PassGate();
  boost::asio::awaitable<void> TryAll();
  boost::asio::awaitable<void> Converse(Outcome& outcome);
  // From a good head on.
  boost::asio::awaitable<void> PassOn(const UpstreamHead& head, WorkerLease& lease,
                                      Outcome& outcome);
  // From the first piece on; `events`: it is a stream of events.
  boost::asio::awaitable<void> PassStream(HttpResponse head, std::string piece, bool events,
                                          WorkerLease& lease);
  // Until the prefill half has ended, where its logprobs are wanted.
  boost::asio::awaitable<void> AwaitPrefill();
  // Until the client has taken what it was sent.
  boost::asio::awaitable<void> AwaitRoom();
  // Until something wakes it, `ms` at most.
  boost::asio::awaitable<void> Sleep(int64_t ms);

  // The workers and the body of the next try; false with the answer if there are none.
  bool Choose(Outcome& outcome);
  void StartPrefill();
  void EndPrefill(bool went_well);
  bool PrefillFailed() const { return prefill_ && prefill_->failure.has_value(); }
  bool merging() const { return prefill_ && prefill_->keep; }
  // What a broken call comes to: its fault, or the prefill half's, or the client's.
  Outcome FailedBy(const Status& status, WorkerLease& lease);
  Outcome OutcomeOf(HttpResponse error) const;
  // What an error of the worker itself comes to.
  Outcome RefusedWith(HttpResponse error, WorkerLease& lease);
  // After a failure that the client has to be told within its answer.
  void BreakOff(const Status& status, bool events);
  void Answer(HttpResponse response);
  void Log() const;
  bool over() const { return gone_ || core_.stopping(); }

  RouterCore& core_;
  const Passage passage_;
  ClientCall call_;
  const uint64_t number_;
  boost::asio::steady_timer wake_;
  RequestFacts facts_;
  RequestLabels labels_;
  std::string common_head_;                      // headers that every worker gets
  std::shared_ptr<const std::string> original_;  // the client's body
  bool gone_ = false;
  bool admitted_ = false;
  bool late_ = false;     // it waited at the gate for too long
  bool in_gate_ = false;  // and must leave it
  // How it ended, for the log and the metrics.
  int status_ = 499;
  std::string error_;

  bool begun_ = false;  // a byte of the answer has been passed on

  // Of the try under way.
  Worker* prefill_worker_ = nullptr;
  Worker* worker_ = nullptr;  // the decode worker, or the only one
  std::shared_ptr<const std::string> body_;
  std::shared_ptr<PrefillLeg> prefill_;
  UpstreamCall* upstream_ = nullptr;  // of worker_
  std::vector<uint64_t> tried_;       // workers of this try and those before
  int tries_ = 0;
};

}  // namespace causeway
