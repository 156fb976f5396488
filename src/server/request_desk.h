// The way of a request between HTTP and the engine, whatever its format.
//
// The io thread takes it off the wire (Take), the text thread parses it and makes token ids, the io
// thread submits it to the engine, and the engine's callbacks come back to the io thread, which
// writes the answer. Large prompts thus hold up no stream.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/queue.h"
#include "engine/request.h"
#include "net/http_server.h"
#include "server/api_error.h"
#include "server/reply.h"
#include "server/request_log.h"
#include "server/serve_metrics.h"

namespace causeway {

struct DeskOptions {
  size_t max_waiting = 1024;  // requests before the text thread; more get 503
  std::function<void(const RequestReport&)> on_report = {};  // on the io thread, once a request
  RequestLog* log = nullptr;  // of the requests that the engine gets; outlives the desk
};

// Lives longer than the HttpServer whose handlers use it, and shorter than the engine and the
// metrics.
class RequestDesk {
 public:
  // Makes the reply of a request that has been parsed. Copies may be made of it, but it is called
  // once, on the io thread.
  using MakeReply = std::function<std::unique_ptr<Reply>(HttpResponder, Reply::Clock::time_point)>;
  // What tells the requests of one endpoint from others.
  struct Intake {
    const char* endpoint = "";  // for the report
    // On the text thread: sets `make`, or returns what is wrong.
    std::function<std::optional<ApiError>(std::string_view body, MakeReply& make)> parse = {};
    // Instead of `parse`, for what needs no engine: the whole answer, made on the text thread.
    std::function<std::optional<ApiError>(std::string_view body, HttpResponse& out)> answer = {};
    HttpResponse (*render_error)(const ApiError&) = &ErrorResponse;
    int64_t deadline_ms = 0;  // without an answer by then, 503; 0: none
    // Asks only for a sign of life: any token of any request is one, and a full queue is not yet a
    // bad sign. Neither reported nor counted.
    bool probe = false;
  };

  RequestDesk(RequestSink& engine, ServeMetrics& metrics, DeskOptions options);
  ~RequestDesk();

  // On the io thread; `intake` must outlive the desk.
  void Take(const Intake& intake, HttpRequest request, HttpResponder responder);
  // Ends the request of that id, or the one choice of that name, with what it has. How many choices
  // ended. On the io thread.
  int64_t Abort(const std::string& id);
  // The same with all requests that are submitted; those before the text thread get an error.
  int64_t AbortAll();

  // New requests get 503 from now on. From any thread.
  void StartDraining() { draining_.store(true); }
  bool draining() const { return draining_.load(); }
  // Ends what is under way with an error. `executor`: the server's. From any thread.
  void CancelAll(const IoExecutor& executor);

  RequestSink& engine() { return engine_; }
  ServeMetrics& metrics() { return metrics_; }

 private:
  // A request before the text thread.
  struct Waiting {
    const Intake* intake;
    HttpResponder responder;
    Reply::Clock::time_point arrived;
  };
  struct Job {
    uint64_t key;
    const Intake* intake;
    std::string body;
    IoExecutor executor;
  };
  // A request that the text thread watches.
  struct Watch {
    Deadline deadline;
    uint64_t key;
    IoExecutor executor;
  };
  struct Running {
    std::unique_ptr<Reply> reply;
    bool probe = false;
    std::vector<ServeMetrics::Meter> meters;  // [choice]
  };

  // The text thread.
  // Takes jobs until the queue is closed, and posts each back to the io thread as Start or Refuse.
  void ParseJobs();
  void Parse(const Job& job);
  // Runs the intake's `parse`, or its `answer`: then `make` stays empty.
  static std::optional<ApiError> Read(const Job& job, MakeReply& make, HttpResponse& answer);

  // On the io thread.
  void Refuse(uint64_t key, const ApiError& error);
  void Answer(uint64_t key, HttpResponse response);
  void ReportRefused(const Waiting& waiting, const ApiError& error) const;
  // Makes the reply and submits its choices to the engine.
  void Start(uint64_t key, const MakeReply& make, const IoExecutor& executor);
  // Null, or what a reply under way has in common with this one.
  const std::string* FindUsedId(const Reply& reply) const;
  // What the engine's callbacks post. Keys whose reply has ended are ignored.
  void OnToken(uint64_t key, size_t choice, const TokenOutput& output);
  void OnFinish(uint64_t key, size_t choice, bool probe, const RequestResult& result);
  // A token has come: the engine is alive.
  void AnswerProbes(const TokenOutput& output);
  // The client has gone before its answer was complete.
  void OnClose(uint64_t key);
  void OnDeadline(uint64_t key);
  void AbortChoice(Running& running, size_t choice);
  // Ends a reply that runs with an error.
  void Fail(uint64_t key, const ApiError& error);
  // Reports the reply and forgets it; what the engine still runs for it is cancelled.
  void EndReply(uint64_t key);

  RequestSink& engine_;
  ServeMetrics& metrics_;
  const DeskOptions options_;
  std::atomic<bool> draining_{false};

  // The io thread's.
  uint64_t last_key_ = 0;
  std::unordered_map<uint64_t, Waiting> waiting_;
  std::unordered_map<uint64_t, Running> running_;
  std::vector<uint64_t> probes_;  // keys of running_

  // The text thread's.
  std::vector<Watch> watches_;

  // From the io thread to the text thread; bounded by max_waiting.
  Queue<Job> jobs_;
  std::thread text_thread_;
};

}  // namespace causeway
