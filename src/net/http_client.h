// A blocking HTTP/1.1 client: one connection, every wait with a deadline.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "net/http_message.h"

namespace causeway {

struct HttpReply {
  int status = 0;
  std::vector<HttpHeader> headers;
  std::string body;
};

// For one thread. Errors: kUnavailable (refused, closed, reset), kDeadlineExceeded, and
// kInvalidArgument for an answer that is not HTTP.
class HttpClient {
 public:
  // Resolves the name, which may take longer than the deadline, and tries its first address.
  static StatusOr<HttpClient> Connect(const std::string& host, int port, Deadline deadline);
  HttpClient(HttpClient&& other) noexcept;
  HttpClient& operator=(HttpClient&& other) noexcept;
  ~HttpClient() { Close(); }

  // A request and its whole answer; the connection can be used again after it.
  StatusOr<HttpReply> Call(std::string_view method, std::string_view target, std::string_view body,
                           Deadline deadline, const std::vector<HttpHeader>& headers = {});

  // The steps of Call, for streams and for what Call would never send.
  Status SendBytes(std::string_view bytes, Deadline deadline);
  // Status and headers of the next answer that is not 100 Continue.
  StatusOr<HttpReply> ReadHead(Deadline deadline, bool head_request = false);
  // Some more of the body; empty at its end.
  StatusOr<std::string> ReadBody(Deadline deadline);
  // Ends the sending side only.
  void ShutdownSend();
  void Close();
  // True once the server has closed the connection and everything from it has been read.
  bool WaitForClose(Deadline deadline);

 private:
  explicit HttpClient(int socket) : socket_(socket) {}
  // Waits for poll(2) `events`.
  Status WaitFor(short events, Deadline deadline) const;
  // Appends to input_; kUnavailable at the end of the stream.
  Status Fill(Deadline deadline);
  // The next line, without its line break.
  StatusOr<std::string> ReadLine(Deadline deadline);

  // How the body of the present answer ends.
  enum class Body { kNone, kLength, kChunked, kUntilClose };

  int socket_ = -1;
  std::string input_;
  Body body_ = Body::kNone;
  size_t left_ = 0;  // of the body, or of the chunk
};

}  // namespace causeway
