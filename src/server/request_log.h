// --log-requests: what each request asked for and what came of it, as lines of the log.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/request.h"
#include "text/tokenizer.h"

namespace causeway {

// What --log-requests-level counts: each has what those before it have.
enum class RequestLogLevel {
  kMetadata,  // ids, sizes, times, how it ended
  kSampling,  // the sampling parameters
  kPart,      // prompt and answer, of each the first and the last 256 tokens
  kWhole,     // all of them
};

// One line when the engine has taken a request, event=request_received, and one when it has ended
// it, event=request_finished; a request of several answers is as many to the engine. Used on the io
// thread only.
class RequestLog {
 public:
  // `tokenizer` must outlive this.
  RequestLog(RequestLogLevel level, const Tokenizer& tokenizer)
      : level_(level), tokenizer_(tokenizer) {}

  // An answer of the desk: its key there and its number.
  using Key = std::pair<uint64_t, size_t>;
  void Received(Key key, const char* endpoint, bool stream, const Request& request);
  // The engine has refused it: nothing more comes.
  void Refused(Key key) { open_.erase(key); }
  void Token(Key key, const TokenOutput& output);
  // What ended it, where the engine only sees a cancel: a stop string.
  void StopString(Key key);
  void Finished(Key key, const RequestResult& result);
  // Received and not yet finished.
  size_t open() const { return open_.size(); }

 private:
  struct Open {
    std::string id;
    std::vector<int32_t> output;  // from kPart on
    bool stop_string = false;
  };
  std::string TextOf(const std::vector<int32_t>& tokens) const;

  const RequestLogLevel level_;
  const Tokenizer& tokenizer_;
  std::map<Key, Open> open_;
};

}  // namespace causeway
