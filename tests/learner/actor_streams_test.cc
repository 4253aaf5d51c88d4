#include "learner/serving/actor_streams.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/columns.h"
#include "common/config.h"
#include "common/protocol.h"
#include "common/random.h"
#include "common/tensor_spec.h"

namespace sibyl::learner {
namespace {

using testing::HasSubstr;

// A stream without gRPC: a test says what the actor sends.
class TestStream : public ActorStream {
 public:
  explicit TestStream(ActorStreams* streams) : ActorStream(streams) {}
  void End(const grpc::Status& status) override {
    if (!ended) end = status;
    ended = true;
  }
  bool Owes() const override { return owes; }
  using ActorStream::BeginPlaying;
  using ActorStream::Greet;
  using ActorStream::lease;
  using ActorStream::Leave;
  using ActorStream::MoreEpisodes;
  using ActorStream::Touch;

  bool owes = true;
  bool ended = false;
  grpc::Status end;
};

class ActorStreamsTest : public testing::Test {
 protected:
  ActorStreamsTest() : folder_(absl::StrCat(testing::TempDir(), "/sibyl-streams-", absl::Hex(FreshRandom64()))) {
    std::filesystem::create_directories(folder_);
    experiment_.mutable_environment()->set_name("debug/Test");
    experiment_.mutable_actor()->set_environments(8);
    experiment_.mutable_actor()->set_groups(2);
    experiment_.mutable_actor()->set_silence_seconds(10);
    experiment_.mutable_learner()->set_unroll_length(4);
    experiment_.mutable_learner()->set_batch_size(16);
    experiment_.mutable_learner()->set_max_actors(2);
    FillDefaults(&experiment_);
    *spec_.add_observation() = MakeTensorSpec("x", v1::DTYPE_FLOAT32, {});
    *spec_.mutable_action() = OneOf({"left"});
    slots_ = *Slots::Open(2, folder_ + "/episodes.pb");
    streams_ = std::make_unique<ActorStreams>(experiment_, spec_, "a run", slots_.get(), &unrolls_, &clock_, &metrics_);
  }
  ~ActorStreamsTest() override {
    streams_ = nullptr;
    std::filesystem::remove_all(folder_);
  }

  std::shared_ptr<TestStream> Open() {
    auto stream = std::make_shared<TestStream>(streams_.get());
    EXPECT_TRUE(streams_->Open(stream));
    return stream;
  }
  static absl::StatusOr<v1::ActorWelcome> Greet(const std::shared_ptr<TestStream>& stream,
                                                const v1::SlotLease* lease = nullptr,
                                                uint32_t protocol = kProtocolVersion) {
    v1::ActorHello hello;
    hello.set_protocol_version(protocol);
    hello.set_actor("host:7");
    if (lease != nullptr) *hello.mutable_lease() = *lease;
    return stream->Greet(hello, stream);
  }
  // A stream that plays.
  std::shared_ptr<TestStream> Playing(const v1::SlotLease* lease = nullptr) {
    auto stream = Open();
    EXPECT_TRUE(Greet(stream, lease).ok());
    v1::ActorReady ready;
    *ready.mutable_environment() = spec_;
    EXPECT_EQ(stream->BeginPlaying(ready), absl::OkStatus());
    return stream;
  }
  double Counter(const std::string& name) { return metrics_.Counter(name, "").Value(); }

  const std::string folder_;
  v1::Experiment experiment_;
  v1::EnvironmentSpec spec_;
  FakeClock clock_;
  Metrics metrics_;
  UnrollPool unrolls_{{.length = 4, .observation_bytes = 4}, 0, &clock_};
  std::unique_ptr<Slots> slots_;
  std::unique_ptr<ActorStreams> streams_;
};

TEST_F(ActorStreamsTest, UnrollsGrowAndShrinkWithTheActors) {
  const int alone = unrolls_.capacity();
  auto first = Playing();
  const int with_one = unrolls_.capacity();
  auto second = Playing();
  EXPECT_GT(with_one, alone);
  EXPECT_GT(unrolls_.capacity(), with_one);
  EXPECT_NE(first->slot(), second->slot());
  second->Leave();
  EXPECT_EQ(unrolls_.capacity(), with_one);
  first->Leave();
  EXPECT_EQ(unrolls_.capacity(), alone);
  EXPECT_EQ(slots_->taken(), 0);
}

TEST_F(ActorStreamsTest, AnActorThatTakesItsSlotAgainEndsItsOlderStream) {
  auto older = Playing();
  auto newer = Playing(&older->lease());
  EXPECT_EQ(newer->slot(), older->slot());
  EXPECT_NE(newer->lease().token(), older->lease().token());
  EXPECT_EQ(older->end.error_code(), grpc::StatusCode::UNAVAILABLE);
  // The end of the older one comes late, and costs the newer one nothing.
  older->Leave();
  EXPECT_EQ(slots_->taken(), 1);
  EXPECT_GT(unrolls_.capacity(), 0);
  auto stale = Open();
  EXPECT_EQ(Greet(stale, &older->lease()).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(newer->ended);
}

TEST_F(ActorStreamsTest, ARefusalIsNamedCountedAndSaysNoToken) {
  auto stream = Playing();
  const std::string token = absl::StrCat(stream->lease().token());
  stream->Refuse(absl::InvalidArgumentError("not finite: reward 3 is nan"));
  EXPECT_EQ(stream->end.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(stream->end.error_message(), HasSubstr("actor host:7 in slot 0: not finite: reward 3 is nan"));
  EXPECT_THAT(stream->end.error_message(), testing::Not(HasSubstr(token)));
  EXPECT_EQ(Counter("sibyl_learner_actor_streams_refused_total"), 1);
}

TEST_F(ActorStreamsTest, MessagesOutOfTurnAreRefused) {
  auto stream = Open();
  v1::ActorReady ready;
  *ready.mutable_environment() = spec_;
  EXPECT_EQ(stream->BeginPlaying(ready).code(), absl::StatusCode::kInvalidArgument) << "before hello";
  ASSERT_TRUE(Greet(stream).ok());
  EXPECT_EQ(Greet(stream).status().code(), absl::StatusCode::kInvalidArgument) << "a second hello";
  v1::ActorReady other = ready;
  other.mutable_environment()->mutable_action()->mutable_discrete()->mutable_parts(0)->add_choices("right");
  EXPECT_EQ(stream->BeginPlaying(other).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(stream->BeginPlaying(ready), absl::OkStatus());
  EXPECT_EQ(stream->BeginPlaying(ready).code(), absl::StatusCode::kInvalidArgument) << "a second ready";
  auto stranger = Open();
  const absl::Status status = Greet(stranger, nullptr, kProtocolVersion + 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(slots_->taken(), 1) << "a refused actor holds no slot";
}

TEST_F(ActorStreamsTest, OnlyAnActorThatOwesSomethingIsDroppedForItsSilence) {
  auto mute = Open();  // never says hello
  auto waits = Playing(), silent = Playing();
  waits->owes = false;  // it is the learner's turn
  clock_.Advance(absl::Seconds(10));
  streams_->CloseSilent();
  EXPECT_FALSE(mute->ended || waits->ended || silent->ended) << "just in time";
  clock_.Advance(absl::Seconds(1));
  auto late = Open();
  streams_->CloseSilent();
  EXPECT_TRUE(mute->ended);
  EXPECT_TRUE(silent->ended);
  EXPECT_FALSE(waits->ended || late->ended);
  EXPECT_EQ(silent->end.error_code(), grpc::StatusCode::UNAVAILABLE) << "it may come back";
  EXPECT_EQ(Counter("sibyl_learner_actor_streams_silent_total"), 2);
  // One that is heard again has the whole time anew.
  waits->owes = true;
  waits->Touch();
  clock_.Advance(absl::Seconds(10));
  streams_->CloseSilent();
  EXPECT_FALSE(waits->ended);
}

TEST_F(ActorStreamsTest, AStoppingLearnerEndsAllStreamsAndTakesNoNewOne) {
  auto greeting = Open(), playing = Playing();
  streams_->CloseAll();
  for (const auto& stream : {greeting, playing}) {
    EXPECT_TRUE(stream->ended);
    EXPECT_EQ(stream->end.error_code(), grpc::StatusCode::UNAVAILABLE);
  }
  EXPECT_FALSE(streams_->Open(std::make_shared<TestStream>(streams_.get())));
}

TEST_F(ActorStreamsTest, EpisodeNumbersGoOnBeforeTheyRunOutAndOthersAreRefused) {
  auto stream = Open();
  const v1::EpisodeBlock block = Greet(stream)->episodes();
  const auto more = [&](std::vector<uint64_t> episodes) {
    std::string column;
    for (const uint64_t episode : episodes) AppendTo(&column, episode);
    return stream->MoreEpisodes(column);
  };
  EXPECT_FALSE(more({})->has_value()) << "no episode begins in most steps";
  EXPECT_FALSE(more({block.begin(), block.begin() + 1})->has_value());
  const auto next = more({block.begin(), block.begin() + kEpisodeBlock / 2});
  ASSERT_TRUE(next.ok() && next->has_value());
  EXPECT_EQ((*next)->begin(), block.end());
  EXPECT_EQ(more({(*next)->end()}).status().code(), absl::StatusCode::kInvalidArgument);
  // What the next actor gets begins behind all that this one was given.
  auto other = Open();
  stream->Leave();
  EXPECT_GE(Greet(other)->episodes().begin(), (*next)->end());
}

}  // namespace
}  // namespace sibyl::learner
