// libFuzzer entry: any bytes as a safetensors file and as an index give an error or a checkpoint
// whose every byte can be read.
#include <stdlib.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using causeway::Checkpoint;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)causeway::ParseHeader(text, 64, "header").ok();
  (void)causeway::ParseIndex(text, "index").ok();

  char path[] = "/tmp/safetensors_fuzz.XXXXXX";
  const int file = mkstemp(path);
  CHECK(file >= 0 && write(file, data, size) == static_cast<ssize_t>(size), path);
  close(file);
  const auto opened = Checkpoint::OpenFile(path);
  unlink(path);
  if (!opened.ok()) return 0;
  uint64_t sum = 0;
  for (const auto& [name, tensor] : (*opened)->tensors())
    for (int64_t i = 0; i < tensor.bytes; ++i) sum += tensor.data[i];
  CHECK(sum <= 255 * uint64_t{size} * 2, sum);
  return 0;
}
