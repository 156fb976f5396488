// A file is 8 bytes with the length of its header, the header in JSON, then the bytes of all
// tensors. The files are mapped and never copied; everything that a header claims is checked before
// it is used.
#include "checkpoint/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <string_view>

#include "base/bf16.h"
#include "base/fp8.h"
#include "checkpoint/json_text.h"
#include "checkpoint/safetensors_header.h"

namespace causeway {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

const char* NameOf(StoredType type) {
  switch (type) {
    case StoredType::kF32:
      return "F32";
    case StoredType::kF16:
      return "F16";
    case StoredType::kBf16:
      return "BF16";
    case StoredType::kF8E4m3:
      return "F8_E4M3";
    case StoredType::kI8:
      return "I8";
    case StoredType::kI32:
      return "I32";
    case StoredType::kI64:
      return "I64";
  }
  return "?";
}

int64_t SizeOf(StoredType type) {
  switch (type) {
    case StoredType::kF8E4m3:
    case StoredType::kI8:
      return 1;
    case StoredType::kF16:
    case StoredType::kBf16:
      return 2;
    case StoredType::kF32:
    case StoredType::kI32:
      return 4;
    case StoredType::kI64:
      return 8;
  }
  return 0;
}

int64_t StoredTensor::elements() const { return bytes / SizeOf(type); }

// A whole file in memory, read-only. (Somebody who truncates the file while it is mapped still
// kills the process; a checkpoint must not change while it is in use.)
struct Checkpoint::Mapping {
  const uint8_t* data = nullptr;
  int64_t bytes = 0;

  Mapping(const uint8_t* mapped, int64_t size) : data(mapped), bytes(size) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { munmap(const_cast<uint8_t*>(data), static_cast<size_t>(bytes)); }

  static StatusOr<std::unique_ptr<Mapping>> Map(const std::string& path) {
    // O_NONBLOCK: opening a FIFO by mistake must not wait for its writer.
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return NotFound(Text(path, ": can't open: ", std::strerror(errno)));
    struct stat info {};
    if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
      close(file);
      return InvalidArgument(Text(path, ": not a regular file"));
    }
    if (info.st_size < 8) {
      close(file);
      return InvalidArgument(
          Text(path, ": ", info.st_size, " bytes, expected at least 8 (the header's length)"));
    }
    void* data = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, file, 0);
    const int error = errno;
    // The mapping keeps the file open.
    close(file);
    if (data == MAP_FAILED)
      return Unavailable(
          Text(path, ": can't map ", info.st_size, " bytes: ", std::strerror(error)));
    return std::make_unique<Mapping>(static_cast<const uint8_t*>(data), info.st_size);
  }
};

Checkpoint::~Checkpoint() = default;

Status Checkpoint::AddFile(const std::string& path) {
  CAUSEWAY_ASSIGN_OR_RETURN(auto mapping, Mapping::Map(path));
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, mapping->data, 8);
  const int64_t after_length = mapping->bytes - 8;
  if (header_bytes < 2 || header_bytes > static_cast<uint64_t>(after_length) ||
      header_bytes > static_cast<uint64_t>(kMaxHeaderBytes))
    return InvalidArgument(Text(path, ": header length ", header_bytes, ", expected 2 to ",
                                std::min(after_length, kMaxHeaderBytes), " (a file of ",
                                mapping->bytes, " bytes)"));
  const auto header_size = static_cast<int64_t>(header_bytes);
  const std::string_view header(reinterpret_cast<const char*>(mapping->data + 8), header_bytes);
  // Every range that ParseHeader accepts lies inside the mapping, counted from here.
  const uint8_t* data = mapping->data + 8 + header_size;
  CAUSEWAY_ASSIGN_OR_RETURN(auto entries, ParseHeader(header, after_length - header_size, path));
  for (HeaderEntry& entry : entries) {
    const auto known = tensors_.find(entry.name);
    if (known != tensors_.end())
      return InvalidArgument(Text(path, ": tensor ", Quoted(entry.name), " is also in ",
                                  known->second.file, ", expected in one file only"));
    tensors_[std::move(entry.name)] = {.type = entry.type,
                                       .shape = std::move(entry.shape),
                                       .data = data + entry.begin,
                                       .bytes = entry.end - entry.begin,
                                       .file = path};
  }
  mappings_.push_back(std::move(mapping));
  return Status();
}

StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::OpenFile(const std::string& path) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->source_ = path;
  CAUSEWAY_RETURN_IF_ERROR(checkpoint->AddFile(path));
  return checkpoint;
}

StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& directory) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::is_directory(directory, error))
    return NotFound(Text(directory, ": not a directory; expected one with *.safetensors files"));
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->source_ = directory;
  const fs::path index = fs::path(directory) / "model.safetensors.index.json";
  std::map<std::string, std::string> promised;  // tensor -> file
  std::set<std::string> files;
  if (fs::exists(index, error)) {
    CAUSEWAY_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(index, kMaxHeaderBytes));
    CAUSEWAY_ASSIGN_OR_RETURN(promised, ParseIndex(text, index));
    // Missing files are named before the first one, perhaps hundreds of gigabytes, is mapped.
    for (const auto& [tensor, file] : promised) {
      if (!files.insert(file).second) continue;
      if (!fs::exists(fs::path(directory) / file, error))
        return NotFound(Text(index.string(), ": tensor ", Quoted(tensor), " is said to be in ",
                             Quoted(file), ", but there is no such file"));
    }
  } else {
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
         entry.increment(error)) {
      const std::string name = entry->path().filename().string();
      if (name.ends_with(".safetensors") && !name.starts_with("golden") &&
          !name.starts_with("consolidated"))
        files.insert(name);
    }
    if (error) return Unavailable(Text(directory, ": can't list: ", error.message()));
  }
  if (files.empty())
    return NotFound(Text(directory,
                         ": no tensors; expected model.safetensors.index.json or "
                         "*.safetensors files"));
  for (const std::string& file : files)
    CAUSEWAY_RETURN_IF_ERROR(checkpoint->AddFile(fs::path(directory) / file));
  // The index may promise more than the files hold, or another file's tensor.
  for (const auto& [tensor, file] : promised) {
    const std::string path = fs::path(directory) / file;
    const auto found = checkpoint->tensors_.find(tensor);
    if (found == checkpoint->tensors_.end() || found->second.file != path)
      return InvalidArgument(
          Text(path, ": no tensor ", Quoted(tensor), ", which ", index.string(), " promises there",
               found == checkpoint->tensors_.end() ? "" : "; it is in " + found->second.file));
  }
  return checkpoint;
}

StatusOr<StoredTensor> Checkpoint::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end())
    return NotFound(Text(source_, ": no tensor ", Quoted(name), " among ", tensors_.size()));
  return found->second;
}

StatusOr<StoredTensor> Checkpoint::Find(const std::string& name,
                                        const std::vector<int64_t>& shape) const {
  CAUSEWAY_ASSIGN_OR_RETURN(StoredTensor tensor, Find(name));
  if (tensor.shape != shape)
    return InvalidArgument(Text(tensor.file, ": tensor ", Quoted(name), " has shape ",
                                ShapeText(tensor.shape), ", expected ", ShapeText(shape)));
  return tensor;
}

int64_t Checkpoint::bytes() const {
  int64_t total = 0;
  for (const auto& [name, tensor] : tensors_) total += tensor.bytes;
  return total;
}

namespace {

// Element i of `data` decoded by `decode`; the data may be unaligned.
template <typename Stored, typename Decode>
void Convert(const uint8_t* data, int64_t count, float* out, Decode decode) {
  for (int64_t i = 0; i < count; ++i) {
    Stored value;
    std::memcpy(&value, data + i * static_cast<int64_t>(sizeof(Stored)), sizeof(Stored));
    out[i] = decode(value);
  }
}

}  // namespace

void CopyToF32(const StoredTensor& tensor, int64_t begin, int64_t count, float* out) {
  CHECK(begin >= 0 && count >= 0 && begin <= tensor.elements() - count, begin, " + ", count, " of ",
        tensor.elements());
  if (count == 0) return;
  const uint8_t* data = tensor.data + begin * SizeOf(tensor.type);
  switch (tensor.type) {
    case StoredType::kF32:
      std::memcpy(out, data, static_cast<size_t>(count) * sizeof(float));
      return;
    case StoredType::kF16:
      return Convert<uint16_t>(data, count, out, FromF16);
    case StoredType::kBf16:
      return Convert<Bf16>(data, count, out, FromBf16);
    case StoredType::kF8E4m3:
      return Convert<E4m3>(data, count, out, FromE4m3);
    case StoredType::kI8:
      return Convert<int8_t>(data, count, out, [](int8_t v) { return static_cast<float>(v); });
    case StoredType::kI32:
    case StoredType::kI64:
      break;
  }
  CHECK(false, NameOf(tensor.type), " has no exact float32 form");
}

}  // namespace causeway
