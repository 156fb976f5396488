// Random-weight checkpoints of any configuration of the model family: for tests, benchmarks and the
// demo, so that nothing has to be downloaded.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"

namespace causeway {

// The config.json of a preset (tiny-v32, bench-mini-v3, bench-mini-v32, slice-v32); an unknown name
// is an error that lists them.
StatusOr<std::string> PresetConfig(const std::string& name);
std::vector<std::string> PresetNames();

// How the matrices are stored: fp8 in blocks of 128, or int8 with a scale for each row; what
// releases never quantise is bf16 then.
enum class RandomFormat { kBf16, kF32, kFp8, kInt8 };

// From "bf16", "f32", "fp8" or "int8"; an error lists these.
StatusOr<RandomFormat> ParseRandomFormat(const std::string& name);

// Bytes of a shard; a tensor is never cut.
inline constexpr int64_t kShardBytes = int64_t{4} << 30;

// Writes config.json (the given one, with the quantization_config and torch_dtype of `format`) and
// the tensors of the main model and its MTP layers into `directory`, which is made if missing and
// must not hold a model yet. Same configuration, seed and format: same bytes, on any machine. The
// weights are scaled so that activations stay near 1 through the layers, attention looks at more
// than one key but not at all, and logits have a standard deviation of about 2.
//
// Needs the memory of the largest tensor. On an error nothing is left behind; config.json is
// written last, so a directory that has it is complete. `progress` gets bytes done and in all.
Status WriteRandomModel(const std::string& config_json, const std::string& directory, uint64_t seed,
                        RandomFormat format,
                        const std::function<void(int64_t done, int64_t total)>& progress,
                        int64_t shard_bytes = kShardBytes);

}  // namespace causeway
