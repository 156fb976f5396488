#include "server/profile_api.h"

#include <cctype>
#include <memory>

#include "server/field_reader.h"
#include "server/native_reply.h"

namespace causeway {
namespace {

// The body is read on the io thread.
constexpr size_t kMaxBytes = 64 << 10;
constexpr int64_t kMostSteps = 1'000'000'000;

// The fields of SGLang's ProfileReqInput. Those that ask for what only its profiler knows change
// nothing, and the answer says so.
std::optional<ApiError> Parse(const std::string& body, ProfileOptions& out, std::string& ignored) {
  if (body.size() > kMaxBytes) {
    return ApiError{
        .http_status = 413,
        .message = Text("the body has ", body.size(), " bytes; expected at most ", kMaxBytes)};
  }
  if (body.find_first_not_of(" \t\r\n") == std::string::npos) return std::nullopt;
  const StatusOr<Json> json = ParseOrderedJson(body, "the request's body");
  if (!json.ok()) return ToApiError(json.status());
  FirstError error;
  FieldReader fields(*json, "", error);
  fields.String("output_dir", out.output_dir);
  fields.String("profile_prefix", out.prefix);
  fields.Integer("start_step", 0, kMostSteps, out.start_step);
  fields.Integer("num_steps", 1, kMostSteps, out.num_steps);
  for (const char* name : {"activities", "profile_by_stage", "with_stack", "record_shapes",
                           "merge_profiles", "profile_stages"}) {
    if (fields.Any(name) != nullptr) ignored += Text(ignored.empty() ? "" : ", ", name);
  }
  fields.Finish();
  if (out.output_dir.find('\0') != std::string::npos) {
    fields.Fail("output_dir", "output_dir has a zero byte; expected a path");
  }
  // A name within output_dir, and plain text for the log.
  for (const char c : out.prefix) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '-' && c != '_' && c != '.') {
      fields.Fail("profile_prefix", Text("profile_prefix is ", DescribeJson(Json(out.prefix)),
                                         "; expected letters, digits and -_."));
    }
  }
  if (out.prefix.size() > 100) {
    fields.Fail("profile_prefix", Text("profile_prefix has ", out.prefix.size(),
                                       " characters; expected at most 100"));
  }
  return error.get();
}

// Answers when the engine has.
ProfileReply Answer(HttpResponder responder, const std::string& text) {
  // Shared: functions are copyable.
  auto shared = std::make_shared<HttpResponder>(std::move(responder));
  return [shared, text](const StatusOr<std::string>& path) {
    if (path.ok()) {
      shared->Send({.content_type = "text/plain; charset=utf-8", .body = Text(text, *path, "\n")});
    } else {
      shared->Send(NativeErrorResponse(ToApiError(path.status())));
    }
  };
}

}  // namespace

ProfileApi::ProfileApi(RequestSink& engine, ApiKey api_key, std::string default_dir)
    : engine_(engine), key_(std::move(api_key)), default_dir_(std::move(default_dir)) {}

std::vector<HttpRoute> ProfileApi::Routes() const {
  std::vector<HttpRoute> routes;
  for (const char* method : {"GET", "POST"}) {
    routes.push_back({method, "/start_profile",
                      key_.Guard([this](const HttpRequest& request, HttpResponder responder) {
                        Start(request, std::move(responder));
                      })});
    routes.push_back(
        {method, "/stop_profile", key_.Guard([this](const HttpRequest&, HttpResponder responder) {
           Stop(std::move(responder));
         })});
  }
  return routes;
}

void ProfileApi::Start(const HttpRequest& request, HttpResponder responder) const {
  ProfileOptions options;
  options.output_dir = default_dir_;
  std::string ignored;
  if (const std::optional<ApiError> error = Parse(request.body, options, ignored)) {
    responder.Send(NativeErrorResponse(*error));
    return;
  }
  const std::string note = ignored.empty() ? "" : Text("Without effect here: ", ignored, ".\n");
  engine_.StartProfile(
      options, Answer(std::move(responder), Text("Start profiling.\n", note, "To be written to ")));
}

void ProfileApi::Stop(HttpResponder responder) const {
  engine_.StopProfile(Answer(std::move(responder), "Stop profiling.\nWritten to "));
}

}  // namespace causeway
