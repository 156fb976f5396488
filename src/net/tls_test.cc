// The HTTP server behind TLS, with certificates made here.
#include <gtest/gtest.h>

#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "net/http_client.h"
#include "net/http_server.h"
#include "net/tls_test_client.h"

namespace causeway {
namespace {

using namespace std::chrono_literals;

Deadline Soon() { return Deadline::After(20s); }

class TlsTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string path = testing::TempDir() + "tls_test.XXXXXX";
    ASSERT_NE(mkdtemp(path.data()), nullptr) << path;
    directory_ = path;
    WriteCertificate(File("cert.pem"), File("key.pem"));
  }
  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(directory_);
  }

  std::string File(const std::string& name) const { return directory_ + "/" + name; }
  HttpServerOptions Options() const {
    HttpServerOptions options;
    options.tls_certificate_file = File("cert.pem");
    options.tls_key_file = File("key.pem");
    return options;
  }
  void Serve(const HttpServerOptions& options) {
    std::vector<HttpRoute> routes;
    routes.push_back({"POST", "/echo", [](const HttpRequest& request, HttpResponder responder) {
                        responder.Send({.content_type = "text/plain", .body = request.body});
                      }});
    routes.push_back({"GET", "/stream", [this](const HttpRequest&, HttpResponder responder) {
                        auto moved = std::make_shared<HttpResponder>(std::move(responder));
                        threads_.emplace_back([moved] {
                          moved->Begin({.content_type = "text/event-stream"});
                          for (int i = 0; i < 50; ++i) moved->Write(Text("data: ", i, "\n\n"));
                          moved->End();
                        });
                      }});
    routes.push_back({"GET", "/flood", [this](const HttpRequest&, HttpResponder responder) {
                        responder.OnClose([this] { ++gone_; });
                        responder.Begin({.content_type = "text/plain"});
                        responder.Write(std::string(30 << 20, 'x'));
                        kept_.push_back(std::move(responder));
                      }});
    auto server = HttpServer::Listen(options, std::move(routes));
    ASSERT_TRUE(server.ok()) << server.status().message();
    server_ = std::move(server).value();
  }
  std::unique_ptr<TlsClient> Client() const {
    return std::make_unique<TlsClient>(ConnectTo(server_->port()), File("cert.pem"));
  }
  static std::string Post(const std::string& body) {
    return FormatRequest("POST", "/echo", "localhost", {}, body);
  }
  void ExpectError(const HttpServerOptions& options, std::initializer_list<std::string> parts) {
    const Status status = HttpServer::Listen(options, {}).status();
    ASSERT_FALSE(status.ok());
    for (const std::string& part : parts) {
      EXPECT_NE(status.message().find(part), std::string::npos)
          << "expected \"" << part << "\" in: " << status.message();
    }
  }

  std::string directory_;
  std::atomic<int> gone_{0};
  std::vector<HttpResponder> kept_;    // on the io thread
  std::vector<std::jthread> threads_;  // joined after the server has ended
  std::unique_ptr<HttpServer> server_;
};

TEST_F(TlsTest, AnswersRequestsOneAfterAnotherAndStreams) {
  Serve(Options());
  EXPECT_EQ(server_->url(), Text("https://127.0.0.1:", server_->port()));
  const auto client = Client();
  ASSERT_TRUE(client->connected());
  EXPECT_EQ(client->protocol(), "http/1.1");
  const std::string large(1 << 20, 'y');
  for (const std::string& body : {std::string("hello"), large}) {
    ASSERT_TRUE(client->Send(Post(body)));
    const std::string answer = client->ReadUntil(body);
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK")) << answer.substr(0, 100);
  }
  ASSERT_TRUE(client->Send("GET /stream HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
  const std::string stream = client->ReadUntil("");
  for (int i = 0; i < 50; ++i) {
    EXPECT_NE(stream.find(Text("data: ", i, "\n\n")), std::string::npos) << i;
  }
  EXPECT_TRUE(stream.ends_with("0\r\n\r\n"));
  EXPECT_TRUE(client->ended_cleanly()) << "the end must not look like a cut";
}

TEST_F(TlsTest, OldVersionsOfTlsAreRefused) {
  Serve(Options());
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_max_proto_version(context, TLS1_1_VERSION);
  SSL_CTX_set_security_level(context, 0);
  SSL* ssl = SSL_new(context);
  const int socket = ConnectTo(server_->port());
  SSL_set_fd(ssl, socket);
  EXPECT_NE(SSL_connect(ssl), 1);
  SSL_free(ssl);
  SSL_CTX_free(context);
  close(socket);
  EXPECT_TRUE(Client()->connected()) << "others are not concerned";
}

TEST_F(TlsTest, PlainHttpIsToldToUseHttps) {
  Serve(Options());
  auto client = HttpClient::Connect("127.0.0.1", server_->port(), Soon());
  ASSERT_TRUE(client.ok()) << client.status().message();
  const auto reply = client->Call("POST", "/echo", "hello", Soon());
  ASSERT_TRUE(reply.ok()) << reply.status().message();
  EXPECT_EQ(reply->status, 400);
  EXPECT_NE(reply->body.find("https://"), std::string::npos) << reply->body;
  EXPECT_TRUE(client->WaitForClose(Soon()));
}

TEST_F(TlsTest, HandshakesThatStallOrBreakEndAndHarmNobody) {
  HttpServerOptions options = Options();
  options.header_timeout_ms = 200;
  Serve(options);
  const std::string kStarts[] = {"", "\x16", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 9),
                                 std::string("\x16\x03\x01\x00\x05garbage and more of it", 24)};
  for (const std::string& start : kStarts) {
    auto client = HttpClient::Connect("127.0.0.1", server_->port(), Soon());
    ASSERT_TRUE(client.ok());
    ASSERT_TRUE(client->SendBytes(start, Soon()).ok());
    // The end, after an alert perhaps.
    while (client->ReadHead(Deadline::After(5s)).status().code() == StatusCode::kOk) {
    }
    EXPECT_TRUE(client->WaitForClose(Soon())) << start.size();
  }
  const auto good = Client();
  ASSERT_TRUE(good->connected());
  ASSERT_TRUE(good->Send(Post("still well")));
  EXPECT_NE(good->ReadUntil("still well").find("200"), std::string::npos);
}

TEST_F(TlsTest, TimeoutsHoldBehindTlsToo) {
  HttpServerOptions options = Options();
  options.header_timeout_ms = 300;
  options.write_timeout_ms = 300;
  options.max_queued_bytes = 64 << 20;
  Serve(options);
  const auto slow = Client();
  ASSERT_TRUE(slow->connected());
  ASSERT_TRUE(slow->Send("POST /echo HT"));
  EXPECT_TRUE(slow->ReadUntil("").starts_with("HTTP/1.1 408"));
  const auto deaf = Client();
  ASSERT_TRUE(deaf->Send("GET /flood HTTP/1.1\r\nHost: h\r\n\r\n"));
  const Deadline deadline = Soon();
  while (gone_ == 0 && !deadline.Passed()) std::this_thread::sleep_for(5ms);
  EXPECT_EQ(gone_, 1) << "a client that does not read";
}

TEST_F(TlsTest, StoppingEndsIdleConnections) {
  Serve(Options());
  const auto client = Client();
  ASSERT_TRUE(client->Send(Post("x")));
  ASSERT_NE(client->ReadUntil("x").find("200"), std::string::npos);
  const auto begun = Deadline::Clock::now();
  EXPECT_TRUE(server_->Stop(Soon()));
  EXPECT_LT(Deadline::Clock::now() - begun, 5s);
}

TEST_F(TlsTest, AnEncryptedKeyNeedsItsPassword) {
  WriteCertificate(File("cert.pem"), File("locked.pem"), "open sesame");
  HttpServerOptions options = Options();
  options.tls_key_file = File("locked.pem");
  ExpectError(options, {"--ssl-keyfile: ", "locked.pem", "--ssl-keyfile-password"});
  options.tls_key_password = "wrong";
  ExpectError(options, {"locked.pem", "can't be decrypted with --ssl-keyfile-password"});
  options.tls_key_password = "open sesame";
  Serve(options);
  EXPECT_TRUE(Client()->connected());
}

TEST_F(TlsTest, BadFilesAreNamed) {
  WriteCertificate(File("other.pem"), File("other_key.pem"));
  std::ofstream(File("junk.pem")) << "not a certificate\n";
  HttpServerOptions options = Options();
  options.tls_certificate_file = File("nowhere.pem");
  ExpectError(options, {"--ssl-certfile: can't read ", "nowhere.pem"});
  options.tls_certificate_file = File("junk.pem");
  ExpectError(options, {"--ssl-certfile: ", "junk.pem", "no certificate"});
  options = Options();
  options.tls_key_file = File("nowhere.pem");
  ExpectError(options, {"--ssl-keyfile: can't read ", "nowhere.pem"});
  options.tls_key_file = File("junk.pem");
  ExpectError(options, {"--ssl-keyfile: ", "junk.pem", "no private key"});
  options.tls_key_file = File("other_key.pem");
  ExpectError(options, {"other_key.pem", "is not the key of the certificate", "cert.pem"});
  options.tls_key_file = "";
  ExpectError(options, {"belong together", "only --ssl-certfile"});
  options = Options();
  options.tls_certificate_file = "";
  ExpectError(options, {"belong together", "only --ssl-keyfile"});
}

}  // namespace
}  // namespace causeway
