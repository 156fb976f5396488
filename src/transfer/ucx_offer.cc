// The prefill side of transfers by UCX.
#include <filesystem>
#include <list>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "kernels/op_table.h"
#include "transfer/ucx_memory.h"
#include "transfer/ucx_messages.h"
#include "transfer/ucx_worker.h"

namespace causeway {
namespace {
constexpr int64_t kLongMs = 3'600'000;
constexpr size_t kMostPeers = 4096;
// Pieces that a decode host has asked for and that have not left; it asks for a few runs at a time.
constexpr int64_t kMostAnswers = 1 << 16;
}  // namespace

bool BuiltWithUcx() { return true; }

bool HasRdma() {
  // First without the library, which is loaded only where it may be of use.
  std::error_code error;
  const std::filesystem::directory_iterator devices("/sys/class/infiniband", error);
  if (error || devices == std::filesystem::directory_iterator()) return false;
  const auto ucx = LoadUcx();
  return ucx.ok() && FindsRdma(**ucx);
}

std::string UcxVersionText(uint32_t version) { return Text(version >> 16, ".", version & 0xffff); }

// A decode host that has connected.
struct UcxPeer {
  ucp_ep_h endpoint = nullptr;
  int64_t answers = 0;  // pieces under way
  bool gone = false;    // to be closed
};

class UcxOffer::Work {
 public:
  explicit Work(const KvCache& cache) : cache_(cache) {}
  ~Work();
  Status Start(sockaddr_storage address);
  const UcxHandle& handle() const { return handle_; }

 private:
  // A piece under way: its header must stay until it has left.
  struct Answer {
    Work* work;
    UcxPeer* peer;
    std::string header;
  };

  Status Register(void* data, int64_t bytes, std::unique_ptr<UcxRegion>& region);
  int64_t Tick();
  void Accept(ucp_conn_request_h request);
  // Sends what a decode host asks for; an error where it asks for what is not there.
  Status Ask(UcxPeer& peer, std::string_view bytes);
  void Send(UcxPeer& peer, const AskMessage& ask, int64_t piece);
  UcxPeer* Find(ucp_ep_h endpoint);

  // Called by UCX inside of Progress.
  static void OnConnect(ucp_conn_request_h request, void* work);
  static void OnError(void* work, ucp_ep_h endpoint, ucs_status_t status);
  static ucs_status_t OnAsk(void* work, const void* header, size_t header_bytes, void* data,
                            size_t bytes, const ucp_am_recv_param_t* param);
  static void OnSent(void* request, ucs_status_t status, void* answer);

  const KvCache& cache_;
  UcxHandle handle_;
  // Ended in the reverse order.
  std::unique_ptr<UcxContext> context_;
  std::unique_ptr<UcxRegion> latents_;
  std::unique_ptr<UcxRegion> index_keys_;
  std::unique_ptr<UcxWorker> worker_;
  ucp_listener_h listener_ = nullptr;
  // On the thread only:
  std::vector<ucp_conn_request_h> connecting_;
  std::list<UcxPeer> peers_;
  std::unordered_set<Answer*> answers_;
  std::unique_ptr<UcxThread> thread_;
};

UcxOffer::Work::~Work() {
  if (thread_ != nullptr) thread_->Stop();  // from here on it is all this thread's
  if (worker_ == nullptr) return;
  for (const UcxPeer& peer : peers_) {
    if (peer.endpoint != nullptr) worker_->Close(peer.endpoint);
  }
  if (listener_ != nullptr) context_->ucx().listener_destroy(listener_);
  worker_ = nullptr;
  for (Answer* const answer : answers_) delete answer;
}

Status UcxOffer::Work::Register(void* data, int64_t bytes, std::unique_ptr<UcxRegion>& region) {
  if (bytes == 0) return Status();
  CAUSEWAY_ASSIGN_OR_RETURN(region, UcxRegion::Make(*context_, data, bytes));
  return Status();
}

Status UcxOffer::Work::Start(sockaddr_storage address) {
  CAUSEWAY_ASSIGN_OR_RETURN(context_, UcxContext::Make());
  const UcxApi& ucx = context_->ucx();
  const KvShape& shape = cache_.shape();
  const int64_t tokens = shape.layers * cache_.pages() * kPage;
  CAUSEWAY_RETURN_IF_ERROR(
      Register(cache_.LatentPage(0, 0), tokens * shape.latent_bytes(), latents_));
  CAUSEWAY_RETURN_IF_ERROR(
      Register(cache_.IndexPage(0, 0), tokens * shape.index_bytes(), index_keys_));
  CAUSEWAY_ASSIGN_OR_RETURN(worker_, UcxWorker::Make(*context_));
  CAUSEWAY_RETURN_IF_ERROR(worker_->Handle(kAskId, OnAsk, this));
  SetPort(address, 0);
  ucp_listener_params_t params{};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr = {reinterpret_cast<const sockaddr*>(&address), BytesOf(address)};
  params.conn_handler = {OnConnect, this};
  ucs_status_t status = ucx.listener_create(worker_->handle(), &params, &listener_);
  if (status != UCS_OK) {
    listener_ = nullptr;
    return UcxError(ucx, "can't listen", status);
  }
  ucp_listener_attr_t attributes{};
  attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  status = ucx.listener_query(listener_, &attributes);
  if (status != UCS_OK) return UcxError(ucx, "can't find the port it listens at", status);
  handle_ = {ucx.version, FindsRdma(ucx), PortOf(attributes.sockaddr)};
  thread_ = std::make_unique<UcxThread>([this] { return Tick(); });
  thread_->Post([this] { thread_->Add(*worker_); });
  return Status();
}

void UcxOffer::Work::OnConnect(ucp_conn_request_h request, void* work) {
  static_cast<Work*>(work)->connecting_.push_back(request);
}

void UcxOffer::Work::OnError(void* work, ucp_ep_h endpoint, ucs_status_t) {
  UcxPeer* const peer = static_cast<Work*>(work)->Find(endpoint);
  if (peer != nullptr) peer->gone = true;
}

UcxPeer* UcxOffer::Work::Find(ucp_ep_h endpoint) {
  for (UcxPeer& peer : peers_) {
    if (peer.endpoint == endpoint) return &peer;
  }
  return nullptr;
}

// What UCX does not like to be done inside of what it calls.
int64_t UcxOffer::Work::Tick() {
  for (const ucp_conn_request_h request : std::exchange(connecting_, {})) Accept(request);
  for (UcxPeer& peer : peers_) {
    if (peer.gone && peer.endpoint != nullptr) {
      worker_->Close(std::exchange(peer.endpoint, nullptr));
    }
  }
  peers_.remove_if([](const UcxPeer& each) { return each.gone && each.answers == 0; });
  return kLongMs;
}

void UcxOffer::Work::Accept(ucp_conn_request_h request) {
  const UcxApi& ucx = context_->ucx();
  if (peers_.size() >= kMostPeers) {
    ucx.listener_reject(listener_, request);
    return;
  }
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.conn_request = request;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {OnError, this};
  UcxPeer& peer = peers_.emplace_back();
  // It may be gone again; its own side notices.
  if (ucx.ep_create(worker_->handle(), &params, &peer.endpoint) != UCS_OK) peers_.pop_back();
}

ucs_status_t UcxOffer::Work::OnAsk(void* work, const void*, size_t, void* data, size_t bytes,
                                   const ucp_am_recv_param_t* param) {
  Work& self = *static_cast<Work*>(work);
  UcxPeer* const peer = (param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) != 0
                            ? self.Find(param->reply_ep)
                            : nullptr;
  if (peer == nullptr || peer->gone) return UCS_OK;
  const bool whole = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0;
  const Status status = whole ? self.Ask(*peer, {static_cast<const char*>(data), bytes})
                              : InvalidArgument("an ask that is no single message");
  // Its side sees the end of the connection, and names the room.
  if (!status.ok()) peer->gone = true;
  return UCS_OK;
}

Status UcxOffer::Work::Ask(UcxPeer& peer, std::string_view bytes) {
  MessageReader reader(bytes);
  AskMessage ask;
  ask.Visit(reader);
  if (!reader.AllRead())
    return InvalidArgument(Text("a malformed ask of ", bytes.size(), " bytes"));
  CAUSEWAY_RETURN_IF_ERROR(ask.run.Check());
  const KvShape& shape = cache_.shape();
  const int64_t row = shape.latent_bytes() + shape.index_bytes();
  if (ask.run.run.layer >= shape.layers || ask.run.run.count * row > kMaxRunBytes ||
      peer.answers > kMostAnswers) {
    return InvalidArgument(Text("an ask for ", ask.run.run.count, " tokens of layer ",
                                ask.run.run.layer, " with ", peer.answers, " answers under way"));
  }
  for (const int32_t page : ask.run.pages) {
    if (page < 0 || page >= cache_.pages()) return InvalidArgument(Text("an ask for page ", page));
  }
  for (int64_t page = 0; page < static_cast<int64_t>(ask.run.pages.size()); ++page) {
    Send(peer, ask, 2 * page);
    if (shape.index_bytes() > 0) Send(peer, ask, 2 * page + 1);
  }
  return Status();
}

void UcxOffer::Work::Send(UcxPeer& peer, const AskMessage& ask, int64_t piece) {
  if (peer.gone) return;
  auto* const answer =
      new Answer{this, &peer, FieldsOf(AnswerHeader{ask.id, static_cast<uint32_t>(piece)})};
  answers_.insert(answer);
  ++peer.answers;
  const iovec place = PieceAt(ask.run.run, piece, cache_, ask.run.run.layer,
                              ask.run.pages[static_cast<size_t>(piece / 2)]);
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.send = OnSent;
  params.user_data = answer;
  SetRegion(params, piece % 2 == 1 ? *index_keys_ : *latents_);
  void* const request =
      context_->ucx().am_send_nbx(peer.endpoint, kAnswerId, answer->header.data(),
                                  answer->header.size(), place.iov_base, place.iov_len, &params);
  if (!UCS_PTR_IS_PTR(request)) OnSent(nullptr, UCS_PTR_STATUS(request), answer);
}

void UcxOffer::Work::OnSent(void* request, ucs_status_t status, void* user_data) {
  auto* const answer = static_cast<Answer*>(user_data);
  if (request != nullptr) answer->work->context_->ucx().request_free(request);
  if (status != UCS_OK) answer->peer->gone = true;
  --answer->peer->answers;
  answer->work->answers_.erase(answer);
  delete answer;
}

UcxOffer::UcxOffer(std::unique_ptr<Work> work) : work_(std::move(work)) {}
UcxOffer::~UcxOffer() = default;

StatusOr<std::unique_ptr<UcxOffer>> UcxOffer::Make(const KvCache& cache,
                                                   const sockaddr_storage& address) {
  auto work = std::make_unique<Work>(cache);
  CAUSEWAY_RETURN_IF_ERROR(work->Start(address));
  return std::unique_ptr<UcxOffer>(new UcxOffer(std::move(work)));
}

const UcxHandle& UcxOffer::handle() const { return work_->handle(); }

}  // namespace causeway
