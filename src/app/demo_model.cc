#include "app/demo_model.h"

#include <cstdio>
#include <filesystem>

#include "app/make_model.h"

namespace causeway {

StatusOr<std::string> MakeDemoModel(const std::string& directory) {
  if (std::filesystem::exists(directory + "/config.json")) return directory;
  std::printf("making %s: random weights, 550 MB\n", directory.c_str());
  std::fflush(stdout);
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  MakeModelOptions make;
  make.preset = "bench-mini-v32";
  make.output = directory;
  CAUSEWAY_RETURN_IF_ERROR(MakeModel(make));
  return directory;
}

}  // namespace causeway
