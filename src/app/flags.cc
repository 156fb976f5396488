// Flags become typed options in one place, ToHostOptions, which checks what CLI11's ranges can't:
// names, and sizes that must fit each other.
#include "app/flags.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "app/expert_load.h"
#include "app/slurm.h"

namespace causeway {

void ModelFlags::Register(CLI::App& app, bool model_required) {
  auto* path =
      app.add_option("--model-path,--model", model_path, "Checkpoint directory as on Hugging Face");
  if (model_required) path->required();
  app.add_option("--dtype", dtype,
                 "Numeric mode: bfloat16 (fast; auto means this) or float32 (exact, for checking)")
      ->check(CLI::IsMember({"auto", "bfloat16", "float32"}))
      ->capture_default_str();
  RegisterCacheDtypes(app);
  app.add_option("--tp,--tp-size,--tensor-parallel-size", tp,
                 "World size: ranks in all; attention TP = tp / (cp * dp). 0: cp * dp")
      ->capture_default_str();
  app.add_option("--cp-size,--context-parallel-size,--attn-cp-size", cp_size,
                 "Context-parallel ranks: they split the tokens of a prefill")
      ->capture_default_str();
  app.add_option("--dp-size,--dp,--data-parallel-size", dp_size,
                 "Data-parallel groups: each sequence is computed by one of them")
      ->capture_default_str();
  app.add_option("--ep-size,--ep,--expert-parallel-size", ep_size,
                 "Ranks that split the experts; 0: automatic")
      ->capture_default_str();
  app.add_option(
         "--moe-a2a-backend", moe_a2a_backend,
         "How tokens reach the ranks of their experts where --ep-size is above 1: allgather "
         "(none means this) or alltoall (deepep is the same)")
      ->capture_default_str();
  app.add_option("--deepep-mode", deepep_mode,
                 "Accepted for compatibility, without effect: one mode serves prefill and decode")
      ->check(CLI::IsMember({"auto", "normal", "low_latency"}))
      ->capture_default_str();
  app.add_option(
         "--nnodes", nnodes,
         "Hosts: the same command runs on each, with its own --node-rank. Under srun with one "
         "task a node, taken from Slurm's environment where --dist-init-addr is not given")
      ->capture_default_str();
  app.add_option("--node-rank", node_rank, "This host among them, from 0")->capture_default_str();
  app.add_option("--dist-init-addr", dist_init_addr,
                 "HOST:PORT of host 0, where the hosts meet; the environment's CAUSEWAY_DIST_TOKEN "
                 "keeps strangers out; default: none, one host");
  app.add_option("--dist-interface", dist_interface,
                 "Network between hosts: an interface or this host's address in it; default: the "
                 "one that leads to --dist-init-addr");
  app.add_option("--dist-timeout", dist_timeout,
                 "Seconds after which an exchange between hosts fails")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--ep-num-redundant-experts", ep_num_redundant_experts,
                 "Experts of each layer, the hottest, that a second part of the experts holds too")
      ->capture_default_str();
  app.add_option("--init-expert-location", init_expert_location,
                 "Which experts are the hottest: a file of bench prefill --expert-load-output, or "
                 "trivial: the first")
      ->capture_default_str();
  app.add_option("--dist-rendezvous-timeout", dist_rendezvous_timeout,
                 "Seconds for all hosts to load their weights and meet")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--threads-per-rank", threads_per_rank, "CPU threads of each rank")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--cp-partition", cp_partition, "contiguous, zigzag or balanced")
      ->capture_default_str();
  app.add_option("--chunked-prefill-size", chunked_prefill_size,
                 "Prompt tokens of one step, over all data-parallel groups; -1: the whole prompt")
      ->capture_default_str();
  app.add_option(
         "--context-length", context_length,
         "Longest sequence, prompt and answer, in tokens; 0: 69632 or what the model allows")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--max-total-tokens", max_total_tokens,
                 "KV cache of all sequences, in tokens; 0: the context length")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--isa", isa, "Instruction set of the kernels; auto: the fastest here")
      ->capture_default_str();
  app.add_option("--watchdog-timeout", watchdog_timeout,
                 "Seconds after which a step that has not ended ends the process")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--trace", trace,
                 "Write a Chrome/Perfetto trace with a lane per rank here; default: none");
}

void ModelFlags::RegisterCacheDtypes(CLI::App& app) {
  app.add_option(
         "--kv-cache-dtype", kv_cache_dtype,
         "Latents in the cache: bfloat16 (bf16 is the same), int8 (half the memory, rounded "
         "further) or auto: as --dtype")
      ->check(CLI::IsMember({"auto", "bfloat16", "bf16", "int8"}))
      ->capture_default_str();
  app.add_option("--index-cache-dtype", index_cache_dtype,
                 "Indexer keys in the cache: bfloat16, int8 (half the memory, faster, a slightly "
                 "different selection) or auto: as --dtype")
      ->check(CLI::IsMember({"auto", "bfloat16", "int8"}))
      ->capture_default_str();
}

namespace {

struct HostFlags {
  int nnodes = 1;
  int node_rank = 0;
  std::string init_addr;
};

bool IsLoopback(const std::string& address) {
  return address.starts_with("127.") || address.starts_with("localhost:") ||
         address.starts_with("[::1]");
}

// Of the environment; empty where there is none.
std::string Variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? "" : value;
}

// --nnodes and its companions, or what srun says of a step with one task a node.
StatusOr<HostFlags> HostsOf(const ModelFlags& flags) {
  HostFlags out{flags.nnodes, flags.node_rank, flags.dist_init_addr};
  // Explicit flags win over the environment.
  if (flags.dist_init_addr.empty() && flags.nnodes == 1) {
    CAUSEWAY_ASSIGN_OR_RETURN(const std::optional<SlurmStep> step, SlurmStepOf(&Variable));
    if (step.has_value()) out = {step->nodes, step->node, step->init_addr};
  }
  if (out.nnodes < 1) return InvalidArgument(Text("--nnodes is ", out.nnodes, "; at least 1"));
  if (out.node_rank < 0 || out.node_rank >= out.nnodes) {
    return InvalidArgument(Text("--node-rank is ", out.node_rank, "; with --nnodes ", out.nnodes,
                                " it must be 0 to ", out.nnodes - 1));
  }
  return out;
}

}  // namespace

StatusOr<HostOptions> ModelFlags::ToHostOptions() const {
  HostOptions out;
  CAUSEWAY_ASSIGN_OR_RETURN(const PartitionKind partition, ParsePartitionKind(cp_partition));
  CAUSEWAY_ASSIGN_OR_RETURN(const HostFlags hosts, HostsOf(*this));
  CAUSEWAY_ASSIGN_OR_RETURN(const MoeA2a moe_a2a, ParseMoeA2a(moe_a2a_backend));
  CAUSEWAY_ASSIGN_OR_RETURN(out.ranks.layout, Layout::Make({.world = tp,
                                                            .cp = cp_size,
                                                            .dp = dp_size,
                                                            .ep = ep_size,
                                                            .hosts = hosts.nnodes,
                                                            .threads_per_rank = threads_per_rank,
                                                            .partition = partition,
                                                            .moe_a2a = moe_a2a}));
  out.ranks.host = hosts.node_rank;
  out.dist_init_addr = hosts.init_addr;
  out.dist_interface = dist_interface;
  out.dist_timeout_ms = dist_timeout * 1000;
  out.dist_rendezvous_timeout_ms = dist_rendezvous_timeout * 1000;
  // From the environment: a command line can be read by everybody on the machine.
  out.dist_token = Variable("CAUSEWAY_DIST_TOKEN");
  // Hosts of a test on one machine would be pinned to the same cores.
  if (hosts.nnodes > 1 && IsLoopback(hosts.init_addr)) out.ranks.pin_threads = false;
  out.redundant.per_layer = ep_num_redundant_experts;
  if (init_expert_location != "trivial") {
    CAUSEWAY_ASSIGN_OR_RETURN(out.redundant.counts, ExpertLoad::ReadFile(init_expert_location));
  }
  out.model_path = model_path;
  out.dtype = dtype == "float32" ? DType::kF32 : DType::kBf16;
  out.int8_kv = kv_cache_dtype == "int8";
  if (kv_cache_dtype != "auto" && out.dtype != DType::kBf16) {
    return InvalidArgument(
        Text("--kv-cache-dtype ", kv_cache_dtype, " needs --dtype bfloat16, found ", dtype));
  }
  out.int8_index = index_cache_dtype == "int8";
  if (index_cache_dtype == "bfloat16" && out.dtype != DType::kBf16) {
    return InvalidArgument(
        Text("--index-cache-dtype bfloat16 needs --dtype bfloat16, found ", dtype));
  }
  out.isa = isa;
  out.context_length = context_length;
  out.max_total_tokens = max_total_tokens;
  out.ranks.keep_trace_events = !trace.empty();
  out.ranks.watchdog_timeout_ms = watchdog_timeout * 1000;
  // A rank may wait in a collective for as long as another computes, which the watchdog bounds.
  out.ranks.collective_timeout_ms = watchdog_timeout * 1000;
  out.progress = LoadingBar();
  return out;
}

void RegisterJson(CLI::App& app, bool& json) {
  app.add_flag("--json", json, "Print one JSON object instead of text");
}

LoadProgress LoadingBar() {
  // Not a terminal: logs get no bar.
  if (isatty(STDERR_FILENO) == 0) return {};
  struct Bar {
    std::mutex mutex;
    int shown = -1;
  };
  auto bar = std::make_shared<Bar>();
  return [bar](int64_t done, int64_t total) {
    // Loading threads report in any order.
    const std::lock_guard lock(bar->mutex);
    const int percent = total == 0 ? 100 : static_cast<int>(done * 100 / total);
    if (percent <= bar->shown) return;
    bar->shown = percent;
    std::fprintf(stderr, "\rloading weights [%-40.*s] %3d %%%s", percent * 40 / 100,
                 "########################################", percent, percent == 100 ? "\n" : "");
    std::fflush(stderr);
  };
}

Status WriteTraceFile(const std::string& path, RankGroup& ranks) {
  return path.empty() ? Status() : WriteTrace(path, ranks.lanes());
}

StatusOr<std::string> ReadTextFile(const char* flag, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound(Text(flag, ": can't read ", path, ": ", std::strerror(errno)));
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

StatusOr<std::vector<int32_t>> ReadTokensFile(const char* flag, const std::string& path) {
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(flag, path));
  // Parsing without exceptions: text that is no JSON is discarded, and no object.
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("tokens") || !json["tokens"].is_array()) {
    return InvalidArgument(Text(flag, ": ", path, ": expected {\"tokens\": [...]}"));
  }
  std::vector<int32_t> tokens;
  for (const auto& token : json["tokens"]) {
    if (!token.is_number_integer() || token < 0 || token > INT32_MAX) {
      return InvalidArgument(Text(flag, ": ", path, ": tokens[", tokens.size(), "] is ",
                                  token.dump(), "; expected a token id"));
    }
    tokens.push_back(token.get<int32_t>());
  }
  if (tokens.empty()) return InvalidArgument(Text(flag, ": ", path, ": tokens is empty"));
  return tokens;
}

}  // namespace causeway
