#include "transfer/ucx_connection.h"

#include <netinet/in.h>

#include <algorithm>
#include <cstring>

#include "kernels/op_table.h"
#include "transfer/ucx_messages.h"

namespace causeway {
namespace {

constexpr size_t kSlots = 4;
// What a connection that is being made may take until it is there, and can be ended.
constexpr int64_t kConnectMs = 100;
constexpr int64_t kLongMs = 3'600'000;

}  // namespace

UcxConnection::UcxConnection(const UcxContext& context, const HelloMessage& hello,
                             sockaddr_storage address, int64_t deadline_ms)
    : context_(context),
      ucx_(context.ucx()),
      shape_(hello.side.shape),
      address_(address),
      deadline_ms_(deadline_ms),
      slots_(kSlots),
      moved_at_(Deadline::Clock::now()) {}

StatusOr<std::unique_ptr<UcxConnection>> UcxConnection::Make(const UcxContext& context,
                                                             const HelloMessage& hello,
                                                             sockaddr_storage address,
                                                             int64_t deadline_ms) {
  SetPort(address, hello.ucx.port);
  std::unique_ptr<UcxConnection> made(new UcxConnection(context, hello, address, deadline_ms));
  CAUSEWAY_ASSIGN_OR_RETURN(made->worker_, UcxWorker::Make(context));
  CAUSEWAY_RETURN_IF_ERROR(made->worker_->Handle(kAnswerId, OnAnswer, made.get()));
  return made;
}

Status UcxConnection::Connect() {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR |
                      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr = {reinterpret_cast<const sockaddr*>(&address_), BytesOf(address_)};
  // Transports that do not notice that the other side is gone are not taken.
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {OnError, this};
  const ucs_status_t status = ucx_.ep_create(worker_->handle(), &params, &endpoint_);
  if (status == UCS_OK) return Status();
  endpoint_ = nullptr;
  return UcxError(ucx_, Text("can't connect to port ", PortOf(address_)), status);
}

UcxConnection::~UcxConnection() { Close(); }

void UcxConnection::Close() {
  if (worker_ == nullptr) return;
  if (endpoint_ != nullptr) {
    const Deadline deadline = Deadline::AfterMs(kConnectMs);
    while (!heard_ && broken_.ok() && !deadline.Passed()) worker_->Progress();
    worker_->Close(endpoint_);
  }
  worker_ = nullptr;  // and with it every read that has not come
  waiting_.clear();
  readings_.remove_if([](const Reading& each) { return !each.told; });
}

void UcxConnection::Read(RunInMemoryMessage run) {
  if (!broken_.ok()) return;
  waiting_.push_back(std::move(run));
  Begin();
}

Status UcxConnection::Enlarge(Slot& slot, int64_t pages) const {
  if (slot.pages != nullptr && slot.pages->pages() >= pages) return Status();
  slot.latents = nullptr;
  slot.index_keys = nullptr;
  KvShape shape = shape_;
  shape.layers = 1;
  try {
    slot.pages = std::make_unique<KvCache>(shape, pages);
  } catch (const StartError& error) {
    return Unavailable(error.what());
  }
  const int64_t tokens = pages * kPage;
  CAUSEWAY_ASSIGN_OR_RETURN(slot.latents, UcxRegion::Make(context_, slot.pages->LatentPage(0, 0),
                                                          tokens * shape.latent_bytes()));
  if (shape.index_bytes() == 0) return Status();
  CAUSEWAY_ASSIGN_OR_RETURN(slot.index_keys, UcxRegion::Make(context_, slot.pages->IndexPage(0, 0),
                                                             tokens * shape.index_bytes()));
  return Status();
}

void UcxConnection::Begin() {
  while (!waiting_.empty() && broken_.ok()) {
    const auto free =
        std::find_if(slots_.begin(), slots_.end(), [](const Slot& each) { return !each.used; });
    if (free == slots_.end()) return;
    if (endpoint_ == nullptr) {
      const Status connected = Connect();
      if (!connected.ok()) return Break(connected);
    }
    if (open() == 0) moved_at_ = Deadline::Clock::now();
    Reading& reading =
        readings_.emplace_back(Reading{.run = std::move(waiting_.front()), .id = next_id_++});
    waiting_.pop_front();
    reading.connection = this;
    reading.slot = static_cast<size_t>(free - slots_.begin());
    reading.left = PiecesOf(reading.run, shape_);
    free->used = true;
    const auto pages = static_cast<int64_t>(reading.run.pages.size());
    const Status status = Enlarge(*free, pages);
    if (!status.ok()) return Break(status);
    reading.begun.resize(static_cast<size_t>(2 * pages));
    reading.ask = FieldsOf(AskMessage{reading.id, reading.run});
    ucp_request_param_t params{};
    params.op_attr_mask =
        UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
    params.cb.send = OnAsked;
    params.user_data = &reading;
    params.flags = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER;
    void* const request = ucx_.am_send_nbx(endpoint_, kAskId, nullptr, 0, reading.ask.data(),
                                           reading.ask.size(), &params);
    if (UCS_PTR_IS_PTR(request)) {
      ++reading.left;
    } else if (UCS_PTR_STATUS(request) != UCS_OK) {
      reading.status = UCS_PTR_STATUS(request);
    }
  }
}

void UcxConnection::OnAsked(void* request, ucs_status_t status, void* user_data) {
  auto& reading = *static_cast<Reading*>(user_data);
  reading.connection->ucx_.request_free(request);
  reading.connection->Came(reading, status);
}

void UcxConnection::OnReceived(void* request, ucs_status_t status, size_t, void* user_data) {
  auto& reading = *static_cast<Reading*>(user_data);
  reading.connection->ucx_.request_free(request);
  reading.connection->Came(reading, status);
}

void UcxConnection::Came(Reading& reading, ucs_status_t status) {
  --reading.left;
  if (status != UCS_OK) {
    reading.status = status;
  } else {
    moved_at_ = Deadline::Clock::now();
  }
}

ucs_status_t UcxConnection::OnAnswer(void* connection, const void* header, size_t header_bytes,
                                     void* data, size_t bytes, const ucp_am_recv_param_t* param) {
  auto& self = *static_cast<UcxConnection*>(connection);
  const Status status = self.Take(std::string(static_cast<const char*>(header), header_bytes), data,
                                  static_cast<int64_t>(bytes), *param);
  if (!status.ok()) self.Break(status);
  return UCS_OK;  // what has not been taken is thrown away
}

Status UcxConnection::Take(const std::string& bytes_of_header, void* data, int64_t bytes,
                           const ucp_am_recv_param_t& param) {
  heard_ = true;
  AnswerHeader header;
  MessageReader reader(bytes_of_header);
  header.Visit(reader);
  const auto found = std::find_if(readings_.begin(), readings_.end(),
                                  [&](const Reading& each) { return each.id == header.id; });
  const bool index_keys = header.piece % 2 == 1;
  if (!reader.AllRead() || found == readings_.end() || found->told ||
      (index_keys && shape_.index_bytes() == 0) || header.piece >= found->begun.size() ||
      found->begun[header.piece]) {
    return InvalidArgument(Text("UCX: found keys of ask ", header.id, ", piece ", header.piece,
                                ", that were not asked for"));
  }
  const Slot& slot = slots_[found->slot];
  const iovec place =
      PieceAt(found->run.run, header.piece, *slot.pages, 0, static_cast<int32_t>(header.piece / 2));
  if (bytes != static_cast<int64_t>(place.iov_len)) {
    return InvalidArgument(Text("UCX: found ", bytes, " bytes of keys; expected ", place.iov_len));
  }
  found->begun[header.piece] = true;
  if ((param.recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0) {
    std::memcpy(place.iov_base, data, place.iov_len);
    Came(*found, UCS_OK);
    return Status();
  }
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.recv_am = OnReceived;
  params.user_data = &*found;
  SetRegion(params, index_keys ? *slot.index_keys : *slot.latents);
  void* const request =
      ucx_.am_recv_data_nbx(worker_->handle(), data, place.iov_base, place.iov_len, &params);
  if (!UCS_PTR_IS_PTR(request)) Came(*found, UCS_PTR_STATUS(request));
  return Status();
}

void UcxConnection::OnError(void* connection, ucp_ep_h, ucs_status_t status) {
  auto& self = *static_cast<UcxConnection*>(connection);
  self.Break(UcxError(self.ucx_, "the connection broke", status));
}

void UcxConnection::Break(Status why) {
  if (broken_.ok()) broken_ = std::move(why);
}

UcxConnection::Reading* UcxConnection::Arrived() {
  for (Reading& each : readings_) {
    if (each.told || each.left > 0 || each.status != UCS_OK) continue;
    each.told = true;
    return &each;
  }
  return nullptr;
}

void UcxConnection::Release(Reading* reading) {
  slots_[reading->slot].used = false;
  readings_.remove_if([reading](const Reading& each) { return &each == reading; });
  if (worker_ != nullptr) Begin();
}

bool UcxConnection::lent() const {
  return std::any_of(readings_.begin(), readings_.end(),
                     [](const Reading& each) { return each.told; });
}

int64_t UcxConnection::open() const {
  int64_t open = 0;
  for (const Reading& each : readings_) open += each.left;
  return open;
}

const Status& UcxConnection::Check() {
  for (const Reading& each : readings_) {
    if (each.status != UCS_OK) Break(UcxError(ucx_, "a read failed", each.status));
  }
  if (open() > 0 && Deadline::At(moved_at_, deadline_ms_).Passed()) {
    Break(DeadlineExceeded(
        Text("UCX: of ", open(), " pieces of keys none has come for ", deadline_ms_, " ms")));
  }
  return broken_;
}

int64_t UcxConnection::MsLeft() const {
  return open() > 0 ? Deadline::At(moved_at_, deadline_ms_).RemainingMs() + 1 : kLongMs;
}

}  // namespace causeway
