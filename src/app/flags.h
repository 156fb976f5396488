// The flags that commands share, spelled as SGLang spells them.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "base/status.h"
#include "engine/model_host.h"

namespace causeway {

// Which checkpoint, in which numeric mode, on which ranks.
struct ModelFlags {
  // How each flag is meant: flags.cc, in the help text that stands beside its name.
  std::string model_path;
  std::string dtype = "auto";
  std::string kv_cache_dtype = "auto";
  std::string index_cache_dtype = "auto";
  int tp = 0;  // world size; 0: cp_size * dp_size
  int cp_size = 1;
  int dp_size = 1;
  int ep_size = 0;  // 0: automatic
  std::string moe_a2a_backend = "none";
  std::string deepep_mode = "auto";
  int nnodes = 1;
  int node_rank = 0;
  std::string dist_init_addr;
  std::string dist_interface;
  // In seconds, as is the next.
  int64_t dist_timeout = 60;
  int64_t dist_rendezvous_timeout = 600;
  int64_t ep_num_redundant_experts = 0;
  std::string init_expert_location = "trivial";
  int threads_per_rank = 1;
  std::string cp_partition = "balanced";
  // In tokens, as are the next two; at most 0: the whole prompt in one step.
  int64_t chunked_prefill_size = 8192;
  int64_t context_length = 0;
  int64_t max_total_tokens = 0;
  std::string isa = "auto";
  // In seconds.
  int64_t watchdog_timeout = 300;
  // A path; empty: no trace.
  std::string trace;

  // `model_required`: --model-path must be given.
  // Adds all of them to `app`, with their present values as defaults.
  void Register(CLI::App& app, bool model_required = true);
  void RegisterCacheDtypes(CLI::App& app);
  // Checks what belongs together, reads Slurm's environment and files that flags name. Errors name
  // the flag.
  StatusOr<HostOptions> ToHostOptions() const;
};

// Adds --json; the command then prints one JSON object on stdout and nothing else.
void RegisterJson(CLI::App& app, bool& json);

// A progress bar on stderr while weights load, if stderr is a terminal; else nothing.
LoadProgress LoadingBar();

// Writes the host's trace to `path` if it is not empty.
Status WriteTraceFile(const std::string& path, RankGroup& ranks);

// {"tokens": [...]} -> ids; errors name flag and file.
StatusOr<std::vector<int32_t>> ReadTokensFile(const char* flag, const std::string& path);
// All bytes of a file; errors name flag and file.
StatusOr<std::string> ReadTextFile(const char* flag, const std::string& path);

}  // namespace causeway
