#include "app/http_flags.h"

#include <sys/resource.h>

#include <algorithm>

#include "app/flags.h"

namespace causeway {

void HttpFlags::Register(CLI::App& app) {
  const CLI::Range seconds(1, 86'400);
  app.add_option("--host", host, "Address or name to listen on")->capture_default_str();
  app.add_option("--port", port, "0: any free port")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  app.add_option("--api-key", api_key,
                 "Ask clients for this key (Authorization: Bearer KEY); default: none");
  app.add_option("--api-key-file", api_key_file,
                 "More keys, one a line, each perhaps followed by how many requests it may have "
                 "under way (more get 429); default: none");
  app.add_option("--ssl-certfile", ssl_certfile,
                 "Speak HTTPS with this certificate, followed by those that signed it (PEM); "
                 "default: plain HTTP");
  app.add_option("--ssl-keyfile", ssl_keyfile,
                 "The private key of --ssl-certfile (PEM); default: none");
  app.add_option("--ssl-keyfile-password", ssl_keyfile_password,
                 "What --ssl-keyfile is encrypted with, better given in the environment, since a "
                 "command line can be read by everybody; default: not encrypted")
      ->envname("CAUSEWAY_SSL_KEYFILE_PASSWORD");
  app.add_option("--cors-allow-origin", cors_allow_origin,
                 "Let scripts of this origin (https://host), or of all (*), use the API from "
                 "browsers; default: none");
  app.add_option("--max-connections", max_connections, "Clients connected at once; more get 503")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--max-body-bytes", max_body_bytes, "Body of a request; larger ones get 413")
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 32))
      ->capture_default_str();
  app.add_option("--max-header-bytes", max_header_bytes, "Header of a request; larger ones get 431")
      ->check(CLI::Range(1024, 16 << 20))
      ->capture_default_str();
  app.add_option("--max-stream-buffer-bytes", max_stream_buffer_bytes,
                 "Of an answer that its client does not read: beyond this the request ends")
      ->check(CLI::Range(int64_t{64} << 10, int64_t{1} << 32))
      ->capture_default_str();
  app.add_option("--header-timeout", header_timeout,
                 "Seconds for a header, and for a TLS handshake, to arrive; then 408")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--body-timeout", body_timeout,
                 "Seconds for a body, and again for each MiB of it, to arrive; then 408")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--write-timeout", write_timeout,
                 "Seconds in which a client that is sent something must take it (256 KiB of it); "
                 "then its request ends")
      ->check(seconds)
      ->capture_default_str();
  app.add_option("--keep-alive-timeout", keep_alive_timeout,
                 "Seconds that a connection may be idle between requests")
      ->check(seconds)
      ->capture_default_str();
}

HttpServerOptions HttpFlags::ToOptions() const {
  HttpServerOptions out;
  out.host = host;
  out.port = port;
  out.max_connections = static_cast<size_t>(max_connections);
  out.max_header_bytes = static_cast<uint64_t>(max_header_bytes);
  out.max_body_bytes = static_cast<uint64_t>(max_body_bytes);
  out.max_queued_bytes = static_cast<size_t>(max_stream_buffer_bytes);
  out.header_timeout_ms = header_timeout * 1000;
  out.read_timeout_ms = body_timeout * 1000;
  out.write_timeout_ms = write_timeout * 1000;
  out.idle_timeout_ms = keep_alive_timeout * 1000;
  out.tls_certificate_file = ssl_certfile;
  out.tls_key_file = ssl_keyfile;
  out.tls_key_password = ssl_keyfile_password;
  out.cors_origin = cors_allow_origin;
  return out;
}

void HttpFlags::RaiseFileLimit() const {
  constexpr rlim_t kOthers = 1024;  // checkpoint, hosts, logs
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = static_cast<rlim_t>(max_connections) + kOthers;
  if (limit.rlim_cur >= wanted) return;
  // What the system refuses shows as connections that wait to be accepted.
  limit.rlim_cur = std::min(wanted, limit.rlim_max);
  setrlimit(RLIMIT_NOFILE, &limit);
}

StatusOr<ApiKey> HttpFlags::Keys() const {
  if (cors_allow_origin.find_first_of("\r\n") != std::string::npos) {
    return InvalidArgument("--cors-allow-origin has a line break; expected an origin or *");
  }
  if (api_key_file.empty()) return ApiKey(api_key);
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string text, ReadTextFile("--api-key-file", api_key_file));
  return ApiKey::Parse(api_key, text, Text("--api-key-file: ", api_key_file));
}

}  // namespace causeway
