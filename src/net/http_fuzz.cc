// libFuzzer entry: any bytes from a client, in any pieces, give well-formed answers and a
// connection that ends when the client has gone. Without threads: the fuzzer runs the server's
// tasks itself.
//
// The first byte says how the client behaves; 0xfe in the rest ends a piece.
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "net/http_core.h"

namespace causeway {
namespace {

constexpr char kPieceEnd = '\xfe';

HttpServerOptions Options(bool cors) {
  HttpServerOptions options;
  options.max_header_bytes = 1500;
  options.max_headers = 20;
  options.max_target_bytes = 200;
  options.max_body_bytes = 2000;
  options.max_queued_bytes = 8000;
  if (cors) options.cors_origin = "*";
  return options;
}

// A server without a port, and the responders that its handlers left for later.
class Server {
 public:
  explicit Server(bool cors) : core_(Options(cors), Routes()) {}

  // All that the server says to a client that sends these pieces.
  std::string Talk(std::string_view pieces, bool half_close) {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0, errno);
    core_.RunReady();  // binds to this thread before a handler may ask
    boost::asio::ip::tcp::socket socket(core_.io());
    socket.assign(boost::asio::ip::tcp::v4(), ends[0]);
    core_.Adopt(std::move(socket), "fuzz");
    std::string out;
    while (!pieces.empty()) {
      const std::string_view piece = pieces.substr(0, pieces.find(kPieceEnd));
      pieces.remove_prefix(std::min(pieces.size(), piece.size() + 1));
      (void)!send(ends[1], piece.data(), piece.size(), MSG_NOSIGNAL);
      Run(ends[1], out);
      // Answered between two pieces, so after the next request has perhaps begun.
      std::exchange(later_, {}).clear();
    }
    if (half_close) {
      shutdown(ends[1], SHUT_WR);
      Run(ends[1], out);
    }
    close(ends[1]);
    for (int i = 0; i < 100 && core_.connections() > 0; ++i) core_.RunReady();
    CHECK(core_.connections() == 0, "the connection outlives its client");
    later_.clear();
    core_.RunReady();
    return out;
  }

 private:
  void Run(int client, std::string& out) {
    char buffer[4096];
    for (int i = 0; i < 4; ++i) {
      core_.RunReady();
      for (ssize_t count; (count = recv(client, buffer, sizeof(buffer), 0)) > 0;) {
        out.append(buffer, static_cast<size_t>(count));
      }
    }
  }

  std::vector<HttpRoute> Routes() {
    return {{"POST", "/echo",
             [](const HttpRequest& request, HttpResponder responder) {
               responder.Send({.body = request.body});
             }},
            {"GET", "/items/*",
             [](const HttpRequest& request, HttpResponder responder) {
               CHECK(request.path.starts_with("/items/"), request.path);
               responder.Send({.body = request.tail});
             }},
            {"GET", "/stream",
             [](const HttpRequest& request, HttpResponder responder) {
               responder.Begin({.content_type = "text/event-stream"});
               responder.Write("data: " + request.query + "\n\n");
               responder.Write("data: [DONE]\n\n");
               responder.End();
             }},
            {"POST", "/later", [this](const HttpRequest&, HttpResponder responder) {
               responder.OnClose([] {});
               later_.push_back(std::move(responder));
             }}};
  }

  std::vector<HttpResponder> later_;
  HttpCore core_;
};

// Takes a line off the front; the last line of a cut answer may lack its end.
std::string_view TakeLine(std::string_view& text) {
  const size_t end = text.find("\r\n");
  CHECK(end != std::string_view::npos, "a line without end: ", text);
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end + 2);
  return line;
}

// Every byte belongs to an answer whose framing holds. `until_close`: an answer may end with the
// connection. (Answers to HEAD have a length and no body, so the caller leaves those out.)
void CheckAnswers(std::string_view out, bool until_close) {
  while (!out.empty()) {
    const std::string_view status = TakeLine(out);
    CHECK(status.starts_with("HTTP/1.1 ") && status.size() > 13, status);
    const std::string_view code = status.substr(9, 3);
    size_t length = 0;
    bool chunked = false;
    bool close = false;
    for (std::string_view line = TakeLine(out); !line.empty(); line = TakeLine(out)) {
      CHECK(line.find(": ") != std::string_view::npos, line);
      if (line.starts_with("Content-Length: ")) {
        std::from_chars(line.data() + 16, line.data() + line.size(), length);
      }
      chunked = chunked || line == "Transfer-Encoding: chunked";
      close = close || line == "Connection: close";
    }
    if (chunked) {
      for (size_t chunk = 1; chunk > 0;) {
        const std::string_view line = TakeLine(out);
        const auto parsed = std::from_chars(line.data(), line.data() + line.size(), chunk, 16);
        CHECK(parsed.ec == std::errc() && out.size() >= chunk + 2, line);
        out.remove_prefix(chunk);
        CHECK(TakeLine(out).empty(), "after a chunk");
      }
    } else if (close && until_close && length == 0) {
      return;
    } else {
      CHECK(out.size() >= length, code, " has ", out.size(), " of ", length);
      out.remove_prefix(length);
    }
    if (close) CHECK(out.empty(), "more after the last answer: ", out);
  }
}

}  // namespace
}  // namespace causeway

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace causeway;
  if (size == 0) return 0;
  static Server plain(/*cors=*/false);
  static Server cors(/*cors=*/true);
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  const std::string out = (data[0] & 1 ? cors : plain).Talk(bytes, data[0] & 2);
  std::string whole(bytes);
  std::erase(whole, kPieceEnd);
  if (whole.find("HEAD") == std::string::npos) {
    CheckAnswers(out, whole.find("HTTP/1.0") != std::string::npos);
  }
  return 0;
}
