// The plain data of HTTP, shared by server and client; no sockets here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace causeway {

struct HttpHeader {
  std::string name;
  std::string value;
};

// The value of the first header of that name (case does not matter), or null.
const std::string* FindHeader(const std::vector<HttpHeader>& headers, std::string_view name);

struct HttpRequest {
  std::string method;  // upper case; a GET route also gets HEAD, whose body is not sent
  std::string path;    // percent-decoded, without the query
  std::string query;   // as sent, without the '?'
  std::string tail;    // what the '*' of the route stands for
  std::vector<HttpHeader> headers;
  std::string body;
  std::string peer;  // "127.0.0.1:51234"
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<HttpHeader> headers = {};
  std::string body = {};
};

// "Not Found" for 404; "Unknown" for what is not listed.
const char* StatusText(int status);

// The path and query of a request target ("/a%20b?c", "http://host/a"); nothing if it is neither
// of these forms, or its %XX are broken or stand for a zero byte.
struct HttpTarget {
  std::string path;
  std::string query;
};
std::optional<HttpTarget> ParseTarget(std::string_view target);

// How the body of a response ends.
// kNone: there is none, and no header about it (204).
enum class BodyFraming { kLength, kChunked, kUntilClose, kNone };

// Status line and headers up to and with the empty line. `length` is used with kLength only.
std::string FormatHead(const HttpResponse& response, BodyFraming framing, size_t length,
                       bool keep_alive);

// `data` as one chunk of chunked transfer coding. Not for empty data: that would end the body.
std::string FormatChunk(std::string_view data);

// A request with Host and, if there is a body or the method is POST, Content-Length.
std::string FormatRequest(std::string_view method, std::string_view target, std::string_view host,
                          const std::vector<HttpHeader>& headers, std::string_view body);

}  // namespace causeway
