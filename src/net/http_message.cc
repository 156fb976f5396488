// Functions of their arguments only, but for the clock of the Date header.
#include "net/http_message.h"

#include <strings.h>

#include <array>
#include <charconv>
#include <ctime>

#include "base/check.h"

namespace causeway {
namespace {

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Nothing if a %XX is broken, or is %00, at which C strings would end.
std::optional<std::string> PercentDecode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = HexDigit(text[i + 1]);
    const int low = HexDigit(text[i + 2]);
    if (high < 0 || low < 0 || high + low == 0) return std::nullopt;
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

// "Sun, 06 Nov 1994 08:49:37 GMT", whatever the locale.
std::string HttpDate() {
  constexpr std::array kDays = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr std::array kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                  "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm tm{};
  gmtime_r(&now, &tm);
  const auto two = [](int value) { return Text(value < 10 ? "0" : "", value); };
  return Text(kDays[static_cast<size_t>(tm.tm_wday)], ", ", two(tm.tm_mday), " ",
              kMonths[static_cast<size_t>(tm.tm_mon)], " ", tm.tm_year + 1900, " ", two(tm.tm_hour),
              ":", two(tm.tm_min), ":", two(tm.tm_sec), " GMT");
}

void AddHeader(std::string& out, std::string_view name, std::string_view value) {
  // A line break in a value would let its author write headers of their own.
  CHECK(value.find_first_of("\r\n") == std::string_view::npos, name);
  out.append(name).append(": ").append(value).append("\r\n");
}

}  // namespace

const std::string* FindHeader(const std::vector<HttpHeader>& headers, std::string_view name) {
  for (const HttpHeader& header : headers) {
    if (header.name.size() == name.size() &&
        strncasecmp(header.name.data(), name.data(), name.size()) == 0) {
      return &header.value;
    }
  }
  return nullptr;
}

const char* StatusText(int status) {
  switch (status) {
    case 100:
      return "Continue";
    case 200:
      return "OK";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 413:
      return "Payload Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Client Closed Request";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 502:
      return "Bad Gateway";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "Unknown";
  }
}

std::optional<HttpTarget> ParseTarget(std::string_view target) {
  // The absolute form is for proxies, but every server must take it (RFC 9112, section 3.2.2).
  if (target.starts_with("http://") || target.starts_with("https://")) {
    const size_t host = target.find("//") + 2;
    const size_t slash = target.find_first_of("/?", host);
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  if (!target.starts_with('/')) return std::nullopt;
  // A fragment is the client's own business; some send it anyway.
  target = target.substr(0, target.find('#'));
  const size_t question = target.find('?');
  std::optional<std::string> path = PercentDecode(target.substr(0, question));
  if (!path) return std::nullopt;
  HttpTarget out;
  out.path = *std::move(path);
  if (question != std::string_view::npos) out.query = target.substr(question + 1);
  return out;
}

std::string FormatHead(const HttpResponse& response, BodyFraming framing, size_t length,
                       bool keep_alive) {
  std::string out = Text("HTTP/1.1 ", response.status, " ", StatusText(response.status), "\r\n");
  AddHeader(out, "Date", HttpDate());
  if (!response.content_type.empty()) AddHeader(out, "Content-Type", response.content_type);
  // kUntilClose needs no header of its own beside Connection: close.
  if (framing == BodyFraming::kLength) AddHeader(out, "Content-Length", Text(length));
  if (framing == BodyFraming::kChunked) AddHeader(out, "Transfer-Encoding", "chunked");
  AddHeader(out, "Connection", keep_alive ? "keep-alive" : "close");
  for (const HttpHeader& header : response.headers) AddHeader(out, header.name, header.value);
  out += "\r\n";
  return out;
}

std::string FormatChunk(std::string_view data) {
  // Room for the digits of any size_t in base 16.
  char size[16];
  const auto end = std::to_chars(size, size + sizeof(size), data.size(), 16).ptr;
  std::string out;
  out.reserve(data.size() + 20);
  out.append(size, end).append("\r\n").append(data).append("\r\n");
  return out;
}

std::string FormatRequest(std::string_view method, std::string_view target, std::string_view host,
                          const std::vector<HttpHeader>& headers, std::string_view body) {
  std::string out = Text(method, " ", target, " HTTP/1.1\r\n");
  AddHeader(out, "Host", host);
  if (!body.empty() || method == "POST") AddHeader(out, "Content-Length", Text(body.size()));
  for (const HttpHeader& header : headers) AddHeader(out, header.name, header.value);
  out.append("\r\n").append(body);
  return out;
}

}  // namespace causeway
