// Writes safetensors files.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "checkpoint/safetensors.h"

namespace causeway {

// Streams tensors to one file: declare all first (name, type, shape), then write each once, in any
// order. The file appears under its name only when Finish succeeds.
class SafetensorsWriter {
 public:
  // What a tensor will be; its bytes follow with Write.
  struct Declaration {
    std::string name;
    StoredType type;
    std::vector<int64_t> shape;
  };

  // Writes the header to a file beside `path`. An error if a name comes twice, a shape overflows or
  // the header gets too long.
  static StatusOr<SafetensorsWriter> Create(const std::string& path,
                                            std::vector<Declaration> declarations);
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();  // removes the unfinished file

  // `bytes` must be the tensor's whole size.
  Status Write(const std::string& name, const void* data, int64_t bytes);
  // Error if a declared tensor was never written.
  Status Finish();

 private:
  struct State;
  explicit SafetensorsWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace causeway
