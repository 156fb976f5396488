#include "transfer/ucx_worker.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "base/deadline.h"

namespace causeway {
namespace {

constexpr int kTurnsOfProgress = 64;  // before tasks have their turn
constexpr int64_t kCloseMs = 200;     // of what needs no word of the other side
constexpr int kMostUnarmed = 16;
constexpr int64_t kUnarmedWaitMs = 1;
constexpr int64_t kLongestWaitMs = 3'600'000;

// Blocks all signals on this thread, and on those that it starts, while it lives.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

// ---- What UCX gives out

StatusOr<std::unique_ptr<UcxContext>> UcxContext::Make() {
  CAUSEWAY_ASSIGN_OR_RETURN(const UcxApi* const ucx, LoadUcx());
  const NoSignals no_signals;
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucx->config_read(nullptr, nullptr, &config);
  if (status != UCS_OK) return UcxError(*ucx, "can't read UCX_... variables", status);
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.mt_workers_shared = 1;
  ucp_context_h handle = nullptr;
  status = ucx->init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, &handle);
  ucx->config_release(config);
  if (status != UCS_OK) return UcxError(*ucx, "can't find a transport (UCX_TLS?)", status);
  return std::unique_ptr<UcxContext>(new UcxContext(*ucx, handle));
}

UcxContext::~UcxContext() { ucx_.cleanup(handle_); }

StatusOr<std::unique_ptr<UcxRegion>> UcxRegion::Make(const UcxContext& context, void* data,
                                                     int64_t bytes) {
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
  params.address = data;
  params.length = static_cast<size_t>(bytes);
  ucp_mem_h handle = nullptr;
  const ucs_status_t status = context.ucx().mem_map(context.handle(), &params, &handle);
  if (status != UCS_OK) {
    return UcxError(context.ucx(), Text("can't register ", bytes, " bytes (ulimit -l?)"), status);
  }
  return std::unique_ptr<UcxRegion>(new UcxRegion(context, handle));
}

UcxRegion::~UcxRegion() { context_.ucx().mem_unmap(context_.handle(), handle_); }

void SetRegion(ucp_request_param_t& params, const UcxRegion& region) {
#if UCP_API_VERSION >= UCP_VERSION(1, 13)
  params.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
  params.memh = region.handle();
#else
  static_cast<void>(params);  // it finds out by itself
  static_cast<void>(region);
#endif
}

StatusOr<std::unique_ptr<UcxWorker>> UcxWorker::Make(const UcxContext& context) {
  const NoSignals no_signals;
  const UcxApi& ucx = context.ucx();
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  ucp_worker_h handle = nullptr;
  ucs_status_t status = ucx.worker_create(context.handle(), &params, &handle);
  if (status != UCS_OK) return UcxError(ucx, "can't make a worker", status);
  std::unique_ptr<UcxWorker> worker(new UcxWorker(context, handle));
  status = ucx.worker_get_efd(handle, &worker->fd_);
  if (status != UCS_OK) return UcxError(ucx, "a worker can't be waited for", status);
  return worker;
}

UcxWorker::~UcxWorker() { context_.ucx().worker_destroy(handle_); }

Status UcxWorker::Handle(unsigned id, ucp_am_recv_callback_t handler, void* argument) {
  ucp_am_handler_param_t params{};
  params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG | UCP_AM_HANDLER_PARAM_FIELD_FLAGS;
  params.id = id;
  params.cb = handler;
  params.arg = argument;
  params.flags = UCP_AM_FLAG_WHOLE_MSG;
  const ucs_status_t status = context_.ucx().worker_set_am_recv_handler(handle_, &params);
  return status == UCS_OK ? Status() : UcxError(context_.ucx(), "can't take messages", status);
}

void UcxWorker::Close(ucp_ep_h endpoint) {
  const UcxApi& ucx = context_.ucx();
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  void* const request = ucx.ep_close_nbx(endpoint, &params);
  if (!UCS_PTR_IS_PTR(request)) return;
  const Deadline deadline = Deadline::AfterMs(kCloseMs);
  while (ucx.request_check_status(request) == UCS_INPROGRESS && !deadline.Passed()) Progress();
  ucx.request_free(request);
}

// ---- The thread

UcxThread::UcxThread(std::function<int64_t()> tick)
    : tick_(std::move(tick)), wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  CHECK(wake_.fd() >= 0, errno);
  const NoSignals no_signals;
  thread_ = std::thread([this] { Run(); });
}

void UcxThread::Stop() {
  stop_ = true;
  Wake();
  if (thread_.joinable()) thread_.join();
}

void UcxThread::Wake() const {
  const uint64_t one = 1;
  // It can fail only where the counter is full, and so readable anyway.
  [[maybe_unused]] const ssize_t written = write(wake_.fd(), &one, sizeof one);
}

void UcxThread::Post(Task task) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = inbox_.empty();
    inbox_.push_back(std::move(task));
  }
  if (first) Wake();
}

bool UcxThread::RunTasks() {
  std::vector<Task> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(inbox_);
  }
  for (const Task& task : tasks) task();
  return !tasks.empty();
}

bool UcxThread::Progress() {
  bool any = false;
  for (UcxWorker* const worker : workers_) {
    for (int turn = 0; turn < kTurnsOfProgress && worker->Progress(); ++turn) any = true;
  }
  return any;
}

void UcxThread::Sleep(int64_t ms) {
  const bool armed =
      std::all_of(workers_.begin(), workers_.end(), [](UcxWorker* each) { return each->Arm(); });
  unarmed_ = armed ? 0 : unarmed_ + 1;
  if (!armed && unarmed_ < kMostUnarmed) return;
  // A worker that does nothing and is never ready to sleep: it waits for a peer that has no event
  // for that, perhaps one that is gone.
  if (!armed) ms = std::min(ms, kUnarmedWaitMs);
  std::vector<pollfd> polled = {{wake_.fd(), POLLIN, 0}};
  for (const UcxWorker* const worker : workers_) polled.push_back({worker->fd(), POLLIN, 0});
  poll(polled.data(), polled.size(), static_cast<int>(std::min(ms, kLongestWaitMs)));
  if (polled[0].revents == 0) return;
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = read(wake_.fd(), &count, sizeof count);
}

void UcxThread::Run() {
  while (!stop_) {
    bool busy = RunTasks();
    busy |= Progress();
    const int64_t wait_ms = tick_();
    if (busy || wait_ms <= 0) {
      unarmed_ = 0;
      continue;
    }
    Sleep(wait_ms);
  }
  RunTasks();
}

}  // namespace causeway
