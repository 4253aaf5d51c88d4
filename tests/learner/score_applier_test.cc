#include "learner/experience/score_applier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/heartbeat_watch.h"

namespace sibyl::learner {
namespace {

google::protobuf::RepeatedPtrField<v1::ScoreUpdate> Updates(uint64_t id, std::vector<float> scores) {
  google::protobuf::RepeatedPtrField<v1::ScoreUpdate> updates;
  for (const float score : scores) {
    v1::ScoreUpdate& update = *updates.Add();
    update.add_id(id);
    update.add_score(score);
    update.set_score_version(static_cast<uint64_t>(score));
    update.mutable_transform()->set_deviation(1);
  }
  return updates;
}

TEST(ScoreApplier, AppliesUpdatesInTheOrderInWhichTheyCame) {
  HeartbeatWatch watch;
  CaptionTable table(10);
  ScoreApplier applier(&table, &Clock::Real(), &watch.heartbeats);
  const uint64_t id = 5;
  int32_t row = 0;
  table.See({&id, 1}, 0, &row);
  ASSERT_TRUE(applier.Add(Updates(id, {1, 2, 3}), 100).ok());
  ASSERT_TRUE(applier.Add(Updates(id, {4}), 200).ok());
  ASSERT_TRUE(applier.Add({}, 300).ok());
  ASSERT_TRUE(Eventually([&] { return applier.waiting_rows() == 0; }));
  CaptionReward reward;
  table.Rewards({&row, 1}, 250, &reward);
  EXPECT_EQ(reward.reward, 4);
  EXPECT_EQ(reward.age, 50u);
}

TEST(ScoreApplier, TellsOfAnUpdateThatCannotBeApplied) {
  HeartbeatWatch watch;
  CaptionTable table(10);
  ScoreApplier applier(&table, &Clock::Real(), &watch.heartbeats);
  ASSERT_TRUE(applier.Add(Updates(5, {std::numeric_limits<float>::quiet_NaN()}), 0).ok());
  absl::Status status;
  ASSERT_TRUE(Eventually([&] { return !(status = applier.Add(Updates(6, {1}), 0)).ok(); }));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("a score of nan for caption 5"));
}

TEST(ScoreApplier, RefusesMoreRowsThanMayWait) {
  HeartbeatWatch watch;
  CaptionTable table(10);
  ScoreApplier applier(&table, &Clock::Real(), &watch.heartbeats, /*most_rows=*/6);
  EXPECT_TRUE(applier.Add(Updates(5, {1, 2, 3}), 0).ok()) << "two rows each";
  const absl::Status status = applier.Add(Updates(5, {1, 2, 3, 4}), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("the most is 6"));
}

TEST(ScoreApplier, BeatsWhileNothingComes) {
  HeartbeatWatch watch;
  CaptionTable table(10);
  const ScoreApplier applier(&table, &watch.clock, &watch.heartbeats);
  EXPECT_TRUE(watch.ComesBackAfter(absl::Minutes(10)));
  EXPECT_GE(watch.Silence("scores"), 0) << "it is watched";
}

}  // namespace
}  // namespace sibyl::learner
