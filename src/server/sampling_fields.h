// Sampling fields that OpenAI's and SGLang's requests have in common.
#pragma once

#include "engine/request.h"
#include "server/field_reader.h"
#include "server/request_fields.h"
#include "server/text_stream.h"

namespace causeway {

// frequency_penalty, presence_penalty, repetition_penalty and logit_bias.
void ReadPenalties(FieldReader& fields, const ServedModel& model, SamplingParams& sampling);

// What an answer has to be, by one of the fields regex, ebnf, and those of `which`: SGLang's
// json_schema (a schema, or the text of one), OpenAI's response_format.
struct ConstraintFields {
  bool response_format = false;
  bool json_schema = false;
};
void ReadConstraint(FieldReader& fields, const ServedModel& model, ConstraintFields which,
                    FirstError& error, SamplingParams& sampling);

// stop_regex: one expression or a list of at most 16. The answer ends with the first match, which
// stays in it.
std::vector<StopRegex> ReadStopRegexes(FieldReader& fields);

}  // namespace causeway
