// Tensors are made one after another, each by all threads in blocks of 128 rows, and are written at
// once: what is held in memory is the largest tensor and one block of f32 rows a thread.
#include "checkpoint/random_model.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/buffer.h"
#include "base/thread_team.h"
#include "checkpoint/encode.h"
#include "checkpoint/json_fields.h"
#include "checkpoint/json_text.h"
#include "checkpoint/random_values.h"
#include "checkpoint/safetensors_header.h"
#include "checkpoint/writer.h"

namespace causeway {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kBlock = 128;  // of fp8 scales, and the rows that a thread makes at a time
constexpr int kMaxThreads = 16;
// As released: fp8 scales of V3.2 are powers of two, those of V3 are not.
constexpr const char* kPowerOfTwoScales = "deepseek_v32";
constexpr const char* kIndexName = "model.safetensors.index.json";

// A tensor of the model with what is stored of it.
struct Piece {
  TensorSpec spec;
  StoredType type;
  std::string scale_name;            // empty: not quantised
  std::vector<int64_t> scale_shape;  // F32

  int64_t bytes() const { return BytesOf(type, spec.shape); }
  int64_t scale_bytes() const {
    return scale_name.empty() ? 0 : BytesOf(StoredType::kF32, scale_shape);
  }
};

// Vectors that must be exact stay F32; matrices that may be quantised take the format's type; all
// else is BF16, or F32 where that is the format.
Piece MakePiece(TensorSpec spec, RandomFormat format) {
  Piece piece{
      .spec = std::move(spec), .type = StoredType::kBf16, .scale_name = {}, .scale_shape = {}};
  if (format == RandomFormat::kF32 || piece.spec.role == TensorRole::kExactVector) {
    piece.type = StoredType::kF32;
  } else if (piece.spec.role == TensorRole::kMatrix && format != RandomFormat::kBf16) {
    const int64_t n = piece.spec.shape[0];
    const int64_t k = piece.spec.shape[1];
    const bool fp8 = format == RandomFormat::kFp8;
    piece.type = fp8 ? StoredType::kF8E4m3 : StoredType::kI8;
    piece.scale_name = piece.spec.name + (fp8 ? "_scale_inv" : "_scale");
    piece.scale_shape = {n, 1};
    if (fp8) piece.scale_shape = {(n + kBlock - 1) / kBlock, (k + kBlock - 1) / kBlock};
  }
  return piece;
}

// Makes the bytes of one tensor after another, on all threads.
class Maker {
 public:
  Maker(uint64_t seed, const ModelConfig& config, bool power_of_two, const std::vector<Piece>& all)
      : seed_(seed),
        config_(config),
        power_of_two_(power_of_two),
        team_(std::clamp(static_cast<int>(AllowedCpus().size()), 1, kMaxThreads)) {
    // As large as the largest of each: one piece after another uses them.
    int64_t bytes = 0;
    int64_t scale_bytes = 0;
    int64_t columns = 0;
    for (const Piece& piece : all) {
      bytes = std::max(bytes, piece.bytes());
      scale_bytes = std::max(scale_bytes, piece.scale_bytes());
      columns = std::max(columns, piece.spec.shape.back());
    }
    bytes_ = Buffer(bytes);
    scales_ = Buffer(scale_bytes);
    rows_ = Buffer(team_.size() * kBlock * columns * 4);
    columns_ = columns;
  }

  const void* bytes() const { return bytes_.data(); }
  const void* scales() const { return scales_.data(); }

  // Leaves the piece in bytes() and scales().
  void Make(const Piece& piece) {
    const RandomValues values(seed_, piece.spec, config_);
    const int64_t k = piece.spec.shape.back();
    // A vector counts as one row.
    const int64_t n = piece.spec.shape.size() == 1 ? 1 : piece.spec.shape[0];
    team_.ParallelFor((n + kBlock - 1) / kBlock, [&](int64_t item, int worker) {
      const int64_t begin = item * kBlock;
      const int64_t rows = std::min(kBlock, n - begin);
      float* plain = rows_.as<float>() + worker * kBlock * columns_;
      values.Fill(begin * k, rows * k, plain);
      Encode(piece, begin, rows, k, plain);
    });
  }

 private:
  void Encode(const Piece& piece, int64_t begin, int64_t rows, int64_t k, const float* plain) {
    uint8_t* out = bytes_.as<uint8_t>() + begin * k * SizeOf(piece.type);
    float* scales = scales_.as<float>();
    if (piece.type == StoredType::kF8E4m3) {
      EncodeFp8Blocks(plain, rows, k, kBlock, power_of_two_, out,
                      scales + begin / kBlock * piece.scale_shape[1]);
    } else if (piece.type == StoredType::kI8) {
      for (int64_t row = 0; row < rows; ++row)
        scales[begin + row] =
            EncodeInt8Row(plain + row * k, k, reinterpret_cast<int8_t*>(out) + row * k);
    } else {
      EncodePlain(piece.type, plain, rows * k, out);
    }
  }

  const uint64_t seed_;
  const ModelConfig& config_;
  const bool power_of_two_;
  ThreadTeam team_;
  Buffer bytes_;   // of the largest piece
  Buffer scales_;  // of the piece with most scales
  Buffer rows_;    // [workers, kBlock, columns_]
  int64_t columns_ = 0;
};

// Files that disappear again unless they are kept.
class NewFiles {
 public:
  NewFiles() = default;
  NewFiles(const NewFiles&) = delete;
  NewFiles& operator=(const NewFiles&) = delete;
  ~NewFiles() {
    std::error_code ignored;
    for (const fs::path& path : paths_) fs::remove(path, ignored);
  }
  void Add(fs::path path) { paths_.push_back(std::move(path)); }
  void Keep() { paths_.clear(); }

 private:
  std::vector<fs::path> paths_;
};

Status PutText(const fs::path& path, const std::string& text, NewFiles& files) {
  // First under another name, so that a file that is there is whole.
  const fs::path partial = path.string() + ".partial";
  files.Add(partial);
  std::ofstream file(partial, std::ios::binary);
  file << text << '\n';
  file.close();
  std::error_code error;
  if (file) fs::rename(partial, path, error);
  if (!file || error) return Unavailable(Text(path.string(), ": can't write"));
  files.Add(path);
  return Status();
}

// The configuration as it will lie in the directory.
StatusOr<std::string> ConfigFor(const std::string& given, RandomFormat format) {
  const std::string source = "config.json";
  CAUSEWAY_ASSIGN_OR_RETURN(json config, ParseJsonObject(given, source));
  config.erase("quantization_config");
  config.erase("dtype");
  config["torch_dtype"] = format == RandomFormat::kF32 ? "float32" : "bfloat16";
  if (format == RandomFormat::kFp8) {
    json& quant = config["quantization_config"];
    quant = {{"quant_method", "fp8"},
             {"fmt", "e4m3"},
             {"activation_scheme", "dynamic"},
             {"weight_block_size", {kBlock, kBlock}}};
    if (config.value("model_type", json()) == kPowerOfTwoScales) quant["scale_fmt"] = "ue8m0";
  }
  if (format == RandomFormat::kInt8)
    config["quantization_config"] = {
        {"quant_method", "w8a8_int8"}, {"is_dynamic", true}, {"ignore", {"lm_head"}}};
  return config.dump(2);
}

// A directory that can take a model of `bytes` bytes.
Status PrepareDirectory(const fs::path& directory, int64_t bytes) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error || !fs::is_directory(directory, error))
    return InvalidArgument(Text(directory.string(), ": can't make this directory",
                                error ? ": " + error.message() : ""));
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    // Nothing is written into a directory that holds even a part of a model.
    const std::string name = entry->path().filename().string();
    if (name == "config.json" || name == kIndexName || name.ends_with(".safetensors"))
      return InvalidArgument(Text(directory.string(), ": holds ", name,
                                  " already; give --output a directory without a model"));
  }
  if (error) return InvalidArgument(Text(directory.string(), ": can't list: ", error.message()));
  const fs::space_info space = fs::space(directory, error);
  if (!error && space.available < static_cast<uint64_t>(bytes))
    return Unavailable(Text(directory.string(), ": the model needs ", bytes, " bytes, but only ",
                            space.available, " are free there"));
  return Status();
}

// Ends of runs of pieces that fit a shard each.
std::vector<size_t> CutShards(const std::vector<Piece>& pieces, int64_t shard_bytes) {
  std::vector<size_t> ends;
  int64_t used = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const int64_t bytes = pieces[i].bytes() + pieces[i].scale_bytes();
    // A tensor that is larger than a shard gets one of its own.
    if (used > 0 && used + bytes > shard_bytes) {
      ends.push_back(i);
      used = 0;
    }
    used += bytes;
  }
  ends.push_back(pieces.size());
  return ends;
}

std::string ShardName(size_t shard, size_t count) {
  if (count == 1) return "model.safetensors";
  std::array<char, 64> name;
  std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", shard + 1, count);
  return name.data();
}

}  // namespace

StatusOr<RandomFormat> ParseRandomFormat(const std::string& name) {
  if (name == "bf16") return RandomFormat::kBf16;
  if (name == "f32") return RandomFormat::kF32;
  if (name == "fp8") return RandomFormat::kFp8;
  if (name == "int8") return RandomFormat::kInt8;
  return InvalidArgument(Text("format: found ", Quoted(name), ", expected bf16, f32, fp8 or int8"));
}

Status WriteRandomModel(const std::string& config_json, const std::string& directory, uint64_t seed,
                        RandomFormat format,
                        const std::function<void(int64_t done, int64_t total)>& progress,
                        int64_t shard_bytes) {
  CAUSEWAY_ASSIGN_OR_RETURN(const std::string config_text, ConfigFor(config_json, format));
  CAUSEWAY_ASSIGN_OR_RETURN(const ModelConfig config,
                            ModelConfig::Parse(config_text, "config.json"));
  std::vector<Piece> pieces;
  for (TensorSpec& spec : RequiredTensors(config))
    pieces.push_back(MakePiece(std::move(spec), format));
  for (TensorSpec& spec : MtpTensors(config)) pieces.push_back(MakePiece(std::move(spec), format));
  int64_t total = 0;
  for (const Piece& piece : pieces) total += piece.bytes() + piece.scale_bytes();
  const fs::path folder(directory);
  CAUSEWAY_RETURN_IF_ERROR(PrepareDirectory(folder, total));

  Maker maker(seed, config, /*power_of_two=*/config.model_type == kPowerOfTwoScales, pieces);
  NewFiles files;
  json weight_map = json::object();
  const std::vector<size_t> ends = CutShards(pieces, shard_bytes);
  int64_t done = 0;
  size_t begin = 0;
  for (size_t shard = 0; shard < ends.size(); ++shard) {
    const std::string name = ShardName(shard, ends.size());
    std::vector<SafetensorsWriter::Declaration> declarations;
    for (size_t i = begin; i < ends[shard]; ++i) {
      const Piece& piece = pieces[i];
      declarations.push_back({piece.spec.name, piece.type, piece.spec.shape});
      if (!piece.scale_name.empty())
        declarations.push_back({piece.scale_name, StoredType::kF32, piece.scale_shape});
    }
    for (const auto& declaration : declarations) weight_map[declaration.name] = name;
    CAUSEWAY_ASSIGN_OR_RETURN(SafetensorsWriter writer,
                              SafetensorsWriter::Create(folder / name, std::move(declarations)));
    for (; begin < ends[shard]; ++begin) {
      const Piece& piece = pieces[begin];
      maker.Make(piece);
      CAUSEWAY_RETURN_IF_ERROR(writer.Write(piece.spec.name, maker.bytes(), piece.bytes()));
      if (!piece.scale_name.empty())
        CAUSEWAY_RETURN_IF_ERROR(
            writer.Write(piece.scale_name, maker.scales(), piece.scale_bytes()));
      done += piece.bytes() + piece.scale_bytes();
      if (progress) progress(done, total);
    }
    CAUSEWAY_RETURN_IF_ERROR(writer.Finish());
    // Until Finish the writer itself would have removed it.
    files.Add(folder / name);
  }
  if (ends.size() > 1) {
    const json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
    CAUSEWAY_RETURN_IF_ERROR(PutText(folder / kIndexName, index.dump(2), files));
  }
  CAUSEWAY_RETURN_IF_ERROR(PutText(folder / "config.json", config_text, files));
  files.Keep();
  return Status();
}

}  // namespace causeway
