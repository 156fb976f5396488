#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "text/utf8.h"

namespace causeway {
namespace {

std::unique_ptr<Tokenizer> Load(bool bytes) {
  auto tokenizer = bytes ? Tokenizer::Bytes(300, 0, 1)
                         : Tokenizer::Load(CAUSEWAY_SOURCE_DIR "/data/demo/tokenizer.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return std::move(tokenizer).value();
}

bool IsValidUtf8(const std::string& text) {
  std::string sound;
  AppendUtf8(text, &sound);
  return sound == text;
}

TEST(Detokenizer, GivesACharacterWithItsLastByte) {
  const auto tokenizer = Load(true);
  Detokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Push(2 + 'a'), "a");
  EXPECT_EQ(detokenizer.Push(2 + 0xf0), "");
  EXPECT_EQ(detokenizer.Push(2 + 0x9f), "");
  EXPECT_EQ(detokenizer.Push(2 + 0x98), "");
  EXPECT_EQ(detokenizer.Push(2 + 0x80), "\xf0\x9f\x98\x80");
  EXPECT_EQ(detokenizer.Push(2 + 0xc3), "");
  EXPECT_EQ(detokenizer.Push(2 + 'b'),
            "\xef\xbf\xbd"
            "b");
  EXPECT_EQ(detokenizer.Push(2 + 0xe4), "");
  EXPECT_EQ(detokenizer.Flush(), "\xef\xbf\xbd");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(Detokenizer, SpecialTokensAreSkippedOrWritten) {
  const auto tokenizer = Load(true);
  Detokenizer skips(*tokenizer);
  EXPECT_EQ(skips.Push(0), "");
  EXPECT_EQ(skips.Push(299), "");  // an id without text
  Detokenizer writes(*tokenizer, false);
  EXPECT_EQ(writes.Push(0), "<s>");
  // A skipped token between the bytes of a character does not cut it.
  EXPECT_EQ(skips.Push(2 + 0xc3), "");
  EXPECT_EQ(skips.Push(1), "");
  EXPECT_EQ(skips.Push(2 + 0xa9), "\xc3\xa9");
}

TEST(Detokenizer, AnySequenceGivesWhatDecodeGivesInWholeCharacters) {
  for (const bool bytes : {true, false}) {
    const auto tokenizer = Load(bytes);
    for (unsigned seed = 0; seed < 300; ++seed) {
      std::mt19937 random(seed);
      const bool skip = seed % 2 == 0;
      std::vector<int32_t> ids(random() % 60);
      for (int32_t& id : ids)
        id = static_cast<int32_t>(random() % static_cast<unsigned>(bytes ? 310 : 4200)) - 5;
      // Half of the time mostly high bytes, so that characters arise and break.
      if (bytes && seed % 4 < 2)
        for (int32_t& id : ids)
          id = 2 + std::vector<int32_t>{
                       0xf0, 0x9f, 0x98, 0x80, 0xe4, 0xbd, 0xa0, 0xed, 'a'}[random() % 9];
      Detokenizer detokenizer(*tokenizer, skip);
      std::string all;
      for (const int32_t id : ids) {
        const std::string text = detokenizer.Push(id);
        ASSERT_TRUE(IsValidUtf8(text)) << "seed " << seed;
        all += text;
      }
      all += detokenizer.Flush();
      ASSERT_EQ(all, tokenizer->Decode(ids, skip)) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace causeway
