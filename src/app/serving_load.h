// What `bench serving` asks for: prompts and lengths of answers, when they are sent, and as what.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace causeway {

enum class ServingBackend { kOpenAi, kOpenAiChat, kNative };

// Names, meanings and defaults are those of SGLang's bench_serving, but for the default data set.
struct ServingLoadFlags {
  std::string dataset_name = "random";  // or "generated-shared-prefix"
  int64_t num_prompts = 1000;           // random only
  // random: lengths are uniform from range_ratio times these to these.
  int64_t random_input_len = 1024;
  int64_t random_output_len = 1024;
  double random_range_ratio = 0;
  // generated-shared-prefix: each group has a system prompt, with a question of their own behind
  // it.
  int64_t gsp_num_groups = 64;
  int64_t gsp_prompts_per_group = 16;
  int64_t gsp_system_prompt_len = 2048;
  int64_t gsp_question_len = 128;
  int64_t gsp_output_len = 256;
  double request_rate = 0;  // requests a second, as a Poisson process; 0: all at once
  uint64_t seed = 1;
};

// One request of the load.
struct ServingPrompt {
  std::vector<int32_t> tokens;
  int64_t output_len = 0;
  double start_seconds = 0;  // after the begin; in ascending order
};

// Token ids are below `vocab_size`. The same flags give the same load. Errors name the flag.
StatusOr<std::vector<ServingPrompt>> MakeServingLoad(const ServingLoadFlags& flags,
                                                     int64_t vocab_size);

struct ServingBodyOptions {
  ServingBackend backend = ServingBackend::kNative;
  std::string model = "";  // OpenAI's field
  bool stream = true;
  bool ignore_eos = true;
};

// Where the backend takes requests: "/generate", ...
const char* ServingPath(ServingBackend backend);

// The JSON of a request. Chats can't take ids: they get a word for each.
std::string ServingBody(const ServingPrompt& prompt, const ServingBodyOptions& options);

}  // namespace causeway
