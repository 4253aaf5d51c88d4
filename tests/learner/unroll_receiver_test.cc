#include "learner/serving/unroll_receiver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <thread>

#include "common/action_spec.h"
#include "common/caption.h"
#include "common/columns.h"
#include "common/config.h"
#include "common/step_flags.h"
#include "common/tensor_spec.h"
#include "tests/learner/books.h"

namespace sibyl::learner {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int kT = 3, kE = 2, kH = 2;

class Sink : public RecordingSink<UnrollSink> {
 public:
  // `gate`: where the first request hangs; nullptr: nowhere.
  explicit Sink(Gate* gate = nullptr) : gate_(gate) {}
  void RequestBatch(v1::BatchRequest request) override {
    if (gate_ != nullptr) gate_->Wait();
    MutexLock lock(mutex_);
    requests_.push_back(request.sequence());
  }
  std::vector<uint64_t> requests() {
    MutexLock lock(mutex_);
    return requests_;
  }

 private:
  Gate* const gate_;
  std::vector<uint64_t> requests_ ABSL_GUARDED_BY(mutex_);
};

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

void Put(float value, size_t index, std::string* column) {
  column->replace(index * sizeof value, sizeof value, reinterpret_cast<const char*>(&value), sizeof value);
}

uint64_t Id(const std::string& text) { return CaptionId(text); }

// Environment e shows 100 * e + k after k steps of the stream, and ends an episode (environment 0 truncated, 1
// terminated) whenever k is a multiple of 4. Its caption then is "end", otherwise "go", and "start" begins an episode.
class Script {
 public:
  explicit Script(v1::PackingCodec codec = v1::PACKING_CODEC_CHANGES_LZ4) : packer_(codec) {}

  v1::UnrollBatch Next() {
    v1::UnrollBatch batch;
    batch.set_sequence(sequence_);
    if (sequence_ == 0) Step(&batch);
    for (int t = 0; t < kT; ++t) {
      for (int e = 0; e < kE; ++e) {
        const float x = static_cast<float>(k_ + 10 * e);
        AppendTo<uint16_t>(batch.mutable_action(), (k_ + e) % 3);
        AppendTo<float>(batch.mutable_log_prob(), -x);
        AppendTo<float>(batch.mutable_value(), x / 2);
      }
      AppendTo<uint64_t>(batch.mutable_policy_version(), 70 + k_);
      Step(&batch);
    }
    for (int i = 0; i < kE * kH; ++i) AppendTo<float>(batch.mutable_state(), 10 * sequence_ + i);
    ++sequence_;
    return batch;
  }

 private:
  void Step(v1::UnrollBatch* batch) {
    v1::StepBatch* step = batch->add_steps();
    step->set_sequence(k_);
    std::string observations, finals;
    for (int e = 0; e < kE; ++e) {
      const bool ends = k_ > 0 && k_ % 4 == 0, first = ends || k_ == 0;
      const int64_t shown = 100 * e + k_;
      AppendTo<float>(step->mutable_reward(), k_ == 0 ? 0 : static_cast<float>(k_) / 10);
      step->mutable_flags()->push_back((ends ? (e == 0 ? kStepTruncated : kStepTerminated) : 0) |
                                       (first ? kStepFirst : 0));
      AppendTo<uint64_t>(step->mutable_caption_id(), k_ == 0 ? 0 : Id(ends ? "end" : "go"));
      AppendTo<uint32_t>(step->mutable_caption_count(), k_ == 0 ? 0 : ends ? 1 : (k_ - 1) % 4 + 1);
      if (first) {
        AppendTo<uint64_t>(step->mutable_first_caption_id(), Id("start"));
        AppendTo<uint64_t>(step->mutable_first_episode(), k_ / 4);
      }
      if (ends) {
        AppendTo<int64_t>(&finals, -shown);
        step->add_episodes()->set_row(e);
      }
      AppendTo<int64_t>(&observations, shown);
    }
    packer_.Pack(observations, kE, step->mutable_observation());
    if (!finals.empty()) ObservationPacker(v1::PACKING_CODEC_LZ4).Pack(finals, kE, step->mutable_final_observation());
    ++k_;
  }

  ObservationPacker packer_;
  uint64_t sequence_ = 0;
  int k_ = 0;
};

class UnrollReceiverTest : public testing::Test {
 protected:
  UnrollReceiverTest() {
    experiment_.mutable_actor()->set_environments(kE);
    experiment_.mutable_learner()->set_unroll_length(kT);
    experiment_.mutable_learner()->set_batch_size(kT);
    FillDefaults(&experiment_);
    *spec_.add_observation() = MakeTensorSpec("x", v1::DTYPE_INT64, {});
    *spec_.mutable_action() = OneOf({"a", "b", "c"});
    lease_.set_slot(4);
    lease_.set_token(99);
    receiver_ = std::make_unique<UnrollReceiver>(experiment_, spec_, books_.books(), &Clock::Real(),
                                                 &books_.watch.heartbeats, &books_.metrics);
    thread_ = std::thread([this] { EXPECT_EQ(receiver_->Run(), absl::OkStatus()); });
  }
  ~UnrollReceiverTest() override {
    receiver_->Close();
    books_.unrolls.Close();
    thread_.join();
  }

  std::shared_ptr<Sink> Attach(const v1::SlotLease& lease, Gate* gate = nullptr) {
    auto sink = std::make_shared<Sink>(gate);
    receiver_->Attach(lease, sink);
    return sink;
  }
  int64_t Shown(const std::string& observation, int t) { return EntryOf<int64_t>(observation, t); }
  uint64_t IdOf(int32_t row) { return books_.Ids({row})[0]; }

  v1::Experiment experiment_;
  v1::EnvironmentSpec spec_;
  v1::SlotLease lease_;
  TestBooks books_{
      {.length = kT, .observation_bytes = 8, .action_bytes = sizeof(uint16_t), .state_size = kH}, 8, /*steps=*/50};
  std::unique_ptr<UnrollReceiver> receiver_;
  std::thread thread_;
};

TEST_F(UnrollReceiverTest, AnUnrollIsWhatTheBatchSaysAndTheNextGoesOnWhereItEnds) {
  for (const auto codec : {v1::PACKING_CODEC_CHANGES_LZ4, v1::PACKING_CODEC_RAW}) {
    lease_.set_token(lease_.token() + 1);
    Script script(codec);
    auto sink = Attach(lease_);
    for (int batch = 0; batch < 4; ++batch) {
      ASSERT_TRUE(Eventually([&] { return sink->requests().size() == size_t(batch) + 1; }));
      EXPECT_EQ(sink->requests().back(), static_cast<uint64_t>(batch));
      receiver_->Submit(lease_, script.Next());
      Unrolls unrolls = books_.Finished(kE);
      ASSERT_EQ(sink->refused(), absl::OkStatus());
      for (int e = 0; e < kE; ++e) {
        const Unroll& unroll = *unrolls[e];
        EXPECT_EQ(unroll.slot, 4u);
        EXPECT_EQ(unroll.environment, static_cast<uint32_t>(e));
        EXPECT_THAT(unroll.state, ElementsAre(10 * batch + 2 * e, 10 * batch + 2 * e + 1));
        size_t finals = 0;
        for (int t = 0; t <= kT; ++t) {
          const int k = kT * batch + t;  // steps before o_t
          const bool first = k % 4 == 0;
          EXPECT_EQ(Shown(unroll.observation, t), 100 * e + k);
          EXPECT_EQ(unroll.first[t], first);
          EXPECT_EQ(unroll.episode[t], static_cast<uint64_t>(k / 4));
          EXPECT_EQ(IdOf(unroll.seen_caption[t]), Id(first ? "start" : "go"));
          EXPECT_EQ(unroll.seen_count[t], first ? 1u : (k - 1) % 4 + 1);
          if (t == kT) break;
          const bool ends = (k + 1) % 4 == 0;
          EXPECT_EQ(IdOf(unroll.paid_caption[t]), Id(ends ? "end" : "go"));
          EXPECT_EQ(unroll.paid_count[t], ends ? 1u : k % 4 + 1);
          EXPECT_EQ(unroll.reward[t], static_cast<float>(k + 1) / 10);
          EXPECT_EQ(unroll.truncated[t], ends && e == 0);
          EXPECT_EQ(unroll.terminated[t], ends && e == 1);
          EXPECT_EQ(EntryOf<uint16_t>(unroll.action, t), (k + 1 + e) % 3);
          EXPECT_EQ(unroll.log_prob[t], static_cast<float>(-(k + 1 + 10 * e)));
          EXPECT_EQ(unroll.value[t], static_cast<float>(k + 1 + 10 * e) / 2);
          EXPECT_EQ(unroll.policy_version[t], static_cast<uint64_t>(71 + k));
          if (!ends || e != 0) continue;
          ASSERT_LT(finals, unroll.finals.size());
          EXPECT_EQ(unroll.finals[finals].step, t);
          EXPECT_EQ(EntryOf<int64_t>(unroll.finals[finals].observation, 0), -(k + 1));
          ++finals;
        }
        EXPECT_EQ(unroll.finals.size(), finals);
      }
      books_.Unpin(unrolls);
      books_.unrolls.Release(std::move(unrolls));
    }
    receiver_->Detach(lease_);
    ASSERT_TRUE(Eventually([&] { return books_.unrolls.free() == books_.unrolls.capacity(); }));
  }
  EXPECT_EQ(books_.steps.received(), 50u + 2 * 4 * kT * kE);
  const auto means = books_.episodes.Get();
  EXPECT_EQ(means.episodes, 2u * 3 * kE);
  EXPECT_EQ(means.abandoned, 2u * kE);
  // Each occurrence was counted once: 2 streams, 2 environments, 12 steps of which 3 end an episode.
  const v1::CaptionCounts counts = books_.captions.TakeChanged(false, 100);
  std::map<uint64_t, uint64_t> by_id;
  for (int i = 0; i < counts.id_size(); ++i) by_id[counts.id(i)] = counts.count(i);
  EXPECT_EQ(by_id[Id("start")], 2u * 2 * 4);
  EXPECT_EQ(by_id[Id("end")], 2u * 2 * 3);
  EXPECT_EQ(by_id[Id("go")], 2u * 2 * 9);
}

TEST_F(UnrollReceiverTest, BeatsAsLongAsItAnswers) {
  Gate gate;
  const auto sink = Attach(lease_, &gate);
  ExpectSilenceWhileIn(gate, books_.watch, "unrolls");
}

TEST_F(UnrollReceiverTest, AsksForTextsThatItLacks) {
  Script script;
  auto sink = Attach(lease_);
  ASSERT_TRUE(Eventually([&] { return !sink->requests().empty(); }));
  v1::UnrollBatch batch = script.Next();
  v1::CaptionText* text = batch.mutable_steps(1)->add_texts();
  text->set_id(Id("go"));
  text->set_text("go");
  receiver_->Submit(lease_, std::move(batch));
  ASSERT_TRUE(Eventually([&] { return !sink->wanted().empty(); }));
  EXPECT_THAT(sink->wanted(), ElementsAre(Id("start")));
}

TEST_F(UnrollReceiverTest, RequestsFromThoseWhoHaveWaitedLongestAsUnrollsAreReleased) {
  const auto nobody = [](Unrolls) { FAIL(); };
  Unrolls busy = books_.unrolls.Request(1, 3, nobody), busier = books_.unrolls.Request(1, 5, nobody);
  v1::SlotLease other;
  other.set_slot(5);
  auto first = Attach(lease_), second = Attach(other);
  books_.unrolls.Release(std::move(busy));
  ASSERT_TRUE(Eventually([&] { return !first->requests().empty(); }));
  EXPECT_EQ(books_.unrolls.free(), 1);
  EXPECT_THAT(second->requests(), IsEmpty());
  // What a lost one held goes to the next.
  receiver_->Detach(lease_);
  ASSERT_TRUE(Eventually([&] { return !second->requests().empty(); }));
  EXPECT_EQ(books_.episodes.Get().abandoned, 0u);  // it had not played
}

TEST_F(UnrollReceiverTest, RefusesABatchThatBreaksTheContractAndSaysWhy) {
  using Change = std::function<void(v1::UnrollBatch*)>;
  const std::vector<std::pair<std::string, Change>> cases = {
      {"unroll batch 7 was not requested", [](auto* batch) { batch->set_sequence(7); }},
      {"has 3 steps, must have 4", [](auto* batch) { batch->mutable_steps()->RemoveLast(); }},
      {"step sequence 9", [](auto* batch) { batch->mutable_steps(2)->set_sequence(9); }},
      {"group 1", [](auto* batch) { batch->mutable_steps(1)->set_group(1); }},
      {"columns do not have 2 rows", [](auto* batch) { batch->mutable_steps(1)->mutable_reward()->pop_back(); }},
      {"first step ends an episode",
       [](auto* batch) { (*batch->mutable_steps(0)->mutable_flags())[1] |= kStepTruncated; }},
      {"starts where none ended", [](auto* batch) { (*batch->mutable_steps(1)->mutable_flags())[0] = kStepFirst; }},
      {"action has 10 bytes, must have 12", [](auto* batch) { batch->mutable_action()->resize(10); }},
      {"log_prob has 0 bytes", [](auto* batch) { batch->clear_log_prob(); }},
      {"value has 25 bytes", [](auto* batch) { batch->mutable_value()->push_back(0); }},
      {"policy_version has 8 bytes, must have 24", [](auto* batch) { batch->mutable_policy_version()->resize(8); }},
      {"state has 0 bytes, must have 16", [](auto* batch) { batch->clear_state(); }},
      {"action 2 makes choice 3 of 3 in part 0", [](auto* batch) { (*batch->mutable_action())[4] = 3; }},
      {"not finite: log_prob 2 is nan", [](auto* batch) { Put(kNan, 2, batch->mutable_log_prob()); }},
      {"log_prob 5 is 1", [](auto* batch) { Put(1, 5, batch->mutable_log_prob()); }},
      {"not finite: value 0 is -inf", [](auto* batch) { Put(-kInfinity, 0, batch->mutable_value()); }},
      {"not finite: state 3 is nan", [](auto* batch) { Put(kNan, 3, batch->mutable_state()); }},
      {"not finite: reward 1 is nan", [](auto* batch) { Put(kNan, 1, batch->mutable_steps(2)->mutable_reward()); }},
      {"reward 0 is 2e+09", [](auto* batch) { Put(2e9, 0, batch->mutable_steps(3)->mutable_reward()); }},
  };
  for (const auto& [reason, change] : cases) {
    lease_.set_token(lease_.token() + 1);
    auto sink = Attach(lease_);
    ASSERT_TRUE(Eventually([&] { return !sink->requests().empty(); }));
    Script script;
    v1::UnrollBatch batch = script.Next();
    change(&batch);
    receiver_->Submit(lease_, std::move(batch));
    ASSERT_TRUE(Eventually([&] { return !sink->refused().ok(); })) << reason;
    EXPECT_EQ(sink->refused().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(sink->refused().message()), HasSubstr(reason));
  }
  EXPECT_TRUE(Eventually([&] { return books_.unrolls.free() == books_.unrolls.capacity(); }));
  EXPECT_EQ(books_.unrolls.finished(), 0);
  EXPECT_EQ(books_.captions.size(), 0u);
}

TEST_F(UnrollReceiverTest, RefusesABatchThatBreaksOffAndKeepsNothingOfIt) {
  auto sink = Attach(lease_);
  ASSERT_TRUE(Eventually([&] { return !sink->requests().empty(); }));
  Script script;
  v1::UnrollBatch batch = script.Next();
  batch.mutable_steps(3)->mutable_observation()->set_data("?");
  receiver_->Submit(lease_, std::move(batch));
  ASSERT_TRUE(Eventually([&] { return !sink->refused().ok(); }));
  EXPECT_EQ(sink->refused().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(sink->refused().message()), HasSubstr("do not unpack"));
  EXPECT_TRUE(Eventually([&] { return books_.unrolls.free() == books_.unrolls.capacity(); }));
  EXPECT_EQ(books_.unrolls.finished(), 0);
}

}  // namespace
}  // namespace sibyl::learner
