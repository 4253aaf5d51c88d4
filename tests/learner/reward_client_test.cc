#include "learner/reward_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "common/caption.h"
#include "common/protocol.h"
#include "common/rpc/server.h"
#include "tests/heartbeat_watch.h"

namespace sibyl::learner {
namespace {

using testing::HasSubstr;

// A reward model that answers each hello with the status that the test wants, or with a hello.
class FakeRewardModel : public v1::RewardService::Service {
 public:
  grpc::Status Rewards(grpc::ServerContext* context,
                       grpc::ServerReaderWriter<v1::RewardModelToLearner, v1::LearnerToRewardModel>* stream) override {
    v1::LearnerToRewardModel in;
    if (!stream->Read(&in)) return grpc::Status::OK;
    v1::RewardModelToLearner out;
    {
      MutexLock lock(mutex_);
      hellos_.push_back(in.hello());
      if (!answer_.ok()) return answer_;
      out.mutable_hello()->set_incarnation(42);
    }
    stream->Write(out);
    out.mutable_scores()->set_sequence(1);
    out.mutable_scores()->add_id(CaptionId("a door"));
    out.mutable_scores()->add_score(1);
    out.mutable_scores()->mutable_transform()->set_deviation(1);
    stream->Write(out);
    while (stream->Read(&in)) {
      MutexLock lock(mutex_);
      counts_ += in.counts().id_size();
      if (!ends_with_.ok()) return ends_with_;
    }
    return grpc::Status::OK;
  }
  void Answer(grpc::Status status) {
    MutexLock lock(mutex_);
    answer_ = std::move(status);
  }
  void EndWith(grpc::Status status) {
    MutexLock lock(mutex_);
    ends_with_ = std::move(status);
  }
  std::vector<v1::LearnerHello> hellos() {
    MutexLock lock(mutex_);
    return hellos_;
  }
  int counts() {
    MutexLock lock(mutex_);
    return counts_;
  }

 private:
  Mutex mutex_;
  grpc::Status answer_ ABSL_GUARDED_BY(mutex_), ends_with_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::LearnerHello> hellos_ ABSL_GUARDED_BY(mutex_);
  int counts_ ABSL_GUARDED_BY(mutex_) = 0;
};

class RewardClientTest : public testing::Test {
 protected:
  RewardClientTest() : server_(*rpc::Server::Start("127.0.0.1:0", {&model_})) {}

  std::unique_ptr<RewardClient> Start() {
    return std::make_unique<RewardClient>(
        absl::StrCat("127.0.0.1:", server_->port()), "this run", "the goal", &captions_, for_ranks_, [this] { return Steps(); },
        &Clock::Real(), &watch_.heartbeats,
        [this](absl::Status status) {
          MutexLock lock(mutex_);
          failure_ = std::move(status);
        },
        &metrics_);
  }
  // Called by both of the client's threads.
  uint64_t Steps() {
    if (Gate* gate = gate_; gate != nullptr) gate->Wait();
    return 7;
  }
  absl::Status failure() {
    MutexLock lock(mutex_);
    return failure_;
  }
  void See(const std::string& caption) {
    const uint64_t id = CaptionId(caption);
    int32_t row;
    captions_.See({&id, 1}, 1, &row);
  }

  std::atomic<Gate*> gate_ = nullptr;
  ScoreQueue* for_ranks_ = nullptr;
  FakeRewardModel model_;
  const std::unique_ptr<rpc::Server> server_;
  CaptionTable captions_{100};
  Metrics metrics_;
  HeartbeatWatch watch_;
  Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(RewardClientTest, AppliesScoresAndOffersCaptions) {
  See("a door");
  const auto client = Start();
  EXPECT_TRUE(Eventually([&] { return model_.counts() == 1; }));
  See("a key");
  EXPECT_TRUE(Eventually([&] { return model_.counts() == 2; }));
  const v1::LearnerHello hello = model_.hellos().at(0);
  EXPECT_EQ(hello.run_id(), "this run");
  EXPECT_EQ(hello.goal(), "the goal");
  EXPECT_EQ(hello.protocol_version(), kProtocolVersion);
  const uint64_t id = CaptionId("a door");
  EXPECT_TRUE(Eventually([&] {
    int32_t row;
    captions_.See({&id, 1}, 2, &row);
    CaptionReward reward;
    captions_.Rewards({&row, 1}, 2, &reward);
    return reward.scored;
  }));
  EXPECT_TRUE(failure().ok());
}

TEST_F(RewardClientTest, WhatWaitsForTheOtherRanksHasABound) {
  ScoreQueue queue(&Clock::Real(), &metrics_, {.rows = 3, .bytes = 1 << 20});
  for_ranks_ = &queue;
  google::protobuf::RepeatedPtrField<v1::ScoreUpdate> updates;
  v1::ScoreUpdate earlier;
  earlier.add_id(1);
  earlier.add_score(1);
  queue.Push(earlier);
  prometheus::Counter& waits = metrics_.Counter("sibyl_learner_score_queue_waits_total", "");
  prometheus::Counter& applied = metrics_.Counter("sibyl_learner_score_updates_total", "");
  {
    const auto client = Start();
    ASSERT_TRUE(Eventually([&] { return waits.Value() == 1; }));
    EXPECT_EQ(applied.Value(), 0) << "what the ranks cannot have yet, rank 0 does not have either";
    queue.TakeAll(&updates);
    EXPECT_TRUE(Eventually([&] { return applied.Value() == 1; }));
    EXPECT_TRUE(Eventually([&] {
      queue.TakeAll(&updates);
      return updates.size() == 1;
    }));
    EXPECT_EQ(updates[0].id(0), CaptionId("a door"));
    queue.Push(earlier);
    queue.Push(earlier);
  }
  // Another client that is ended while its reader waits.
  const auto client = Start();
  EXPECT_TRUE(Eventually([&] { return waits.Value() == 2; }));
}

TEST_F(RewardClientTest, ARefusalKeepsItsStatusAndEndsTheClient) {
  for (const auto code : {grpc::StatusCode::FAILED_PRECONDITION, grpc::StatusCode::INVALID_ARGUMENT}) {
    model_.Answer({code, "the run differs"});
    const auto client = Start();
    ASSERT_TRUE(Eventually([&] { return !failure().ok(); }));
    EXPECT_EQ(static_cast<int>(failure().code()), static_cast<int>(code));
    EXPECT_THAT(std::string(failure().message()), HasSubstr("refuses this learner: the run differs"));
    MutexLock lock(mutex_);
    failure_ = absl::OkStatus();
  }
}

TEST_F(RewardClientTest, ARefusalInMidStreamKeepsItsStatusToo) {
  model_.EndWith({grpc::StatusCode::INVALID_ARGUMENT, "a count is too large"});
  See("a door");
  const auto client = Start();
  ASSERT_TRUE(Eventually([&] { return !failure().ok(); }));
  EXPECT_THAT(std::string(failure().message()), HasSubstr("a count is too large"));
}

TEST_F(RewardClientTest, ComesBackAfterALossAndSaysWhatItHas) {
  model_.EndWith({grpc::StatusCode::UNAVAILABLE, "draining"});
  See("a door");
  const auto client = Start();
  ASSERT_TRUE(Eventually([&] { return model_.hellos().size() >= 2; }));
  EXPECT_EQ(model_.hellos()[0].reward_model_incarnation(), 0u);
  EXPECT_EQ(model_.hellos()[1].reward_model_incarnation(), 42u);
  EXPECT_EQ(model_.hellos()[1].last_sequence(), 1u);
  EXPECT_TRUE(failure().ok());
}

TEST_F(RewardClientTest, ItsThreadsAreWatchedAndMayWaitForTheRewardModel) {
  const auto client = Start();
  EXPECT_TRUE(Eventually([&] { return model_.hellos().size() == 1; }));
  EXPECT_TRUE(watch_.ComesBackAfter(absl::Minutes(10)));
  EXPECT_EQ(watch_.Silence("reward-reader"), 0);
  Gate gate;
  gate_ = &gate;
  See("a door");
  ExpectSilenceWhileIn(gate, watch_, "reward-client");
  gate_ = nullptr;
}

TEST_F(RewardClientTest, EndsAtOnceWhileTheRewardModelIsSilent) {
  const auto client = Start();
  EXPECT_TRUE(Eventually([&] { return model_.hellos().size() == 1; }));
  // The destructor cancels the stream and joins both threads; a hang is the test's time-out.
}

}  // namespace
}  // namespace sibyl::learner
