#include "app/demo_data.h"

// The assembler copies the files in; CAUSEWAY_DATA_DIR is set by CMake.
#define EMBED(symbol, file)                                  \
  __asm__(                                                   \
      ".section .rodata\n"                                   \
      ".global " #symbol "\n.global " #symbol                \
      "_end\n"                                               \
      ".balign 16\n" #symbol                                 \
      ":\n"                                                  \
      ".incbin \"" CAUSEWAY_DATA_DIR "/" file "\"\n" #symbol \
      "_end:\n"                                              \
      ".previous\n");                                        \
  extern "C" const char symbol[];                            \
  extern "C" const char symbol##_end[]

EMBED(causeway_demo_text, "gsm8k.txt");
EMBED(causeway_demo_tokenizer, "tokenizer.json");

namespace causeway {

std::string_view DemoText() {
  return {causeway_demo_text, static_cast<size_t>(causeway_demo_text_end - causeway_demo_text)};
}

std::string_view DemoTokenizer() {
  return {causeway_demo_tokenizer,
          static_cast<size_t>(causeway_demo_tokenizer_end - causeway_demo_tokenizer)};
}

}  // namespace causeway
