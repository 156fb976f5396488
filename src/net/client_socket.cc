#include "net/client_socket.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <fstream>

#include "base/check.h"

namespace causeway {
namespace {

namespace asio = boost::asio;
namespace ssl = asio::ssl;
using asio::ip::tcp;
using boost::system::error_code;

constexpr uint8_t kTlsHandshake = 0x16;  // the first byte of every TLS connection

auto Into(error_code& ec) { return asio::redirect_error(asio::use_awaitable, ec); }

// Takes "http/1.1" where the client offers a choice; else goes on without saying which.
int ChooseProtocol(SSL*, const unsigned char** out, unsigned char* out_length,
                   const unsigned char* offered, unsigned int offered_length, void*) {
  static constexpr unsigned char kOurs[] = "\x08http/1.1";
  unsigned char* chosen = nullptr;
  const int found =
      SSL_select_next_proto(&chosen, out_length, kOurs, sizeof(kOurs) - 1, offered, offered_length);
  *out = chosen;
  return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

}  // namespace

StatusOr<std::unique_ptr<ssl::context>> MakeTlsContext(const std::string& certificate_file,
                                                       const std::string& key_file,
                                                       const std::string& password) {
  if (certificate_file.empty() != key_file.empty()) {
    return InvalidArgument(Text("--ssl-certfile and --ssl-keyfile belong together; found only ",
                                key_file.empty() ? "--ssl-certfile" : "--ssl-keyfile"));
  }
  // OpenSSL says "no such file" in words of its own.
  for (const auto& [flag, path] :
       {std::pair<const char*, const std::string&>{"--ssl-certfile", certificate_file},
        {"--ssl-keyfile", key_file}}) {
    if (!std::ifstream(path, std::ios::binary)) {
      return NotFound(Text(flag, ": can't read ", path));
    }
  }
  auto context = std::make_unique<ssl::context>(ssl::context::tls_server);
  context->set_options(ssl::context::default_workarounds | ssl::context::no_sslv3 |
                       ssl::context::no_tlsv1 | ssl::context::no_tlsv1_1 |
                       ssl::context::no_compression);
  error_code ec;
  context->use_certificate_chain_file(certificate_file, ec);
  if (ec) {
    return InvalidArgument(
        Text("--ssl-certfile: ", certificate_file,
             " holds no certificate that can be used (PEM is expected): ", ec.message()));
  }
  // Always set: OpenSSL would ask on the terminal.
  bool asked = false;
  context->set_password_callback([&asked, &password](size_t, ssl::context::password_purpose) {
    asked = true;
    return password;
  });
  context->use_private_key_file(key_file, ssl::context::pem, ec);
  // Asked here already where certificate and key are of one kind, and below for the rest.
  const bool others =
      ERR_GET_REASON(static_cast<unsigned long>(ec.value())) == X509_R_KEY_VALUES_MISMATCH;
  if (ec && !others) {
    const char* why = !asked ? " holds no private key that can be used (PEM is expected): "
                      : password.empty() ? " is encrypted and needs --ssl-keyfile-password: "
                                         : " can't be decrypted with --ssl-keyfile-password: ";
    return InvalidArgument(Text("--ssl-keyfile: ", key_file, why, ec.message()));
  }
  if (others || SSL_CTX_check_private_key(context->native_handle()) != 1) {
    ERR_clear_error();
    return InvalidArgument(Text("--ssl-keyfile: ", key_file, " is not the key of the certificate ",
                                certificate_file, " (--ssl-certfile)"));
  }
  // The callback refers to this function's variables.
  context->set_password_callback([](size_t, ssl::context::password_purpose) { return ""; });
  SSL_CTX_set_alpn_select_cb(context->native_handle(), &ChooseProtocol, nullptr);
  return context;
}

ClientSocket::ClientSocket(tcp::socket socket, ssl::context* tls) : socket_(std::move(socket)) {
  error_code ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  if (tls != nullptr) tls_.emplace(socket_, *tls);
}

asio::awaitable<ClientSocket::Hello> ClientSocket::Greet() {
  if (!tls_) co_return Hello::kAsExpected;
  error_code ec;
  co_await socket_.async_wait(tcp::socket::wait_read, Into(ec));
  uint8_t first = 0;
  // There is something to read, or the end: this does not block.
  if (!ec) socket_.receive(asio::buffer(&first, 1), tcp::socket::message_peek, ec);
  if (ec) co_return Hello::kFailed;
  if (first != kTlsHandshake) {
    tls_.reset();
    co_return Hello::kPlainText;
  }
  co_await tls_->async_handshake(ssl::stream_base::server, Into(ec));
  co_return ec ? Hello::kFailed : Hello::kAsExpected;
}

asio::awaitable<size_t> ClientSocket::Read(asio::mutable_buffer buffer, error_code& error) {
  if (tls_) co_return co_await tls_->async_read_some(buffer, Into(error));
  co_return co_await socket_.async_read_some(buffer, Into(error));
}

asio::awaitable<void> ClientSocket::Write(const std::vector<asio::const_buffer>& buffers,
                                          error_code& error) {
  if (tls_) {
    co_await asio::async_write(*tls_, buffers, Into(error));
  } else {
    co_await asio::async_write(socket_, buffers, Into(error));
  }
}

asio::awaitable<void> ClientSocket::ShutdownSend() {
  error_code ignored;
  // Waits for the client's own alert, too: the connection is of no more use after this.
  if (tls_) co_await tls_->async_shutdown(Into(ignored));
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
}

void ClientSocket::Close() {
  error_code ignored;
  socket_.close(ignored);
}

}  // namespace causeway
