// Data that the binary carries: a real text and a tokenizer for the demo models.
#pragma once

#include <string_view>

namespace causeway {

std::string_view DemoText();       // data/demo/gsm8k.txt
std::string_view DemoTokenizer();  // data/demo/tokenizer.json, 4096 ids
// Ids of DemoTokenizer.
inline constexpr int kDemoVocabulary = 4096;

}  // namespace causeway
