#include "transfer/ucx_api.h"

#include <dlfcn.h>

#include <cstdlib>

namespace causeway {
namespace {

template <typename Function>
bool Resolve(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  return function != nullptr;
}

// What UCX does by default and a server can't have. Each holds unless the user has set it.
constexpr struct {
  const char* name;
  const char* value;
} kDefaults[] = {
    {"UCX_HANDLE_ERRORS", "none"},  // no handlers of its own for SIGSEGV and the like
    {"UCX_DEBUG_SIGNO", "0"},       // nor for SIGHUP
    // All that it reports as errors, a peer that is gone among them, comes back as a status too.
    {"UCX_LOG_LEVEL", "fatal"},
    // Hooks in mmap and malloc, for registrations that are made in passing: ours are explicit.
    {"UCX_MEM_EVENTS", "n"},
    {"UCX_VFS_ENABLE", "n"},            // no thread for a file system of its state
    {"UCX_WARN_UNUSED_ENV_VARS", "n"},  // not every version has all of these
};

StatusOr<UcxApi> Load() {
  for (const auto& each : kDefaults) setenv(each.name, each.value, /*replace=*/0);
  // Local: its own sigaction and signal must not be found in the place of libc's.
  void* const library = dlopen("libucp.so.0", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    return Unavailable(Text("can't load UCX (the package libucx0): ", dlerror()));
  }
  UcxApi ucx{};
  const bool all =
      Resolve(library, "ucp_get_version", ucx.get_version) &&
      Resolve(library, "ucp_config_read", ucx.config_read) &&
      Resolve(library, "ucp_config_release", ucx.config_release) &&
      Resolve(library, "ucp_init_version", ucx.init_version) &&
      Resolve(library, "ucp_cleanup", ucx.cleanup) &&
      Resolve(library, "ucp_mem_map", ucx.mem_map) &&
      Resolve(library, "ucp_mem_unmap", ucx.mem_unmap) &&
      Resolve(library, "ucp_worker_create", ucx.worker_create) &&
      Resolve(library, "ucp_worker_destroy", ucx.worker_destroy) &&
      Resolve(library, "ucp_worker_get_efd", ucx.worker_get_efd) &&
      Resolve(library, "ucp_worker_arm", ucx.worker_arm) &&
      Resolve(library, "ucp_worker_progress", ucx.worker_progress) &&
      Resolve(library, "ucp_listener_create", ucx.listener_create) &&
      Resolve(library, "ucp_listener_query", ucx.listener_query) &&
      Resolve(library, "ucp_listener_reject", ucx.listener_reject) &&
      Resolve(library, "ucp_listener_destroy", ucx.listener_destroy) &&
      Resolve(library, "ucp_worker_set_am_recv_handler", ucx.worker_set_am_recv_handler) &&
      Resolve(library, "ucp_am_send_nbx", ucx.am_send_nbx) &&
      Resolve(library, "ucp_am_recv_data_nbx", ucx.am_recv_data_nbx) &&
      Resolve(library, "ucp_ep_create", ucx.ep_create) &&
      Resolve(library, "ucp_ep_close_nbx", ucx.ep_close_nbx) &&
      Resolve(library, "ucp_request_check_status", ucx.request_check_status) &&
      Resolve(library, "ucp_request_free", ucx.request_free) &&
      Resolve(library, "ucs_status_string", ucx.status_string) &&
      Resolve(library, "uct_query_components", ucx.query_components) &&
      Resolve(library, "uct_release_component_list", ucx.release_component_list) &&
      Resolve(library, "uct_component_query", ucx.component_query);
  if (!all) return Unavailable(Text("libucp.so.0 is not as this build expects it: ", dlerror()));
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  ucx.get_version(&major, &minor, &release);
  ucx.version = major << 16 | minor;
  return ucx;
}

}  // namespace

StatusOr<const UcxApi*> LoadUcx() {
  static const StatusOr<UcxApi> loaded = Load();
  if (!loaded.ok()) return loaded.status();
  return &*loaded;
}

bool FindsRdma(const UcxApi& ucx) {
  uct_component_h* components = nullptr;
  unsigned count = 0;
  if (ucx.query_components(&components, &count) != UCS_OK) return false;
  bool found = false;
  for (unsigned i = 0; i < count && !found; ++i) {
    uct_component_attr_t attributes{};
    attributes.field_mask =
        UCT_COMPONENT_ATTR_FIELD_NAME | UCT_COMPONENT_ATTR_FIELD_MD_RESOURCE_COUNT;
    found = ucx.component_query(components[i], &attributes) == UCS_OK &&
            std::string(attributes.name) == "ib" && attributes.md_resource_count > 0;
  }
  ucx.release_component_list(components);
  return found;
}

Status UcxError(const UcxApi& ucx, const std::string& what, ucs_status_t status) {
  return Unavailable(Text("UCX: ", what, ": ", ucx.status_string(status)));
}

}  // namespace causeway
