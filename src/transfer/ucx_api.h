// The functions of UCX (libucp) that transfers use.
//
// The library is not linked but loaded when a server first wants it: loaded at the program's start,
// it would put its handlers in the place of ours for signals and of libc's sigaction in every
// command, and a machine without it could not start any.
#pragma once

#include <ucp/api/ucp.h>
#include <uct/api/uct.h>

#include <cstdint>
#include <string>

#include "base/status.h"

namespace causeway {

struct UcxApi {
  // Each by its name without ucp_, and uct_.
  decltype(&::ucp_get_version) get_version;
  decltype(&::ucp_config_read) config_read;
  decltype(&::ucp_config_release) config_release;
  decltype(&::ucp_init_version) init_version;
  decltype(&::ucp_cleanup) cleanup;
  decltype(&::ucp_mem_map) mem_map;
  decltype(&::ucp_mem_unmap) mem_unmap;
  decltype(&::ucp_worker_create) worker_create;
  decltype(&::ucp_worker_destroy) worker_destroy;
  decltype(&::ucp_worker_get_efd) worker_get_efd;
  decltype(&::ucp_worker_arm) worker_arm;
  decltype(&::ucp_worker_progress) worker_progress;
  decltype(&::ucp_listener_create) listener_create;
  decltype(&::ucp_listener_query) listener_query;
  decltype(&::ucp_listener_reject) listener_reject;
  decltype(&::ucp_listener_destroy) listener_destroy;
  decltype(&::ucp_worker_set_am_recv_handler) worker_set_am_recv_handler;
  decltype(&::ucp_am_send_nbx) am_send_nbx;
  decltype(&::ucp_am_recv_data_nbx) am_recv_data_nbx;
  decltype(&::ucp_ep_create) ep_create;
  decltype(&::ucp_ep_close_nbx) ep_close_nbx;
  decltype(&::ucp_request_check_status) request_check_status;
  decltype(&::ucp_request_free) request_free;
  decltype(&::ucs_status_string) status_string;
  decltype(&::uct_query_components) query_components;
  decltype(&::uct_release_component_list) release_component_list;
  decltype(&::uct_component_query) component_query;

  uint32_t version = 0;  // major << 16 | minor
};

// Loads the library once, and keeps it. While a server starts: it sets variables of the
// environment, those of UCX that the user has not set.
StatusOr<const UcxApi*> LoadUcx();

// Whether UCX finds a device for RDMA on this host.
bool FindsRdma(const UcxApi& ucx);

// "UCX: cannot map memory: Input/output error".
Status UcxError(const UcxApi& ucx, const std::string& what, ucs_status_t status);

}  // namespace causeway
