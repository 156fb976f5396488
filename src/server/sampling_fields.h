// Sampling fields that OpenAI's and SGLang's requests have in common.
#pragma once

#include "engine/request.h"
#include "server/field_reader.h"
#include "server/request_fields.h"

namespace causeway {

// frequency_penalty, presence_penalty, repetition_penalty and logit_bias.
void ReadPenalties(FieldReader& fields, const ServedModel& model, SamplingParams& sampling);

}  // namespace causeway
