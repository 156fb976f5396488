#include "app/config_file.h"

#include <gtest/gtest.h>

#include <fstream>

#include "checkpoint/temporary_directory.h"

namespace causeway {
namespace {

using Arguments = std::vector<std::string>;

class ConfigFileTest : public testing::Test {
 protected:
  std::string Write(const std::string& text) {
    const std::string path = files_.path() + "/config.yaml";
    std::ofstream(path) << text;
    return path;
  }
  // The arguments behind those that were there, or the message of the error.
  std::string Error(const std::string& text) {
    return WithConfigFile({"serve", "--config", Write(text)}).status().message();
  }

 private:
  TemporaryDirectory files_;
};

TEST_F(ConfigFileTest, WithoutTheFlagNothingChanges) {
  const Arguments arguments = {"serve", "--model-path", "/m", "--port", "1"};
  EXPECT_EQ(WithConfigFile(arguments).value(), arguments);
  const Arguments other = {"make-model", "--config", "/nowhere/config.json"};
  EXPECT_EQ(WithConfigFile(other).value(), other) << "means another thing there";
  EXPECT_EQ(WithConfigFile({}).value(), Arguments());
  EXPECT_EQ(WithConfigFile({"serve", "--", "--config", "x"}).value(),
            (Arguments{"serve", "--", "--config", "x"}));
}

TEST_F(ConfigFileTest, TheFilesFlagsComeBeforeTheCommandLines) {
  const std::string path = Write(
      "# a server\n"
      "model-path: /models/x y\n"
      "cp_size: 2\n"
      "enable-metrics: true\n"
      "disable-radix-cache: false\n"
      "chunked-prefill-size: -1\n"
      "served-model-name: \"true\"\n"
      "api-key:\n"
      "prefill: [http://a, 'http://b']\n");
  const Arguments flags = {"--model-path",
                           "/models/x y",
                           "--cp-size",
                           "2",
                           "--enable-metrics",
                           "--chunked-prefill-size",
                           "-1",
                           "--served-model-name",
                           "true",
                           "--prefill",
                           "http://a",
                           "http://b"};
  for (const Arguments& given : {Arguments{"--config", path}, Arguments{"--config=" + path}}) {
    Arguments wanted = {"serve"};
    wanted.insert(wanted.end(), flags.begin(), flags.end());
    wanted.insert(wanted.end(), given.begin(), given.end());
    wanted.push_back("--port=2");
    Arguments arguments = {"serve"};
    arguments.insert(arguments.end(), given.begin(), given.end());
    arguments.push_back("--port=2");
    EXPECT_EQ(WithConfigFile(arguments).value(), wanted);
  }
  EXPECT_EQ(WithConfigFile({"serve", "--config", Write("")}).value().size(), 3u);
}

TEST_F(ConfigFileTest, WhatIsWrongIsNamed) {
  EXPECT_NE(Error("a: [1").find("is not YAML: line "), std::string::npos) << Error("a: [1");
  EXPECT_NE(Error("- a\n- b\n").find("is not a map"), std::string::npos);
  EXPECT_NE(Error("port: 1\nhost:\n  a: 1\n").find("'host' in line 3 is a map"), std::string::npos)
      << Error("port: 1\nhost:\n  a: 1\n");
  EXPECT_NE(Error("config: other.yaml\n").find("names another file"), std::string::npos);
  EXPECT_NE(Error("\"\": 1\n").find("line 1 has no name"), std::string::npos);
  const std::string directory = "--config: /tmp: not a regular file";
  EXPECT_NE(WithConfigFile({"serve", "--config", "/tmp"}).status().message().find(directory),
            std::string::npos);
  EXPECT_NE(Error("[1, 2]: 3\n").find("line 1 has no name"), std::string::npos);
  EXPECT_EQ(WithConfigFile({"serve", "--config", "/nowhere/x"}).status().message(),
            "--config: /nowhere/x: can't open: No such file or directory");
  EXPECT_EQ(WithConfigFile({"serve", "--config"}).status().message(), "--config: no file is named");
  EXPECT_EQ(WithConfigFile({"serve", "--config", "a", "--config", "b"}).status().message(),
            "--config is given twice; expected one file");
}

}  // namespace
}  // namespace causeway
