// The header comes first in the file and holds every tensor's place, which is why all are declared
// before any is written; pwrite then puts each where it belongs, in any order.
#include "checkpoint/writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "checkpoint/json_text.h"
#include "checkpoint/safetensors_header.h"

namespace causeway {
namespace {

// pwrite of everything, at `offset`.
Status WriteAll(int file, const std::string& path, const void* data, int64_t bytes,
                int64_t offset) {
  const auto* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t count = pwrite(file, next, static_cast<size_t>(bytes), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return Unavailable(Text(path, ": can't write: ", std::strerror(errno)));
    next += count;
    offset += count;
    bytes -= count;
  }
  return Status();
}

}  // namespace

struct SafetensorsWriter::State {
  struct Slot {
    int64_t offset = 0;  // in the file
    int64_t bytes = 0;
    bool written = false;
  };
  std::string path;
  std::string partial_path;  // the file's name until Finish
  int file = -1;
  std::map<std::string, Slot> slots;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (file < 0) return;
    close(file);
    unlink(partial_path.c_str());
  }
};

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

StatusOr<SafetensorsWriter> SafetensorsWriter::Create(const std::string& path,
                                                      std::vector<Declaration> declarations) {
  auto state = std::make_unique<State>();
  state->path = path;
  state->partial_path = Text(path, ".partial.", getpid());
  // Wide elements first: then every tensor is aligned to its element without gaps, which other
  // readers of the format refuse.
  std::ranges::stable_sort(declarations, std::ranges::greater(),
                           [](const Declaration& d) { return SizeOf(d.type); });
  std::string header = R"({"__metadata__":{"format":"pt"})";
  int64_t offset = 0;  // after the header
  for (const Declaration& declaration : declarations) {
    const int64_t bytes = BytesOf(declaration.type, declaration.shape);
    int64_t end = 0;
    if (bytes < 0 || __builtin_add_overflow(offset, bytes, &end))
      return InvalidArgument(Text(path, ": tensor ", Quoted(declaration.name), ": shape ",
                                  ShapeText(declaration.shape), " is negative or too large"));
    if (declaration.name == "__metadata__" ||
        !state->slots.emplace(declaration.name, State::Slot{offset, bytes}).second)
      return InvalidArgument(Text(path, ": tensor ", Quoted(declaration.name),
                                  " is declared twice or has a reserved name"));
    try {
      header += Text(",", nlohmann::json(declaration.name).dump(), R"(:{"dtype":")",
                     NameOf(declaration.type), R"(","shape":)", ShapeText(declaration.shape),
                     R"(,"data_offsets":)", ShapeText({offset, end}), "}");
    } catch (const nlohmann::json::type_error&) {
      return InvalidArgument(
          Text(path, ": tensor ", Quoted(declaration.name), ": the name is not valid UTF-8"));
    }
    offset = end;
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');  // so that the data starts 8-byte aligned
  const auto header_bytes = static_cast<int64_t>(header.size());
  if (header_bytes > kMaxHeaderBytes)
    return InvalidArgument(Text(path, ": the header needs ", header_bytes,
                                " bytes, expected at most ", kMaxHeaderBytes));
  for (auto& [name, slot] : state->slots) slot.offset += 8 + header_bytes;

  state->file = open(state->partial_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (state->file < 0)
    return NotFound(Text(state->partial_path, ": can't create: ", std::strerror(errno)));
  CAUSEWAY_RETURN_IF_ERROR(WriteAll(state->file, state->partial_path, &header_bytes, 8, 0));
  CAUSEWAY_RETURN_IF_ERROR(
      WriteAll(state->file, state->partial_path, header.data(), header_bytes, 8));
  return SafetensorsWriter(std::move(state));
}

Status SafetensorsWriter::Write(const std::string& name, const void* data, int64_t bytes) {
  CHECK(state_ != nullptr && state_->file >= 0, "write after Finish: ", name);
  const auto found = state_->slots.find(name);
  if (found == state_->slots.end())
    return InvalidArgument(Text(state_->path, ": tensor ", Quoted(name), " was not declared"));
  State::Slot& slot = found->second;
  if (slot.written)
    return InvalidArgument(Text(state_->path, ": tensor ", Quoted(name), " is written twice"));
  if (slot.bytes != bytes)
    return InvalidArgument(Text(state_->path, ": tensor ", Quoted(name), ": ", bytes,
                                " bytes given, ", slot.bytes, " declared"));
  CAUSEWAY_RETURN_IF_ERROR(WriteAll(state_->file, state_->partial_path, data, bytes, slot.offset));
  slot.written = true;
  return Status();
}

Status SafetensorsWriter::Finish() {
  CHECK(state_ != nullptr && state_->file >= 0, "Finish called twice");
  for (const auto& [name, slot] : state_->slots)
    if (!slot.written)
      return InvalidArgument(Text(state_->path, ": tensor ", Quoted(name), " was never written"));
  // The data must be on disk before the name is: after a crash the name means a whole file.
  if (fsync(state_->file) != 0 ||
      std::rename(state_->partial_path.c_str(), state_->path.c_str()) != 0)
    return Unavailable(Text(state_->path, ": can't finish: ", std::strerror(errno)));
  close(state_->file);
  state_->file = -1;
  return Status();
}

}  // namespace causeway
