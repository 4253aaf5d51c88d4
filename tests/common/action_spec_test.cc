#include "common/action_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/columns.h"
#include "common/tensor_spec.h"

namespace sibyl {
namespace {

using testing::HasSubstr;

v1::EnvironmentSpec TwoParts() {
  v1::EnvironmentSpec spec;
  spec.set_name("test/Parts");
  *spec.mutable_action() = OneOf({"a", "b", "c"});
  for (const char* choice : {"x", "y"}) spec.mutable_action()->mutable_discrete()->add_parts()->add_choices(choice);
  *spec.add_observation() = MakeTensorSpec("legal", v1::DTYPE_UINT8, {5});
  return spec;
}

v1::ActionSpec Box(std::vector<std::pair<float, float>> bounds) {
  v1::ActionSpec spec;
  for (const auto& [low, high] : bounds) {
    spec.mutable_box()->add_low(low);
    spec.mutable_box()->add_high(high);
  }
  return spec;
}

std::string Bytes(std::vector<uint16_t> choices) {
  std::string bytes;
  for (const uint16_t choice : choices) AppendTo(&bytes, choice);
  return bytes;
}

std::string Bytes(std::vector<float> numbers) {
  std::string bytes;
  for (const float number : numbers) AppendTo(&bytes, number);
  return bytes;
}

TEST(ActionSpec, SaysHowManyNumbersAndBytesAnActionHas) {
  const v1::ActionSpec parts = TwoParts().action(), box = Box({{-1, 1}, {0, 5}});
  EXPECT_EQ(ActionNumbers(parts), 3);
  EXPECT_EQ(AllChoices(parts), 5);
  EXPECT_EQ(ActionBytes(parts), 6u);
  EXPECT_EQ(ActionNumbers(box), 2);
  EXPECT_EQ(AllChoices(box), 0);
  EXPECT_EQ(ActionBytes(box), 8u);
}

TEST(ActionSpec, AnEnvironmentWhoseActionCannotBePlayedIsRefusedByName) {
  v1::EnvironmentSpec spec = TwoParts();
  EXPECT_EQ(CheckActionSpec(spec), absl::OkStatus());
  spec.mutable_action()->set_mask("legal");
  EXPECT_EQ(CheckActionSpec(spec), absl::OkStatus());
  const auto error = [&] { return std::string(CheckActionSpec(spec).message()); };
  spec.mutable_observation(0)->set_shape(0, 4);
  EXPECT_THAT(error(), HasSubstr("test/Parts`: the mask `legal` must be 5 uint8"));
  spec.mutable_action()->set_mask("allowed");
  EXPECT_THAT(error(), HasSubstr("`allowed` is not among its observation arrays"));
  *spec.mutable_action() = Box({{0, 0}});
  EXPECT_THAT(error(), HasSubstr("number 0 of its action lies between 0 and 0"));
  *spec.mutable_action() = Box({{0, 1}});
  spec.mutable_action()->set_mask("legal");
  EXPECT_THAT(error(), HasSubstr("masks an action of real numbers"));
  spec.clear_action();
  EXPECT_THAT(error(), HasSubstr("neither parts nor numbers"));
}

TEST(ActionSpec, ActionsThatDoNotExistAreRefused) {
  const v1::ActionSpec parts = TwoParts().action();
  EXPECT_EQ(CheckActions(parts, Bytes(std::vector<uint16_t>{2, 0, 0, 0, 0, 0})), absl::OkStatus());
  EXPECT_THAT(std::string(CheckActions(parts, Bytes(std::vector<uint16_t>{2, 0, 0, 0, 1, 0})).message()),
              HasSubstr("action 1 makes choice 1 of 1 in part 1"));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(CheckActions(Box({{0, 1}}), Bytes(std::vector<float>{7})), absl::OkStatus()) << "the actor scales it";
  EXPECT_THAT(std::string(CheckActions(Box({{0, 1}}), Bytes(std::vector<float>{0, nan})).message()),
              HasSubstr("number 0 of action 1 is nan"));
}

TEST(ActionSpec, ScalesThePolicysUnitsToTheBounds) {
  const float infinity = std::numeric_limits<float>::infinity();
  const v1::ActionSpec spec = Box({{-2, 2}, {0, 10}, {0, 10}, {-infinity, infinity}, {0, infinity}});
  std::string action = Bytes(std::vector<float>{0.5f, -1, 7, 7, -3});
  ScaleToBounds(spec.box(), action.data());
  EXPECT_EQ(action, Bytes(std::vector<float>{1, 0, 10, 7, 0}));
}

TEST(ActionSpec, RandomActionsExist) {
  Random random(1);
  const v1::ActionSpec parts = TwoParts().action(), box = Box({{-2, 2}, {0, 10}});
  std::string choices(ActionBytes(parts), '\0'), numbers(ActionBytes(box), '\0');
  for (int i = 0; i < 100; ++i) {
    RandomAction(parts, random, choices.data());
    EXPECT_EQ(CheckActions(parts, choices), absl::OkStatus());
    RandomAction(box, random, numbers.data());
    EXPECT_GE(EntryOf<float>(numbers, 1), 0);
    EXPECT_LE(EntryOf<float>(numbers, 1), 10);
  }
}

TEST(ActionSpec, AMaskLeavesEachPartAChoice) {
  const v1::ActionSpec spec = TwoParts().action();
  EXPECT_EQ(CheckMask(spec, absl::string_view("\1\0\0\1\1", 5)), absl::OkStatus());
  EXPECT_THAT(std::string(CheckMask(spec, absl::string_view("\1\0\0\0\1", 5)).message()),
              HasSubstr("part 1 of the action no legal choice"));
}

}  // namespace
}  // namespace sibyl
