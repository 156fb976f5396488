#include "checkpoint/safetensors_header.h"

#include <algorithm>
#include <array>
#include <optional>

#include "checkpoint/json_text.h"

namespace causeway {
namespace {

using Kind = JsonToken::Kind;

// More than any tensor of the model family has; a bound on what a hostile header can make grow.
constexpr size_t kMaxDimensions = 8;

constexpr std::array kAllTypes = {StoredType::kF32,    StoredType::kF16, StoredType::kBf16,
                                  StoredType::kF8E4m3, StoredType::kI8,  StoredType::kI32,
                                  StoredType::kI64};

std::optional<StoredType> TypeNamed(std::string_view name) {
  for (const StoredType type : kAllTypes)
    if (name == NameOf(type)) return type;
  return std::nullopt;
}

std::string SupportedTypes() {
  std::string out;
  for (const StoredType type : kAllTypes) {
    if (!out.empty()) out += ' ';
    out += NameOf(type);
  }
  return out;
}

// Builds the entries of a header from its tokens:
//   {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {}}
class HeaderBuilder {
 public:
  HeaderBuilder(const std::string& file, int64_t data_bytes)
      : file_(file), data_bytes_(data_bytes) {}

  Status Visit(const JsonToken& token) {
    switch (token.depth) {
      case 0:
        if (token.kind == Kind::kObjectBegin || token.kind == Kind::kObjectEnd) return Status();
        return InvalidArgument(
            Text(file_, ": the header is ", Describe(token), ", expected an object"));
      case 1:
        return VisitEntry(token);
      case 2:
        return in_metadata_ ? VisitMetadata(token) : VisitField(token);
      default:
        return VisitElement(token);
    }
  }

  StatusOr<std::vector<HeaderEntry>> Finish() && {
    // In the order of their bytes: an overlap is then one of neighbours.
    std::ranges::sort(entries_, {}, [](const HeaderEntry& e) { return std::pair(e.begin, e.end); });
    const HeaderEntry* last = nullptr;  // the last entry that has bytes
    for (const HeaderEntry& entry : entries_) {
      if (entry.begin == entry.end) continue;
      if (last != nullptr && entry.begin < last->end)
        return InvalidArgument(Text(file_, ": tensors ", Quoted(last->name), " (bytes ",
                                    last->begin, " to ", last->end, ") and ", Quoted(entry.name),
                                    " (bytes ", entry.begin, " to ", entry.end, ") overlap"));
      last = &entry;
    }
    return std::move(entries_);
  }

 private:
  Status Error(const std::string& message) const {
    return InvalidArgument(Text(file_, ": tensor ", Quoted(entry_.name), ": ", message));
  }

  // At depth 1: a tensor's name, then the braces of its entry.
  Status VisitEntry(const JsonToken& token) {
    if (token.kind == Kind::kKey) {
      entry_ = {.name = token.text};
      in_metadata_ = token.text == "__metadata__";
      have_type_ = have_shape_ = false;
      offsets_.reset();
      return Status();
    }
    if (token.kind == Kind::kObjectBegin) return Status();
    if (token.kind != Kind::kObjectEnd)
      return Error(Text("the entry is ", Describe(token), ", expected an object"));
    return in_metadata_ ? Status() : FinishEntry();
  }

  Status VisitMetadata(const JsonToken& token) {
    if (token.kind == Kind::kKey || token.kind == Kind::kString) return Status();
    return InvalidArgument(
        Text(file_, ": __metadata__ holds ", Describe(token), ", expected strings only"));
  }

  // At depth 2: a field's name, then its value or the brackets of its array.
  Status VisitField(const JsonToken& token) {
    if (token.kind == Kind::kKey) {
      field_ = token.text;
      numbers_.clear();
      if (field_ == "dtype" || field_ == "shape" || field_ == "data_offsets") return Status();
      return Error(Text("unknown key ", Quoted(field_), ", expected dtype, shape, data_offsets"));
    }
    if (field_ == "dtype") {
      if (token.kind != Kind::kString)
        return Error(Text("dtype is ", Describe(token), ", expected a string"));
      const std::optional<StoredType> type = TypeNamed(token.text);
      if (!type)
        return Error(Text("dtype ", Quoted(token.text), " is not supported, expected one of ",
                          SupportedTypes()));
      entry_.type = *type;
      have_type_ = true;
      return Status();
    }
    if (token.kind == Kind::kArrayBegin) return Status();
    if (token.kind != Kind::kArrayEnd)
      return Error(Text(field_, " is ", Describe(token), ", expected an array of integers"));
    if (field_ == "shape") {
      entry_.shape = numbers_;
      have_shape_ = true;
      return Status();
    }
    if (numbers_.size() != 2)
      return Error(Text("data_offsets has ", numbers_.size(), " elements, expected 2"));
    offsets_ = {numbers_[0], numbers_[1]};
    return Status();
  }

  // At depth 3: a number of `shape` or `data_offsets`.
  Status VisitElement(const JsonToken& token) {
    if (in_metadata_) return VisitMetadata(token);
    if (token.kind != Kind::kInteger || token.integer < 0)
      return Error(
          Text(field_, " holds ", Describe(token), ", expected integers from 0 to 2^63 - 1"));
    if (numbers_.size() == kMaxDimensions)
      return Error(Text(field_, " has more than ", kMaxDimensions, " elements"));
    numbers_.push_back(token.integer);
    return Status();
  }

  Status FinishEntry() {
    if (!have_type_) return Error("the entry has no dtype");
    if (!have_shape_) return Error("the entry has no shape");
    if (!offsets_) return Error("the entry has no data_offsets");
    const auto [begin, end] = *offsets_;
    if (begin > end) return Error(Text("data_offsets begin at ", begin, " and end at ", end));
    if (end > data_bytes_)
      return Error(Text("data_offsets end at byte ", end, ", but the file has ", data_bytes_,
                        " bytes of data"));
    const int64_t expected = BytesOf(entry_.type, entry_.shape);
    if (expected < 0) return Error(Text("shape ", ShapeText(entry_.shape), " is too large"));
    if (end - begin != expected)
      return Error(Text("data_offsets span ", end - begin, " bytes, expected ", expected, " for ",
                        NameOf(entry_.type), " ", ShapeText(entry_.shape)));
    entry_.begin = begin;
    entry_.end = end;
    entries_.push_back(std::move(entry_));
    return Status();
  }

  const std::string& file_;
  const int64_t data_bytes_;
  std::vector<HeaderEntry> entries_;
  // The entry being read.
  HeaderEntry entry_;
  bool in_metadata_ = false;
  bool have_type_ = false;
  bool have_shape_ = false;
  std::optional<std::pair<int64_t, int64_t>> offsets_;
  std::string field_;
  std::vector<int64_t> numbers_;
};

}  // namespace

StatusOr<std::vector<HeaderEntry>> ParseHeader(std::string_view json, int64_t data_bytes,
                                               const std::string& file) {
  HeaderBuilder builder(file, data_bytes);
  CAUSEWAY_RETURN_IF_ERROR(
      VisitJson(json, file, [&](const JsonToken& token) { return builder.Visit(token); }));
  return std::move(builder).Finish();
}

StatusOr<std::map<std::string, std::string>> ParseIndex(std::string_view json,
                                                        const std::string& file) {
  std::map<std::string, std::string> files;
  std::string section;
  std::string name;
  bool found = false;
  // Tokens of depth 0 are the file's braces, of depth 1 its sections, of depth 2 the names in a
  // section and what they stand for.
  const auto visit = [&](const JsonToken& token) -> Status {
    if (token.depth == 0 && token.kind != Kind::kObjectBegin && token.kind != Kind::kObjectEnd)
      return InvalidArgument(Text(file, " holds ", Describe(token), ", expected an object"));
    if (token.depth == 1 && token.kind == Kind::kKey) section = token.text;
    if (section != "weight_map") return Status();  // metadata may be anything
    if (token.depth == 1 && token.kind != Kind::kKey) {
      if (token.kind != Kind::kObjectBegin && token.kind != Kind::kObjectEnd)
        return InvalidArgument(
            Text(file, ": weight_map is ", Describe(token), ", expected an object"));
      found = true;
    } else if (token.depth == 2 && token.kind == Kind::kKey) {
      name = token.text;
    } else if (token.depth >= 2) {
      if (token.kind != Kind::kString || token.text.empty() ||
          token.text.find('/') != std::string::npos)
        return InvalidArgument(Text(file, ": tensor ", Quoted(name), ": weight_map gives ",
                                    Describe(token), ", expected the name of a file beside it"));
      files[name] = token.text;
    }
    return Status();
  };
  CAUSEWAY_RETURN_IF_ERROR(VisitJson(json, file, visit));
  if (!found) return InvalidArgument(Text(file, ": no weight_map"));
  return files;
}

int64_t BytesOf(StoredType type, const std::vector<int64_t>& shape) {
  int64_t bytes = SizeOf(type);
  for (const int64_t size : shape)
    if (size < 0 || __builtin_mul_overflow(bytes, size, &bytes)) return -1;
  return bytes;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) out += ", ";
    out += std::to_string(shape[i]);
  }
  out += ']';
  return out;
}

}  // namespace causeway
