#include "environments/environment_group.h"

#include <gtest/gtest.h>

#include <deque>

#include "common/action_spec.h"
#include "common/columns.h"
#include "common/random.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"

namespace sibyl {
namespace {

constexpr int kRows = 5;

// An environment played by itself.
struct Alone {
  explicit Alone(const std::string& name) : environment(*MakeEnvironment(name)) {
    observation.resize(ObservationBytes(environment->spec()));
    char* at = observation.data();
    for (const v1::TensorSpec& array : environment->spec().observation()) {
      arrays.push_back(at);
      at += Bytes(array);
    }
  }
  std::unique_ptr<Environment> environment;
  std::string observation;
  std::vector<void*> arrays;
};

class EnvironmentGroupTest : public testing::TestWithParam<const char*> {};

TEST_P(EnvironmentGroupTest, DoesWhatItsEnvironmentsDoAloneAndGoesOnWithTheNextEpisode) {
  const auto group = *MakeEnvironmentGroup(GetParam(), kRows, {.environment = {}, .contexts = true});
  ASSERT_EQ(group->rows(), kRows);
  const v1::ActionSpec action_spec = group->spec().action();
  const size_t bytes = ObservationBytes(group->spec()), action_bytes = ActionBytes(action_spec);
  std::deque<Alone> alone;  // whose arrays stay where they are
  for (int row = 0; row < kRows; ++row) alone.emplace_back(GetParam());
  std::string observations(kRows * bytes, 'o'), finals(kRows * bytes, 'f'), actions(kRows * action_bytes, '\0');
  std::vector<RowOrder> orders(kRows);
  std::vector<int> length(kRows);
  Random random(1);
  uint64_t seed = 1;
  int ends = 0, cuts = 0;
  for (int step = 0; step < 300; ++step) {
    for (int row = 0; row < kRows; ++row) {
      RandomAction(action_spec, random, &actions[row * action_bytes]);
      orders[row] = {step == 0 ? nullptr : &actions[row * action_bytes], seed++, random.Below(20) == 0};
    }
    ASSERT_TRUE(group->Start(orders, observations.data(), finals.data()).ok());
    const auto results = group->Finish();
    ASSERT_TRUE(results.ok()) << results.status();
    for (int row = 0; row < kRows; ++row) {
      const RowResult& result = (*results)[row];
      Alone& one = alone[row];
      bool ended = true;
      if (step > 0) {
        const StepResult expected = *one.environment->Step(ActionView(orders[row].action), one.arrays);
        ended = expected.terminated || expected.truncated || orders[row].cut_off;
        EXPECT_EQ(result.step.reward, expected.reward);
        EXPECT_EQ(result.step.terminated, expected.terminated);
        EXPECT_EQ(result.step.truncated, ended && !expected.terminated);
        EXPECT_EQ(result.cut_off, ended && !expected.terminated && !expected.truncated);
        EXPECT_EQ(result.caption, one.environment->Caption());
        if (!result.caption.empty()) {
          EXPECT_EQ(result.context, one.environment->Context());
        }
        if (ended) {
          EXPECT_EQ(result.success, one.environment->Success());
          EXPECT_EQ(result.figures, one.environment->Figures());
          EXPECT_EQ(finals.substr(row * bytes, bytes), one.observation);
        }
        cuts += result.cut_off;
        ends += ended;
      }
      EXPECT_EQ(result.started, ended);
      if (ended) {
        ASSERT_TRUE(one.environment->Reset(orders[row].seed, one.arrays).ok());
        EXPECT_EQ(result.first_caption, one.environment->Caption());
      }
      EXPECT_EQ(observations.substr(row * bytes, bytes), one.observation);
    }
  }
  EXPECT_GT(cuts, 0);
  EXPECT_GT(ends, cuts);
}

INSTANTIATE_TEST_SUITE_P(Families, EnvironmentGroupTest,
                         testing::Values("debug/Alignment", "debug/Choices", "debug/Reach",
                                         "minigrid/LavaCrossingS9N1"),
                         [](const auto& info) { return "Case" + std::to_string(info.index); });

TEST(EnvironmentGroup, ANameThatDoesNotExistIsRefused) {
  EXPECT_EQ(MakeEnvironmentGroup("minigrid/DorKey-8x8", 2, {}).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace sibyl
