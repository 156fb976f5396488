// The fields of a JSON object that anybody may have written, read with checks.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace causeway {

// Parses a document that must be an object, with the strictness of VisitJson.
StatusOr<nlohmann::json> ParseJsonObject(std::string_view json, const std::string& source);

// Reads one object field by field. The first wrong field is remembered in the Status shared by all
// readers of a document, and everything read after it is a value inside its range: callers read
// straight on and look at the Status once. Null counts as absent. A field without a default is
// demanded.
class JsonFields {
 public:
  // `path` stands before each key in messages ("" or "rope_scaling."). Keeps references.
  JsonFields(const nlohmann::json& object, const std::string& source, std::string path,
             Status& status)
      : object_(object), source_(source), path_(std::move(path)), status_(status) {}

  bool Has(const std::string& key) const;       // present and not null
  bool Contains(const std::string& key) const;  // present, perhaps null
  // In [least, most]; `absent` where the field is not there, or an error if it must be.
  int64_t Integer(const std::string& key, int64_t least, int64_t most,
                  std::optional<int64_t> absent = std::nullopt);
  double Number(const std::string& key, double least, double most,
                std::optional<double> absent = std::nullopt);
  bool Boolean(const std::string& key, bool absent);
  std::string String(const std::string& key, std::optional<std::string> absent = std::nullopt);
  // An integer or a list of at least one integer; empty if absent.
  std::vector<int64_t> Integers(const std::string& key, int64_t least, int64_t most);
  // A list of at least one string; empty if absent.
  std::vector<std::string> Strings(const std::string& key);
  // The object under `key`. Demanded: an empty one stands in after an error.
  JsonFields Object(const std::string& key);
  std::vector<std::string> Keys() const;

  // Records that `key` is wrong: its value is found, `expected` says what should be there.
  void Refuse(const std::string& key, const std::string& expected);
  const Status& status() const { return status_; }

 private:
  // Null if the object has no such key.
  const nlohmann::json* Find(const std::string& key) const;

  const nlohmann::json& object_;
  const std::string& source_;
  std::string path_;
  Status& status_;
};

}  // namespace causeway
