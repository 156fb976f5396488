// A call is one request and one answer. After an exchange that broke off, the next bytes could be
// the rest of an older answer: broken_ then refuses all further calls.
#include "net/store.h"

#include "base/check.h"
#include "net/store_wire.h"

namespace causeway {
namespace {

// How much longer than its own deadline a client waits for the server to say that a key never came.
constexpr int64_t kGraceMs = 1'000;
constexpr uint32_t kLargestAnswer = 64 << 20;

std::string Request(char operation, const std::string& key) {
  std::string request(1, operation);
  AppendNumber(request, static_cast<uint32_t>(key.size()));
  return request + key;
}

}  // namespace

StatusOr<std::unique_ptr<StoreClient>> StoreClient::Connect(const std::string& address,
                                                            const std::string& token,
                                                            Deadline deadline) {
  if (static_cast<int64_t>(token.size()) > kStoreTokenBytes) {
    return InvalidArgument(
        Text("found a token of ", token.size(), " bytes; expected at most ", kStoreTokenBytes));
  }
  CAUSEWAY_ASSIGN_OR_RETURN(Socket socket, ConnectTo(address, deadline));
  std::unique_ptr<StoreClient> client(new StoreClient(std::move(socket)));
  const auto answer = client->Ask(std::string(kStoreHello) + token, deadline);
  if (!answer.ok()) return answer.status();
  return client;
}

StatusOr<std::string> StoreClient::Ask(const std::string& request, Deadline deadline) {
  if (broken_) return Unavailable("the connection to the store broke earlier");
  broken_ = true;  // until the whole answer is here
  const std::string frame = Frame(request);
  CAUSEWAY_RETURN_IF_ERROR(
      socket_.Send(frame.data(), static_cast<int64_t>(frame.size()), deadline));
  uint32_t length = 0;
  CAUSEWAY_RETURN_IF_ERROR(socket_.Receive(&length, sizeof length, deadline));
  // Anything may listen there: its first bytes need not be a length.
  if (length < 1 || length > kLargestAnswer) {
    return Unavailable("what listens there is not a Causeway store");
  }
  std::string answer(length, '\0');
  CAUSEWAY_RETURN_IF_ERROR(socket_.Receive(answer.data(), length, deadline));
  const auto kind = static_cast<StoreAnswer>(answer[0]);
  answer.erase(0, 1);
  // broken_ stays: the server ends the connection after this answer.
  if (kind == StoreAnswer::kRefused) return InvalidArgument(answer);
  broken_ = false;
  if (kind == StoreAnswer::kNotThere) return DeadlineExceeded(answer);
  if (kind == StoreAnswer::kWrong) return InvalidArgument(answer);
  return answer;
}

Status StoreClient::Set(const std::string& key, const std::string& value, Deadline deadline) {
  return Ask(Request('S', key) + value, deadline).status();
}

StatusOr<std::string> StoreClient::Get(const std::string& key, Deadline deadline) {
  // The server waits, and says at the deadline that the key never came; the client gives that
  // answer a little more time to arrive.
  const int64_t wait_ms = deadline.RemainingMs();
  std::string request = Request('G', key);
  AppendNumber(request, wait_ms);
  return Ask(request, Deadline::AfterMs(wait_ms + kGraceMs));
}

StatusOr<int64_t> StoreClient::Add(const std::string& key, int64_t delta, Deadline deadline) {
  std::string request = Request('A', key);
  AppendNumber(request, delta);
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string answer, Ask(request, deadline));
  std::string_view rest = answer;
  int64_t sum = 0;
  if (!TakeNumber(rest, sum)) return Unavailable("what listens there is not a Causeway store");
  return sum;
}

}  // namespace causeway
