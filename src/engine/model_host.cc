// What can be checked without reading weights comes first: a wrong flag is an error within a
// moment, not after minutes of loading.
#include "engine/model_host.h"

#include <algorithm>
#include <bit>

#include "kernels/cpu/isa.h"
#include "model/weight_sizes.h"
#include "parallel/gloo_communicator.h"

namespace causeway {
namespace {

// Without flags: enough for a 64K prompt and its answer.
constexpr int64_t kDefaultContext = 65536 + 4096;

// What all hosts must agree on: everything that shapes a step or its bits.
std::string Agreement(const HostOptions& options, const ModelConfig& config,
                      const ModelHost& host) {
  return Text("layout ", options.ranks.layout.ToString(), "; kernels ", host.ops().name, "; dtype ",
              NameOf(options.dtype), "; KV cache ", NameOf(host.cache().shape().latent_type()),
              "; index keys ", NameOf(host.cache().shape().index_type()), "; context ",
              host.context_length(), "; pages ",
              options.max_total_tokens > 0 ? Text(host.cache().pages())
              : options.mem_fraction_static > 0
                  ? Text("by --mem-fraction-static ", options.mem_fraction_static)
                  : Text("automatic"),
              "; model ", config.model_type, " ", config.num_hidden_layers, "x", config.hidden_size,
              " vocabulary ", config.vocab_size, " experts ", config.n_routed_experts,
              " redundant ", options.redundant.per_layer);
}

StatusOr<std::unique_ptr<Communicator>> MeetHosts(const HostOptions& options,
                                                  const ModelConfig& config,
                                                  const ModelHost& host) {
  GlooOptions gloo;
  gloo.rank = options.ranks.host;
  gloo.size = options.ranks.layout.hosts;
  gloo.init_addr = options.dist_init_addr;
  gloo.token = options.dist_token;
  gloo.interface = options.dist_interface;
  gloo.timeout_ms = options.dist_timeout_ms;
  gloo.rendezvous_timeout_ms = options.dist_rendezvous_timeout_ms;
  gloo.noun = "host";
  gloo.config = Agreement(options, config, host);
  return MakeGlooCommunicator(gloo);
}

// The fewest pages that a host has: memory differs a little between machines.
StatusOr<int64_t> FewestPages(Communicator& hosts, int64_t pages) {
  const auto size = static_cast<size_t>(hosts.size());
  std::vector<int64_t> all(size, pages);
  const std::vector<Outgoing> to(size, {&pages, sizeof(pages)});
  std::vector<Incoming> from;
  for (int64_t& of_host : all) from.push_back({&of_host, sizeof(of_host)});
  try {
    hosts.Exchange({"pages_exchange"}, to, from);
  } catch (const StepFailed& failure) {
    return Unavailable(failure.what());
  }
  return *std::min_element(all.begin(), all.end());
}

// Of the model's shape and some of its embeddings, which every format of its weights has as they
// are.
StatusOr<std::string> FingerprintOf(const Checkpoint& checkpoint, const ModelConfig& config) {
  constexpr int64_t kValues = 4096;
  CAUSEWAY_ASSIGN_OR_RETURN(
      const StoredTensor embedding,
      checkpoint.Find("model.embed_tokens.weight", {config.vocab_size, config.hidden_size}));
  const int64_t total = config.vocab_size * config.hidden_size;
  std::vector<float> values(static_cast<size_t>(std::min(total, kValues)));
  CopyToF32(embedding, 0, static_cast<int64_t>(values.size()), values.data());
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const float value : values) {
    hash = (hash ^ std::bit_cast<uint32_t>(value)) * 0x100000001b3;
  }
  return Text(config.model_type, " ", config.num_hidden_layers, " layers of ", config.hidden_size,
              ", ", config.num_attention_heads, " heads, vocabulary ", config.vocab_size,
              ", embeddings ", hash);
}

}  // namespace

StatusOr<std::vector<std::string>> ModelHost::ExchangeTexts(const std::string& mine) {
  constexpr int64_t kMost = 1 << 20;
  if (hosts_ == nullptr) return std::vector<std::string>{mine};
  const auto count = static_cast<size_t>(hosts_->size());
  const auto size = static_cast<int64_t>(mine.size());
  CHECK(size <= kMost, size);
  std::vector<int64_t> sizes(count, size);
  std::vector<std::string> texts(count);
  std::vector<Outgoing> to(count, {&size, sizeof(size)});
  std::vector<Incoming> from;
  for (int64_t& of_host : sizes) from.push_back({&of_host, sizeof(of_host)});
  try {
    hosts_->Exchange({"texts_sizes"}, to, from);
    for (size_t host = 0; host < count; ++host) {
      if (sizes[host] < 0 || sizes[host] > kMost) {
        return InternalError(Text("host ", host, " has a text of ", sizes[host], " bytes"));
      }
      texts[host].resize(static_cast<size_t>(sizes[host]));
      to[host] = {mine.data(), size};
      from[host] = {texts[host].data(), sizes[host]};
    }
    hosts_->Exchange({"texts"}, to, from);
  } catch (const StepFailed& failure) {
    return Unavailable(failure.what());
  }
  texts[static_cast<size_t>(hosts_->rank())] = mine;
  return texts;
}

StatusOr<std::unique_ptr<ModelHost>> ModelHost::Load(const HostOptions& options) {
  const int64_t begin_ns = NowNs();
  std::unique_ptr<ModelHost> host(new ModelHost);
  CAUSEWAY_ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Load(options.model_path));
  CAUSEWAY_ASSIGN_OR_RETURN(host->ops_, ChooseTable(options.isa));
  const int64_t longest = config.max_position_embeddings;
  // The model was not made for longer ones.
  if (options.context_length > longest) {
    return InvalidArgument(Text("--context-length ", options.context_length,
                                " is more than max_position_embeddings ", longest, " of ",
                                options.model_path, "/config.json"));
  }
  host->context_length_ =
      options.context_length > 0 ? options.context_length : std::min(longest, kDefaultContext);
  const int64_t total =
      options.max_total_tokens > 0 ? options.max_total_tokens : host->context_length_;

  if (options.int8_kv && options.dtype != DType::kBf16) {
    return InvalidArgument(
        Text("--kv-cache-dtype int8 needs --dtype bfloat16, found ", NameOf(options.dtype)));
  }
  if (options.int8_index && config.index_head_dim % 4 != 0) {
    return InvalidArgument(Text("--index-cache-dtype int8 needs an index_head_dim that 4 divides; ",
                                options.model_path, "/config.json has ", config.index_head_dim));
  }

  const Layout& layout = options.ranks.layout;
  // Before the tensors are read, as this host's share of them follows from the layout.
  CAUSEWAY_RETURN_IF_ERROR(CheckLayout(config, options.dtype, layout));
  if (layout.hosts > 1 && options.dist_init_addr.empty()) {
    return InvalidArgument(
        Text("--nnodes ", layout.hosts, " needs --dist-init-addr HOST:PORT, an address of host 0"));
  }
  CAUSEWAY_RETURN_IF_ERROR(options.redundant.Check(config, layout));
  CAUSEWAY_ASSIGN_OR_RETURN(auto checkpoint, Checkpoint::Open(options.model_path));
  const WeightShare share = WeightShare::Of(config, layout, options.ranks.host, options.redundant);
  const KvShape shape{.layers = config.num_hidden_layers,
                      .latent_dim = config.latent_dim(),
                      .index_dim = config.index_head_dim,
                      .type = options.dtype,
                      .int8_index = options.int8_index,
                      .int8_kv = options.int8_kv};
  int64_t pages = (total + kPage - 1) / kPage;
  const bool by_memory = options.max_total_tokens <= 0;
  if (by_memory || options.mem_fraction_static > 0) {
    CAUSEWAY_ASSIGN_OR_RETURN(const MemoryLimit limit, FindMemoryLimit());
    CAUSEWAY_ASSIGN_OR_RETURN(const WeightSizes sizes,
                              WeightSizes::Of(*checkpoint, config, options.dtype));
    const bool automatic = options.mem_fraction_static <= 0;
    host->memory_ =
        MemoryBudget{.limit = limit,
                     .fraction = automatic ? kAutomaticMemoryFraction : options.mem_fraction_static,
                     .weight_bytes = sizes.BytesOf(share).total(),
                     .page_bytes = kPage * shape.BytesPerToken()};
    if (by_memory) {
      CAUSEWAY_ASSIGN_OR_RETURN(
          pages, automatic ? PagesWithin(*host->memory_, pages) : PagesWithin(*host->memory_));
    } else {
      CAUSEWAY_RETURN_IF_ERROR(CheckPagesFit(*host->memory_, pages));
    }
  }
  CAUSEWAY_ASSIGN_OR_RETURN(host->fingerprint_, FingerprintOf(*checkpoint, config));
  const int threads = layout.ranks_per_host() * layout.threads_per_rank;
  CAUSEWAY_ASSIGN_OR_RETURN(
      host->weights_, Weights::Load(std::move(checkpoint), config, options.dtype, share, threads,
                                    options.progress));
  host->cache_ = std::make_unique<KvCache>(shape, pages, options.kv_memory);
  host->rope_ = std::make_unique<RopeTable>(config, host->context_length_);
  host->options_ = options.ranks;
  host->options_.ops = host->ops_;
  // Last, when this host is ready: the others wait for the slowest to load.
  if (layout.hosts > 1) {
    CAUSEWAY_ASSIGN_OR_RETURN(host->hosts_, MeetHosts(options, config, *host));
    host->options_.hosts = host->hosts_.get();
    if (by_memory) {
      CAUSEWAY_ASSIGN_OR_RETURN(pages, FewestPages(*host->hosts_, pages));
    }
  }
  host->pages_ = std::make_unique<PagePool>(pages);
  if (options.before_ranks) CAUSEWAY_RETURN_IF_ERROR(options.before_ranks(*host));
  host->ranks_ =
      std::make_unique<RankGroup>(*host->weights_, *host->cache_, *host->rope_, host->options_);
  host->load_seconds_ = static_cast<double>(NowNs() - begin_ns) * 1e-9;
  return host;
}

void ModelHost::SetLayout(const Layout& layout) {
  CHECK(hosts_ == nullptr, "the layout of several hosts is fixed");
  ranks_.reset();  // its threads and pins first
  options_.layout = layout;
  ranks_ = std::make_unique<RankGroup>(*weights_, *cache_, *rope_, options_);
}

StatusOr<std::unique_ptr<SequenceRun>> SequenceRun::Make(ModelHost& host, int64_t tokens) {
  if (tokens > host.context_length()) {
    return InvalidArgument(Text("a sequence of ", tokens, " tokens exceeds the context length of ",
                                host.context_length(), " (--context-length)"));
  }
  std::unique_ptr<SequenceRun> run(new SequenceRun(host));
  CAUSEWAY_RETURN_IF_ERROR(host.pages().Allocate((tokens + kPage - 1) / kPage, run->pages_));
  return run;
}

SequenceRun::~SequenceRun() { host_.pages().Free(pages_); }

Status SequenceRun::Step(std::vector<int32_t> tokens, bool decode, LogitsWanted wanted,
                         std::vector<float>& logits, Capture* capture) {
  Batch batch;
  batch.extends.push_back({.tokens = std::move(tokens),
                           .begin = length_,
                           .decode = decode,
                           .pages = pages_,
                           .logits = wanted});
  const int64_t end = batch.extends[0].end();
  // The pages were taken for the length that Make was given.
  if (end > static_cast<int64_t>(pages_.size()) * kPage) {
    return InvalidArgument(Text("the sequence outgrows its ", pages_.size(), " pages"));
  }
  StepOutput output(host_.config(), host_.weights().mode(), batch, capture);
  CAUSEWAY_RETURN_IF_ERROR(host_.ranks().RunStep(batch, output));
  length_ = end;
  const float* rows = output.logits().data();
  logits.insert(logits.end(), rows, rows + output.logits().size());
  return Status();
}

Status SequenceRun::Prefill(const std::vector<int32_t>& tokens, int64_t chunk, LogitsWanted wanted,
                            std::vector<float>& logits, Capture* capture) {
  const auto total = static_cast<int64_t>(tokens.size());
  if (chunk <= 0) chunk = total;
  for (int64_t begin = 0; begin < total; begin += chunk) {
    const int64_t end = std::min(total, begin + chunk);
    LogitsWanted now = wanted;
    // Only the last chunk ends the prompt.
    if (wanted == LogitsWanted::kLast && end < total) now = LogitsWanted::kNone;
    CAUSEWAY_RETURN_IF_ERROR(Step({tokens.begin() + begin, tokens.begin() + end},
                                  /*decode=*/false, now, logits, capture));
  }
  return Status();
}

Status SequenceRun::Decode(int32_t token, std::vector<float>& logits) {
  logits.clear();
  return Step({token}, /*decode=*/true, LogitsWanted::kLast, logits, nullptr);
}

}  // namespace causeway
