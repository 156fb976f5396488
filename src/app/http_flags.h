// Flags of the HTTP server: limits, time-outs, TLS, keys. Flags of the engine stand with the
// model's.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "base/status.h"
#include "net/http_server.h"
#include "server/api_key.h"

namespace causeway {

struct HttpFlags {
  std::string host = "127.0.0.1";
  int port = 30000;
  std::string api_key;
  std::string api_key_file;
  std::string ssl_certfile;
  std::string ssl_keyfile;
  std::string ssl_keyfile_password;
  std::string cors_allow_origin;
  int64_t max_connections = 4096;
  int64_t max_body_bytes = 64 << 20;
  int64_t max_header_bytes = 64 << 10;
  int64_t max_stream_buffer_bytes = 4 << 20;
  // In seconds.
  int64_t header_timeout = 15;
  int64_t body_timeout = 60;
  int64_t write_timeout = 30;
  int64_t keep_alive_timeout = 75;

  void Register(CLI::App& app);
  // Without render_error.
  HttpServerOptions ToOptions() const;
  // Asks the system for as many open files as connections need; most grant only 1024 unasked.
  void RaiseFileLimit() const;
  // Reads --api-key-file.
  StatusOr<ApiKey> Keys() const;
};

}  // namespace causeway
