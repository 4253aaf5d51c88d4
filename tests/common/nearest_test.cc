#include "common/nearest.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sibyl {
namespace {

const std::vector<std::string>& Names() {
  static const auto& names =
      *new std::vector<std::string>{"learner.gamma",        "learner.batch_size",   "training.batch_size",
                                    "minigrid/DoorKey-5x5", "minigrid/DoorKey-8x8", "minigrid/KeyCorridorS3R3"};
  return names;
}

TEST(DidYouMean, NamesWhatIsSpelledAlmostTheSame) {
  EXPECT_EQ(DidYouMean("learner.gama", Names()), "; did you mean learner.gamma?");
  EXPECT_EQ(DidYouMean("learner.bacth_size", Names()), "; did you mean learner.batch_size?");
  EXPECT_EQ(DidYouMean("minigrid/keycorridors3r3", Names()), "; did you mean minigrid/KeyCorridorS3R3?");
}

TEST(DidYouMean, FindsANameThatStandsElsewhere) {
  EXPECT_EQ(DidYouMean("gamma", Names()), "; did you mean learner.gamma?");
  EXPECT_EQ(DidYouMean("DoorKey-8x8", Names()), "; did you mean minigrid/DoorKey-8x8?");
  EXPECT_EQ(DidYouMean("batch_size", Names()), "; did you mean learner.batch_size or training.batch_size?");
}

TEST(DidYouMean, NamesSeveralThatAreAsNear) {
  EXPECT_EQ(DidYouMean("minigrid/DoorKey-6x6", Names()),
            "; did you mean minigrid/DoorKey-5x5 or minigrid/DoorKey-8x8?");
}

TEST(DidYouMean, IsSilentWhereNothingIsNear) {
  EXPECT_EQ(DidYouMean("frobnicate", Names()), "");
  EXPECT_EQ(DidYouMean("", Names()), "");
  EXPECT_EQ(DidYouMean(std::string(100'000, 'x'), Names()), "");
}

}  // namespace
}  // namespace sibyl
