#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "checkpoint/safetensors_header.h"
#include "checkpoint/temporary_directory.h"
#include "checkpoint/writer.h"

namespace causeway {
namespace {

// The bytes of a file with this header.
std::string FileBytes(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  bytes += header;
  for (size_t i = 0; i < data_bytes; ++i) bytes += static_cast<char>(i);
  return bytes;
}

std::string Entry(const std::string& name, const std::string& type, const std::string& shape,
                  const std::string& offsets) {
  return '"' + name + R"(":{"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":)" +
         offsets + '}';
}

// Reads everything that a checkpoint offers, so that a sanitizer sees a wrong range.
int64_t Touch(const Checkpoint& checkpoint) {
  int64_t sum = 0;
  for (const auto& [name, tensor] : checkpoint.tensors())
    for (int64_t i = 0; i < tensor.bytes; ++i) sum += tensor.data[i];
  return sum;
}

Status OpenBytes(const TemporaryDirectory& directory, const std::string& bytes) {
  auto opened = Checkpoint::OpenFile(directory.Put("x.safetensors", bytes));
  if (opened.ok()) Touch(**opened);
  return opened.status();
}

TEST(Safetensors, WhatIsWrittenIsRead) {
  const TemporaryDirectory directory;
  const std::vector<float> floats = {1.5f, -2.0f, 0.0f, 3.25f, 5.0f, 1e-30f};
  const std::vector<uint16_t> halves = {0x3f80, 0xc000, 0x3c00};
  const std::vector<int8_t> ints = {-128, 127, 0, 1, -1};
  const std::vector<uint8_t> eights = {0x38, 0xb8, 0x7e};
  const std::vector<int64_t> longs = {1ll << 40};
  const std::vector<int32_t> words = {-7, 7};
  auto writer = SafetensorsWriter::Create(directory.File("model.safetensors"),
                                          {{"ints", StoredType::kI8, {5}},
                                           {"floats \"é\"", StoredType::kF32, {2, 3}},
                                           {"bf16", StoredType::kBf16, {3, 1}},
                                           {"f16", StoredType::kF16, {3}},
                                           {"e4m3", StoredType::kF8E4m3, {3}},
                                           {"empty", StoredType::kF32, {0, 4}},
                                           {"scalar", StoredType::kI64, {}},
                                           {"words", StoredType::kI32, {2}}});
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  EXPECT_TRUE(writer->Write("ints", ints.data(), 5).ok());
  EXPECT_TRUE(writer->Write("floats \"é\"", floats.data(), 24).ok());
  EXPECT_TRUE(writer->Write("bf16", halves.data(), 6).ok());
  EXPECT_TRUE(writer->Write("f16", halves.data(), 6).ok());
  EXPECT_TRUE(writer->Write("e4m3", eights.data(), 3).ok());
  EXPECT_TRUE(writer->Write("empty", nullptr, 0).ok());
  EXPECT_TRUE(writer->Write("scalar", longs.data(), 8).ok());
  EXPECT_TRUE(writer->Write("words", words.data(), 8).ok());
  const Status finished = writer->Finish();
  ASSERT_TRUE(finished.ok()) << finished.message();

  auto opened = Checkpoint::Open(directory.path());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const Checkpoint& checkpoint = **opened;
  EXPECT_EQ(checkpoint.tensors().size(), 8u);
  EXPECT_EQ(checkpoint.bytes(), 5 + 24 + 6 + 6 + 3 + 8 + 8);
  const auto Values = [&](const std::string& name) {
    const StoredTensor tensor = *checkpoint.Find(name);
    std::vector<float> out(static_cast<size_t>(tensor.elements()));
    CopyToF32(tensor, 0, tensor.elements(), out.data());
    return out;
  };
  EXPECT_EQ(Values("floats \"é\""), floats);
  EXPECT_EQ(Values("ints"), (std::vector<float>{-128, 127, 0, 1, -1}));
  EXPECT_EQ(Values("bf16"), (std::vector<float>{1.0f, -2.0f, 0.0078125f}));
  EXPECT_EQ(Values("f16"), (std::vector<float>{1.875f, -2.0f, 1.0f}));
  EXPECT_EQ(Values("e4m3"), (std::vector<float>{1.0f, -1.0f, 448.0f}));
  EXPECT_TRUE(Values("empty").empty());
  float middle[2];
  CopyToF32(*checkpoint.Find("floats \"é\""), 3, 2, middle);
  EXPECT_EQ(middle[0], 3.25f);
  EXPECT_EQ(middle[1], 5.0f);
  int64_t scalar = 0;
  std::memcpy(&scalar, checkpoint.Find("scalar")->data, 8);
  EXPECT_EQ(scalar, 1ll << 40);
  for (const auto& [name, tensor] : checkpoint.tensors())
    EXPECT_EQ(
        reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(SizeOf(tensor.type)), 0u)
        << name;
}

TEST(Safetensors, FindNamesWhatIsMissingOrHasAnotherShape) {
  const TemporaryDirectory directory;
  const auto path = directory.Put("a.safetensors",
                                  FileBytes("{" + Entry("w", "F32", "[2,3]", "[0,24]") + "}", 24));
  auto opened = Checkpoint::OpenFile(path);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  EXPECT_TRUE((*opened)->Find("w", {2, 3}).ok());
  EXPECT_EQ((*opened)->Find("w", {3, 2}).status().message(),
            path + ": tensor \"w\" has shape [2, 3], expected [3, 2]");
  EXPECT_EQ((*opened)->Find("v").status().message(), path + ": no tensor \"v\" among 1");
  EXPECT_EQ((*opened)->Find("v").status().code(), StatusCode::kNotFound);
}

struct BadHeader {
  const char* what;
  std::string header;
  std::string message;
};

TEST(Safetensors, EveryWrongHeaderIsRefusedWithFileTensorAndReason) {
  const std::string good = Entry("a", "F32", "[2]", "[0,8]");
  const std::vector<BadHeader> rows = {
      {"empty object is fine, bad text is not", "{]", "not valid JSON at byte 2"},
      {"array", "[]", "the header is an array, expected an object"},
      {"number", "17", "the header is 17, expected an object"},
      {"bad UTF-8", "{\"a\xff\":{}}", "not valid JSON at byte 4, near"},
      {"zero byte", std::string("{}\0 x", 5), "zero byte at byte 3"},
      {"unfinished", "{" + good, "not valid JSON"},
      {"text after the object", "{" + good + "} x", "not valid JSON"},
      {"deep nesting", "{\"a\":" + std::string(1000, '['), "tensor \"a\": the entry is an array"},
      {"number too large", R"({"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}})",
       "number out of range"},
      {"entry not an object", R"({"a":[1]})", "tensor \"a\": the entry is an array"},
      {"entry null", R"({"a":null})", "tensor \"a\": the entry is null, expected an object"},
      {"no dtype", R"({"a":{"shape":[2],"data_offsets":[0,8]}})",
       "tensor \"a\": the entry has no dtype"},
      {"no shape", R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", "the entry has no shape"},
      {"no offsets", R"({"a":{"dtype":"F32","shape":[2]}})", "the entry has no data_offsets"},
      {"unknown key", R"({"a":{"dtype":"F32","shape":[2],"data":[0,8]}})", "unknown key \"data\""},
      {"dtype not a string", R"({"a":{"dtype":4,"shape":[2],"data_offsets":[0,8]}})",
       "tensor \"a\": dtype is 4, expected a string"},
      {"dtype list", R"({"a":{"dtype":["F32"],"shape":[2],"data_offsets":[0,8]}})",
       "dtype is an array, expected a string"},
      {"unsupported dtype", "{" + Entry("a", "F64", "[1]", "[0,8]") + "}",
       "tensor \"a\": dtype \"F64\" is not supported, expected one of F32 F16 BF16 F8_E4M3 I8 I32 "
       "I64"},
      {"lower case", "{" + Entry("a", "bf16", "[4]", "[0,8]") + "}", "dtype \"bf16\" is not"},
      {"negative shape", "{" + Entry("a", "F32", "[-2]", "[0,8]") + "}",
       "tensor \"a\": shape holds -2, expected integers from 0"},
      {"fractional shape", "{" + Entry("a", "F32", "[2.0]", "[0,8]") + "}",
       "shape holds 2.0, expected integers"},
      {"shape is a string", "{" + Entry("a", "F32", "\"2\"", "[0,8]") + "}",
       "shape is \"2\", expected an array"},
      {"nested shape", "{" + Entry("a", "F32", "[[2]]", "[0,8]") + "}", "shape holds an array"},
      {"shape beyond int64", "{" + Entry("a", "F32", "[18446744073709551615]", "[0,8]") + "}",
       "shape holds 1.8"},
      {"overflowing shape", "{" + Entry("a", "F32", "[4294967296,4294967296]", "[0,8]") + "}",
       "shape [4294967296, 4294967296] is too large"},
      {"overflow to a small number",
       "{" + Entry("a", "F32", "[4611686018427387904,4]", "[0,0]") + "}", "is too large"},
      {"nine dimensions", "{" + Entry("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") + "}",
       "shape has more than 8 elements"},
      {"one offset", "{" + Entry("a", "F32", "[2]", "[8]") + "}", "data_offsets has 1 elements"},
      {"three offsets", "{" + Entry("a", "F32", "[2]", "[0,8,9]") + "}", "data_offsets has 3"},
      {"negative offset", "{" + Entry("a", "F32", "[2]", "[-8,0]") + "}", "data_offsets holds -8"},
      {"end before begin", "{" + Entry("a", "F32", "[2]", "[8,0]") + "}",
       "tensor \"a\": data_offsets begin at 8 and end at 0"},
      {"past the end", "{" + Entry("a", "F32", "[5]", "[0,20]") + "}",
       "data_offsets end at byte 20, but the file has 16 bytes of data"},
      {"far past the end",
       "{" + Entry("a", "F32", "[2]", "[9223372036854775799,9223372036854775807]") + "}",
       "but the file has 16 bytes"},
      {"too few bytes", "{" + Entry("a", "F32", "[3]", "[0,8]") + "}",
       "tensor \"a\": data_offsets span 8 bytes, expected 12 for F32 [3]"},
      {"overlap", "{" + good + "," + Entry("b", "F32", "[2]", "[4,12]") + "}",
       "tensors \"a\" (bytes 0 to 8) and \"b\" (bytes 4 to 12) overlap"},
      {"same bytes", "{" + good + "," + Entry("b", "F32", "[2]", "[0,8]") + "}", "overlap"},
      {"same name", "{" + good + "," + Entry("a", "F32", "[2]", "[8,16]") + "}",
       "key \"a\" appears twice in one object"},
      {"same field", R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       "key \"dtype\" appears twice"},
      {"metadata with numbers", R"({"__metadata__":{"a":1}})", "__metadata__ holds 1"},
      {"metadata with objects", R"({"__metadata__":{"a":{"b":"c"}}})",
       "__metadata__ holds an object"},
  };
  const TemporaryDirectory directory;
  for (const BadHeader& row : rows) {
    const Status status = OpenBytes(directory, FileBytes(row.header, 16));
    EXPECT_FALSE(status.ok()) << row.what;
    EXPECT_TRUE(status.message().starts_with(directory.File("x.safetensors: ")))
        << status.message();
    EXPECT_NE(status.message().find(row.message), std::string::npos)
        << row.what << ": " << status.message();
  }
}

TEST(Safetensors, GapsEmptyTensorsAndMetadataAreAccepted) {
  const TemporaryDirectory directory;
  for (const std::string& header :
       {std::string("{}"), std::string(R"({"__metadata__":{"format":"pt"}}   )"),
        "{" + Entry("b", "I8", "[4]", "[12,16]") + "," + Entry("a", "I8", "[4]", "[2,6]") + "}",
        "{" + Entry("a", "I8", "[8]", "[0,8]") + "," + Entry("b", "F32", "[0]", "[4,4]") + "}"}) {
    const Status status = OpenBytes(directory, FileBytes(header, 16));
    EXPECT_TRUE(status.ok()) << header << ": " << status.message();
  }
}

TEST(Safetensors, ShortFilesAndWrongHeaderLengthsAreRefused) {
  const TemporaryDirectory directory;
  EXPECT_NE(OpenBytes(directory, "").message().find("0 bytes, expected at least 8"),
            std::string::npos);
  EXPECT_NE(OpenBytes(directory, "1234567").message().find("7 bytes"), std::string::npos);
  for (const uint64_t length : {0ull, 1ull, 3ull, 100ull, 1ull << 40, ~0ull, ~0ull - 7}) {
    std::string bytes = FileBytes("{}", 0);
    std::memcpy(bytes.data(), &length, 8);
    EXPECT_NE(OpenBytes(directory, bytes).message().find(Text("header length ", length)),
              std::string::npos);
  }
  // A sparse file that is large enough for a header of more than 100 MB.
  const std::string path = directory.Put("big.safetensors", FileBytes("", 0));
  std::filesystem::resize_file(path, 300'000'000);
  const uint64_t length = 100'000'001;
  std::fstream(path, std::ios::in | std::ios::out | std::ios::binary)
      .write(reinterpret_cast<const char*>(&length), 8);
  EXPECT_NE(Checkpoint::OpenFile(path).status().message().find("expected 2 to 100000000"),
            std::string::npos);
}

TEST(Safetensors, EveryTruncationAndEveryMutatedHeaderByteGivesAnErrorOrACheckpoint) {
  const TemporaryDirectory directory;
  const std::string header = R"({"__metadata__":{"format":"pt"},)" +
                             Entry("model.a", "BF16", "[2,4]", "[0,16]") + "," +
                             Entry("b", "I8", "[10]", "[16,26]") + "}";
  const std::string good = FileBytes(header, 26);
  ASSERT_TRUE(OpenBytes(directory, good).ok());
  int refused = 0;
  for (size_t length = 0; length < good.size(); ++length) {
    const Status status = OpenBytes(directory, good.substr(0, length));
    EXPECT_FALSE(status.ok()) << length;
    EXPECT_NE(status.message().find("x.safetensors"), std::string::npos) << status.message();
  }
  constexpr unsigned kSeed = 4711;
  RecordProperty("seed", kSeed);
  std::mt19937 random(kSeed);
  for (size_t position = 0; position < 8 + header.size(); ++position) {
    std::vector<char> values = {'\0', '\xff', '"', '{', '}', '[', ']', ',', '-', '9', ' '};
    for (int i = 0; i < 5; ++i) values.push_back(static_cast<char>(random()));
    for (const char value : values) {
      std::string bytes = good;
      bytes[position] = value;
      const Status status = OpenBytes(directory, bytes);
      refused += status.ok() ? 0 : 1;
      EXPECT_TRUE(status.ok() || status.message().starts_with(directory.path()));
      // One byte more: the header's length no longer fits.
      bytes = good;
      bytes.insert(position, 1, value);
      const Status inserted = OpenBytes(directory, bytes);
      EXPECT_TRUE(inserted.ok() || inserted.message().starts_with(directory.path()))
          << "seed " << kSeed << ": " << inserted.message();
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(Safetensors, AnIndexIsHeldToItsPromises) {
  const std::string a = FileBytes("{" + Entry("a", "I8", "[4]", "[0,4]") + "}", 4);
  const std::string b = FileBytes("{" + Entry("b", "I8", "[4]", "[0,4]") + "}", 4);
  const std::string index = "model.safetensors.index.json";
  struct Row {
    std::string index;
    std::string message;  // empty: opens
  };
  const std::vector<Row> rows = {
      {R"({"metadata":{"total_size":8,"x":[1,{}]},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}})",
       ""},
      {R"({"weight_map":{"a":"1.safetensors"}})", ""},
      {R"({"metadata":{}})", "no weight_map"},
      {R"([])", "holds an array, expected an object"},
      {R"({"weight_map":["a"]})", "weight_map is an array, expected an object"},
      {R"({"weight_map":null})", "weight_map is null, expected an object"},
      {R"({"weight_map":{"a":1}})", "tensor \"a\": weight_map gives 1"},
      {R"({"weight_map":{"a":{"b":"c"}}})", "tensor \"a\": weight_map gives an object"},
      {R"({"weight_map":{"a":"../1.safetensors"}})", "weight_map gives \"../1.safetensors\""},
      {R"({"weight_map":{"a":""}})", "weight_map gives \"\""},
      {R"({"weight_map":{"a":"3.safetensors"}})",
       "tensor \"a\" is said to be in \"3.safetensors\", but there is no such file"},
      {R"({"weight_map":{"c":"1.safetensors"}})", "1.safetensors: no tensor \"c\", which"},
      {R"({"weight_map":{"a":"2.safetensors","b":"1.safetensors"}})",
       "2.safetensors: no tensor \"a\", which"},
      {R"({"weight_map":{"a":"1.safetensors","a":"2.safetensors"}})", "appears twice"},
      {R"({"weight_map":{}})", "no tensors"},
      {R"({"weight_map":)", "not valid JSON"},
      {"", "not valid JSON"},
  };
  const TemporaryDirectory directory;
  directory.Put("1.safetensors", a);
  directory.Put("2.safetensors", b);
  for (const Row& row : rows) {
    directory.Put(index, row.index);
    const auto opened = Checkpoint::Open(directory.path());
    EXPECT_EQ(opened.ok(), row.message.empty()) << row.index;
    EXPECT_NE(opened.status().message().find(row.message), std::string::npos)
        << row.index << ": " << opened.status().message();
  }
}

TEST(Safetensors, WithoutAnIndexAllFilesCountButGoldenAndConsolidated) {
  const TemporaryDirectory directory;
  const std::string a = FileBytes("{" + Entry("a", "I8", "[4]", "[0,4]") + "}", 4);
  const std::string b = FileBytes("{" + Entry("b", "I8", "[4]", "[0,4]") + "}", 4);
  EXPECT_NE(Checkpoint::Open(directory.path()).status().message().find("no tensors"),
            std::string::npos);
  EXPECT_NE(Checkpoint::Open(directory.File("none")).status().message().find("not a directory"),
            std::string::npos);
  directory.Put("model-1.safetensors", a);
  directory.Put("model-2.safetensors", b);
  directory.Put("golden.safetensors", a);
  directory.Put("consolidated.safetensors", a);
  directory.Put("model-3.safetensors.partial.7", a);
  auto opened = Checkpoint::Open(directory.path());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  EXPECT_EQ((*opened)->tensors().size(), 2u);
  directory.Put("model-3.safetensors", a);
  EXPECT_NE(Checkpoint::Open(directory.path())
                .status()
                .message()
                .find("model-3.safetensors: tensor \"a\" is also in " +
                      directory.File("model-1.safetensors")),
            std::string::npos);
  std::filesystem::create_directory(directory.File("z.safetensors"));
  EXPECT_NE(Checkpoint::OpenFile(directory.File("z.safetensors"))
                .status()
                .message()
                .find("not a regular file"),
            std::string::npos);
}

TEST(SafetensorsWriter, NoFileAppearsBeforeFinish) {
  const TemporaryDirectory directory;
  const std::string path = directory.File("m.safetensors");
  const auto Files = [&] {
    return std::distance(std::filesystem::directory_iterator(directory.path()), {});
  };
  {
    auto writer = SafetensorsWriter::Create(path, {{"a", StoredType::kI8, {4}}});
    ASSERT_TRUE(writer.ok()) << writer.status().message();
    EXPECT_TRUE(writer->Write("a", "1234", 4).ok());
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_EQ(Files(), 1);
  }
  EXPECT_EQ(Files(), 0);
}

TEST(SafetensorsWriter, HoldsTheCallerToTheDeclarations) {
  const TemporaryDirectory directory;
  const std::string path = directory.File("m.safetensors");
  auto writer =
      SafetensorsWriter::Create(path, {{"a", StoredType::kF32, {2}}, {"b", StoredType::kF32, {1}}});
  ASSERT_TRUE(writer.ok()) << writer.status().message();
  EXPECT_NE(writer->Write("c", "", 0).message().find("\"c\" was not declared"), std::string::npos);
  EXPECT_NE(writer->Write("a", "1234", 4).message().find("4 bytes given, 8 declared"),
            std::string::npos);
  EXPECT_TRUE(writer->Write("a", "12345678", 8).ok());
  EXPECT_NE(writer->Write("a", "12345678", 8).message().find("written twice"), std::string::npos);
  EXPECT_NE(writer->Finish().message().find("\"b\" was never written"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_TRUE(writer->Write("b", "1234", 4).ok());
  EXPECT_TRUE(writer->Finish().ok());
  EXPECT_TRUE(Checkpoint::OpenFile(path).ok());

  const auto Create = [&](std::vector<SafetensorsWriter::Declaration> declarations) {
    return SafetensorsWriter::Create(path, std::move(declarations)).status().message();
  };
  EXPECT_NE(Create({{"a", StoredType::kI8, {1}}, {"a", StoredType::kI8, {2}}}).find("twice"),
            std::string::npos);
  EXPECT_NE(Create({{"__metadata__", StoredType::kI8, {1}}}).find("reserved"), std::string::npos);
  EXPECT_NE(Create({{"a", StoredType::kI8, {-1}}}).find("negative"), std::string::npos);
  EXPECT_NE(Create({{"a", StoredType::kI64, {1ll << 62}}}).find("too large"), std::string::npos);
  EXPECT_NE(Create({{"a\xff", StoredType::kI8, {1}}}).find("not valid UTF-8"), std::string::npos);
  EXPECT_NE(SafetensorsWriter::Create(directory.File("none/m"), {})
                .status()
                .message()
                .find("can't create"),
            std::string::npos);
}

}  // namespace
}  // namespace causeway
