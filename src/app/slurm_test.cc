#include "app/slurm.h"

#include <gtest/gtest.h>

#include <map>

namespace causeway {
namespace {

using Environment = std::map<std::string, std::string>;

StatusOr<std::optional<SlurmStep>> StepOf(const Environment& environment) {
  return SlurmStepOf([&](const std::string& name) {
    const auto found = environment.find(name);
    return found == environment.end() ? std::string() : found->second;
  });
}

Environment TwoNodes() {
  return {{"SLURM_STEP_NUM_NODES", "2"},
          {"SLURM_STEP_NUM_TASKS", "2"},
          {"SLURM_NODEID", "1"},
          {"SLURM_JOB_ID", "1234567"},
          {"SLURM_STEP_NODELIST", "node[03-05,9]"}};
}

TEST(Slurm, TheFirstNodeOfAListKeepsItsZerosAndWhatFollowsTheBrackets) {
  for (const auto& [list, first] :
       std::map<std::string, std::string>{{"node7", "node7"},
                                          {"node03,node04", "node03"},
                                          {"node[03-05,9]", "node03"},
                                          {"node[9]", "node9"},
                                          {"node[007,010-011]", "node007"},
                                          {"a,b[1-2]", "a"},
                                          {"gpu[1-2]-ib,x", "gpu1-ib"},
                                          {"rack[2-3]n[10-11]", "rack2n10"},
                                          {"gpu-a[1-2]", "gpu-a1"},
                                          {"127.0.0.[1-2]", "127.0.0.1"},
                                          {"node[03", "node03"},
                                          {"", ""}}) {
    EXPECT_EQ(FirstSlurmNode(list), first) << list;
  }
}

TEST(Slurm, AStepWithOneTaskANodeSaysAllThatHostsNeedToMeet) {
  const auto step = StepOf(TwoNodes());
  ASSERT_TRUE(step.ok()) << step.status().message();
  ASSERT_TRUE(step->has_value());
  EXPECT_EQ((*step)->nodes, 2);
  EXPECT_EQ((*step)->node, 1);
  EXPECT_EQ((*step)->init_addr, "node03:24567");
}

TEST(Slurm, OtherStepsAreOneHost) {
  for (const auto& [name, value] :
       std::multimap<std::string, std::string>{{"SLURM_STEP_NUM_NODES", ""},
                                               {"SLURM_STEP_NUM_NODES", "1"},
                                               {"SLURM_STEP_NUM_TASKS", "8"}}) {
    Environment environment = TwoNodes();
    environment[name] = value;
    const auto step = StepOf(environment);
    ASSERT_TRUE(step.ok()) << step.status().message();
    EXPECT_FALSE(step->has_value()) << name << "=" << value;
  }
}

TEST(Slurm, AnEnvironmentThatMakesNoSenseIsNamed) {
  for (const auto& [name, value] :
       std::multimap<std::string, std::string>{{"SLURM_NODEID", ""},
                                               {"SLURM_NODEID", "2"},
                                               {"SLURM_NODEID", "one"},
                                               {"SLURM_STEP_NODELIST", ""}}) {
    Environment environment = TwoNodes();
    environment[name] = value;
    const auto step = StepOf(environment);
    ASSERT_FALSE(step.ok()) << name << "=" << value;
    EXPECT_NE(step.status().message().find(name), std::string::npos) << step.status().message();
  }
}

}  // namespace
}  // namespace causeway
