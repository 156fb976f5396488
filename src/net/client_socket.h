// The server's end of one connection: TCP, or TLS over it. Only the server's own files include
// this.
#pragma once

#include <utility>  // Asio 1.74 needs it and does not include it

#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <memory>
#include <optional>
#include <vector>

#include "base/status.h"

namespace causeway {

// The certificate and key that a server shows. Errors name the flag and the file: missing, no PEM,
// wrong or missing password, a key that is not the certificate's.
StatusOr<std::unique_ptr<boost::asio::ssl::context>> MakeTlsContext(
    const std::string& certificate_file, const std::string& key_file, const std::string& password);

// Used on the io thread only, by one reader and one writer at a time.
class ClientSocket {
 public:
  // `tls` is null for plain TCP; it must outlive this.
  ClientSocket(boost::asio::ip::tcp::socket socket, boost::asio::ssl::context* tls);
  ClientSocket(const ClientSocket&) = delete;  // tls_ refers to socket_
  ClientSocket& operator=(const ClientSocket&) = delete;

  // What the client turned out to speak.
  enum class Hello { kAsExpected, kPlainText, kFailed };
  // The TLS handshake; nothing where there is no TLS. After kPlainText, a client that spoke
  // without TLS to a server that has it, reads and writes are plain.
  boost::asio::awaitable<Hello> Greet();
  boost::asio::awaitable<size_t> Read(boost::asio::mutable_buffer buffer,
                                      boost::system::error_code& error);
  boost::asio::awaitable<void> Write(const std::vector<boost::asio::const_buffer>& buffers,
                                     boost::system::error_code& error);
  // Says that no more follows; with TLS this takes as long as its alert needs to leave.
  boost::asio::awaitable<void> ShutdownSend();
  void Close();

 private:
  boost::asio::ip::tcp::socket socket_;
  std::optional<boost::asio::ssl::stream<boost::asio::ip::tcp::socket&>> tls_;
};

}  // namespace causeway
