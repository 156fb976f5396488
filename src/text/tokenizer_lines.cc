// Tokenizes lines for tools/tokenizer/check_tokenizer.py: every line of the input is the
// hexadecimal bytes of one text. Prints for each one line: the ids of the text, "|", the ids
// without special tokens. Also checks, and ends with an error if it fails, that the incremental
// detokeniser gives what Decode gives.
//   tokenizer_lines TOKENIZER.json INPUT          ids, as above
//   tokenizer_lines --time TOKENIZER.json FILE    MB/s of the whole file as one text
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace causeway {
namespace {

std::string FromHex(const std::string& line) {
  std::string bytes;
  for (size_t i = 0; i + 1 < line.size(); i += 2)
    bytes += static_cast<char>(std::stoi(line.substr(i, 2), nullptr, 16));
  return bytes;
}

void Print(const std::vector<int32_t>& ids) {
  for (size_t i = 0; i < ids.size(); ++i) std::cout << (i > 0 ? " " : "") << ids[i];
}

// Decode, whole and id by id, gives back what was encoded.
bool RoundTrip(const Tokenizer& tokenizer, const std::string& text,
               const std::vector<int32_t>& ids) {
  std::string expected;
  AppendUtf8(text, &expected);
  Detokenizer detokenizer(tokenizer, /*skip_special=*/false);
  std::string incremental;
  for (const int32_t id : ids) incremental += detokenizer.Push(id);
  incremental += detokenizer.Flush();
  return tokenizer.Decode(ids, /*skip_special=*/false) == expected && incremental == expected;
}

int Lines(const Tokenizer& tokenizer, const std::string& path) {
  std::ifstream input(path);
  std::string line;
  for (int64_t number = 1; std::getline(input, line); ++number) {
    const std::string text = FromHex(line);
    const auto ids = tokenizer.Encode(text, true);
    const auto plain = tokenizer.Encode(text, false);
    if (!RoundTrip(tokenizer, text, ids) || !RoundTrip(tokenizer, text, plain)) {
      std::cerr << path << ":" << number << ": decoding does not give the text back\n";
      return 1;
    }
    Print(ids);
    std::cout << "|";
    Print(plain);
    std::cout << "\n";
  }
  return input.eof() ? 0 : 1;
}

int Time(const Tokenizer& tokenizer, const std::string& path) {
  std::ifstream input(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(input)), std::istreambuf_iterator<char>());
  double best = 1e9;
  size_t tokens = 0;
  for (int run = 0; run < 5; ++run) {
    const auto start = std::chrono::steady_clock::now();
    tokens = tokenizer.Encode(text).size();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    best = std::min(best, taken.count());
  }
  std::printf("%zu bytes, %zu tokens, %.4f s, %.1f MB/s\n", text.size(), tokens, best,
              static_cast<double>(text.size()) / best / 1e6);
  return 0;
}

}  // namespace
}  // namespace causeway

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const bool time = arguments.size() == 3 && arguments[0] == "--time";
  if (arguments.size() != 2 && !time) {
    std::cerr << "usage: tokenizer_lines [--time] TOKENIZER.json INPUT\n";
    return 2;
  }
  const auto tokenizer = causeway::Tokenizer::Load(arguments[arguments.size() - 2]);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status().message() << "\n";
    return 1;
  }
  return time ? causeway::Time(**tokenizer, arguments[2])
              : causeway::Lines(**tokenizer, arguments[1]);
}
