// For tests of TLS: a certificate that is made when the test runs, and a client that trusts it.
#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <string>

namespace causeway {

// Writes a key and a certificate for "localhost" and 127.0.0.1, valid for an hour.
inline void WriteCertificate(const std::string& certificate_file, const std::string& key_file,
                             const std::string& password = "") {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_NAME* name = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
  X509_set_issuer_name(certificate, name);
  ASSERT_GT(X509_sign(certificate, key, EVP_sha256()), 0);
  FILE* file = std::fopen(certificate_file.c_str(), "w");
  ASSERT_NE(file, nullptr) << certificate_file;
  PEM_write_X509(file, certificate);
  std::fclose(file);
  file = std::fopen(key_file.c_str(), "w");
  ASSERT_NE(file, nullptr) << key_file;
  std::string copy = password;
  PEM_write_PrivateKey(file, key, password.empty() ? nullptr : EVP_aes_256_cbc(),
                       reinterpret_cast<unsigned char*>(copy.data()), static_cast<int>(copy.size()),
                       nullptr, nullptr);
  std::fclose(file);
  X509_free(certificate);
  EVP_PKEY_free(key);
}

// One connection. Blocking, with a deadline of 20 s for each call.
class TlsClient {
 public:
  // `trusted`: a certificate file; `socket` is connected.
  TlsClient(int socket, const std::string& trusted) : socket_(socket) {
    timeval timeout{.tv_sec = 20, .tv_usec = 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    context_ = SSL_CTX_new(TLS_client_method());
    SSL_CTX_load_verify_locations(context_, trusted.c_str(), nullptr);
    SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
    ssl_ = SSL_new(context_);
    static constexpr unsigned char kProtocols[] = "\x02h2\x08http/1.1";
    SSL_set_alpn_protos(ssl_, kProtocols, sizeof(kProtocols) - 1);
    SSL_set_fd(ssl_, socket_);
    connected_ = SSL_connect(ssl_) == 1;
  }
  ~TlsClient() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
    close(socket_);
  }
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  bool connected() const { return connected_; }
  std::string protocol() const {
    const unsigned char* name = nullptr;
    unsigned int length = 0;
    SSL_get0_alpn_selected(ssl_, &name, &length);
    return {reinterpret_cast<const char*>(name), length};
  }
  bool Send(const std::string& bytes) {
    return SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size())) ==
           static_cast<int>(bytes.size());
  }
  // Everything until `end` has come, or the server has said goodbye.
  std::string ReadUntil(const std::string& end) {
    std::string out;
    char buffer[4096];
    while (end.empty() || out.find(end) == std::string::npos) {
      const int count = SSL_read(ssl_, buffer, sizeof(buffer));
      if (count <= 0) {
        ended_cleanly_ = SSL_get_error(ssl_, count) == SSL_ERROR_ZERO_RETURN;
        break;
      }
      out.append(buffer, static_cast<size_t>(count));
    }
    return out;
  }
  // Whether the last ReadUntil met the alert that nothing has been cut off.
  bool ended_cleanly() const { return ended_cleanly_; }

 private:
  int socket_;
  SSL_CTX* context_ = nullptr;
  SSL* ssl_ = nullptr;
  bool connected_ = false;
  bool ended_cleanly_ = false;
};

// A plain connection to this machine, for TlsClient; -1 if refused.
inline int ConnectTo(int port) {
  const int out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(out, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return out;
  close(out);
  return -1;
}

}  // namespace causeway
