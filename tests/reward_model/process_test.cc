// The real program and the real wires: an annotator and a learner in this process, sibyl-reward-model in another.

#include "tests/process.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "common/random.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "common/rpc/status.h"
#include "common/runtime/ending.h"
#include "common/runtime/files.h"
#include "sibyl/v1/annotator.grpc.pb.h"
#include "sibyl/v1/reward.grpc.pb.h"
#include "sibyl/v1/state.pb.h"
#include "tests/reward_model/fakes.h"

namespace sibyl::reward_model {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

// Serves a FakeAnnotator, which outlives it, as an annotator that is stopped and started again keeps its store.
class AnnotatorServer : public v1::AnnotatorService::Service {
 public:
  AnnotatorServer(FakeAnnotator& annotator, const std::string& address) : annotator_(annotator) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~AnnotatorServer() override { server_->Shutdown(absl::ToChronoTime(absl::Now())); }

  grpc::Status Describe(grpc::ServerContext*, const v1::DescribeRequest* request,
                        v1::DescribeResponse* response) override {
    return Give(annotator_.Describe(), response);
  }
  grpc::Status Ask(grpc::ServerContext*, const v1::AskRequest* request, v1::AskResponse* response) override {
    if (request->protocol_version() != kProtocolVersion) return {grpc::StatusCode::FAILED_PRECONDITION, "version"};
    return Give(annotator_.Ask(*request), response);
  }
  grpc::Status Labels(grpc::ServerContext* context, const v1::LabelsRequest* request,
                      grpc::ServerWriter<v1::LabelBatch>* writer) override {
    uint64_t next = request->from_sequence();
    for (bool first = true; !context->IsCancelled(); first = false) {
      const v1::LabelBatch batch = annotator_.LabelsFrom(std::max<uint64_t>(1, next));
      next = batch.next_sequence();
      if (first || batch.labels_size() > 0) {
        if (!writer->Write(batch)) break;
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    }
    return grpc::Status::OK;
  }

 private:
  template <typename T>
  grpc::Status Give(const absl::StatusOr<T>& from, T* to) {
    if (from.ok()) *to = *from;
    return rpc::ToGrpc(from.status());
  }

  FakeAnnotator& annotator_;
  std::unique_ptr<grpc::Server> server_;
};

// One connection of a learner. Gives the texts that are asked for by itself.
class Connection {
 public:
  // `table` and `texts` are the learner's; they outlive its connections, and are not touched between them.
  Connection(int port, const v1::LearnerHello& hello, ScoreTable table, std::map<uint64_t, std::string> texts)
      : stub_(v1::RewardService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", port)))),
        stream_(stub_->Rewards(&context_)),
        texts_(std::move(texts)),
        table_(std::move(table)) {
    v1::LearnerToRewardModel message;
    *message.mutable_hello() = hello;
    Write(message);
    reader_ = std::thread([this] { Read(); });
  }
  ~Connection() {
    context_.TryCancel();
    reader_.join();
  }

  void Write(const v1::LearnerToRewardModel& message) {
    MutexLock lock(writing_);
    stream_->Write(message);
  }
  // Adds a caption seen `count` times in all.
  void Count(const std::string& caption, uint64_t count) {
    {
      MutexLock lock(mutex_);
      texts_[CaptionId(caption)] = caption;
    }
    v1::LearnerToRewardModel message;
    message.mutable_counts()->add_id(CaptionId(caption));
    message.mutable_counts()->add_count(count);
    message.mutable_counts()->add_last_step(count);
    Write(message);
  }

  ScoreTable table() {
    MutexLock lock(mutex_);
    return table_;
  }
  uint64_t incarnation() {
    MutexLock lock(mutex_);
    return incarnation_;
  }
  v1::RewardModelProgress progress() {
    MutexLock lock(mutex_);
    return progress_;
  }
  // How it ended; waits for that.
  grpc::Status End() {
    EXPECT_TRUE(Eventually([&] {
      MutexLock lock(mutex_);
      return ended_;
    }));
    MutexLock lock(mutex_);
    return status_;
  }

 private:
  void Read() {
    v1::RewardModelToLearner message;
    while (stream_->Read(&message)) {
      v1::LearnerToRewardModel reply;
      {
        MutexLock lock(mutex_);
        if (message.has_hello()) incarnation_ = message.hello().incarnation();
        if (message.has_scores()) table_.Apply(message.scores());
        if (message.has_progress()) progress_ = message.progress();
        for (uint64_t id : message.text_request().ids()) {
          v1::CaptionText& text = *reply.mutable_texts()->add_texts();
          text.set_id(id);
          text.set_text(texts_[id]);
        }
      }
      if (reply.has_texts()) Write(reply);
    }
    const grpc::Status status = stream_->Finish();
    MutexLock lock(mutex_);
    status_ = status;
    ended_ = true;
  }

  grpc::ClientContext context_;
  const std::unique_ptr<v1::RewardService::Stub> stub_;
  const std::unique_ptr<grpc::ClientReaderWriter<v1::LearnerToRewardModel, v1::RewardModelToLearner>> stream_;
  Mutex writing_;
  Mutex mutex_;
  std::map<uint64_t, std::string> texts_ ABSL_GUARDED_BY(mutex_);
  ScoreTable table_ ABSL_GUARDED_BY(mutex_);
  uint64_t incarnation_ ABSL_GUARDED_BY(mutex_) = 0;
  v1::RewardModelProgress progress_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
  std::thread reader_;
};

class ProcessTest : public ::testing::Test {
 protected:
  ProcessTest() : folder_(std::filesystem::path(::testing::TempDir()) / absl::StrCat("sibyl-", FreshRandom64())) {
    std::filesystem::create_directories(folder_);
    EXPECT_TRUE(WriteFileDurably(folder_ / "experiment.textproto", R"pb(
                  environment { name: "minigrid/Empty-5x5" }
                  reward_model { goal: "open doors" checkpoint_seconds: 0.01 }
                  annotator { rules_file: "rules" }
                )pb")
                    .ok());
    // Not a port, which another program might take in the meantime.
    annotator_address_ = absl::StrCat("unix:", (folder_ / "annotator").string());
    hello_.set_protocol_version(kProtocolVersion);
    hello_.set_run_id("run");
    hello_.set_incarnation(1);
    hello_.set_goal("open doors");
  }
  ~ProcessTest() override {
    process_.reset();
    std::filesystem::remove_all(folder_);
  }

  std::vector<std::string> Arguments(const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {SIBYL_BIN_DIR "/sibyl-reward-model",
                                          "--config=" + (folder_ / "experiment.textproto").string(),
                                          "--annotator=" + annotator_address_,
                                          "--run_dir=" + (folder_ / "run").string(),
                                          "--listen=127.0.0.1:0",
                                          "--metrics_listen=127.0.0.1:0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  // Starts it (anew) and waits until it serves.
  void Start(const std::vector<std::string>& more = {}) {
    process_ = std::make_unique<Process>(Arguments(more));
    port_ = process_->NumberAfter("listening on 127.0.0.1:0 (port ");
    ASSERT_GT(port_, 0) << process_->log();
  }
  // Runs one that is to end by itself.
  int Fails(const std::vector<std::string>& more, std::string* log) {
    Process process(Arguments(more));
    const int status = process.Wait();
    Eventually([&] { return process.log().ends_with("\n"); });
    *log = process.log();
    return status;
  }
  std::unique_ptr<Connection> Connect(ScoreTable table = {}) {
    return std::make_unique<Connection>(port_, hello_, std::move(table), std::map<uint64_t, std::string>());
  }
  // What the file holds, with the captions in no order.
  v1::RewardModelState State() {
    std::map<uint64_t, v1::RewardCaption> captions;
    const auto head = ReadCheckpoint(folder_ / "run", FileSystem::Real(), [&](const v1::RewardModelPiece& piece) {
      for (const v1::RewardCaption& caption : piece.captions()) {
        const std::string text = captions[caption.id()].text();
        captions[caption.id()] = caption;
        if (caption.text().empty()) captions[caption.id()].set_text(text);
      }
    });
    v1::RewardModelState state;
    if (!head.ok() || !head->has_value()) return state;
    state.set_goal((*head)->goal());
    state.set_run_id((*head)->run_id());
    state.set_next_sequence((*head)->next_sequence());
    for (const auto& [id, caption] : captions) *state.add_captions() = caption;
    return state;
  }
  uint64_t AnswersOnDisk() {
    uint64_t answers = 0;
    const v1::RewardModelState state = State();
    for (const v1::RewardCaption& caption : state.captions()) answers += caption.answers();
    return answers;
  }
  // Answers what has been asked, "... good" with 1, else 0, as long as there are fewer than `limit` answers.
  void AnswerAll(size_t limit = 1'000'000) {
    for (const std::string& caption : annotator_.accepted_captions()) {
      if (answered_.size() >= limit) return;
      if (answered_.insert(caption).second) annotator_.Answer(caption, caption.ends_with("good") ? 1.0f : 0.0f);
    }
  }

  const std::filesystem::path folder_;
  std::string annotator_address_;
  FakeAnnotator annotator_;
  std::set<std::string> answered_;
  v1::LearnerHello hello_;
  std::unique_ptr<Process> process_;
  int port_ = 0;
};

TEST_F(ProcessTest, KilledInTheMiddleItLosesNoLabelAndAsksNothingTwice) {
  AnnotatorServer server(annotator_, annotator_address_);
  Start();
  auto learner = Connect();
  const int captions = 200;
  for (int i = 0; i < captions; ++i) learner->Count(absl::StrCat("caption ", i, " good"), i + 1);
  ASSERT_TRUE(Eventually([&] {
    AnswerAll(100);
    return learner->table().scores_.size() == 100 && AnswersOnDisk() >= 50;
  })) << process_->log();
  process_->Signal(SIGKILL);
  EXPECT_EQ(process_->Wait(), 1000 + SIGKILL);
  EXPECT_EQ(learner->End().error_code(), grpc::StatusCode::UNAVAILABLE);
  const ScoreTable before = learner->table();
  const uint64_t incarnation = learner->incarnation();
  AnswerAll();

  Start();
  hello_.set_reward_model_incarnation(incarnation);
  hello_.set_last_sequence(before.last_sequence_);
  learner = Connect(before);
  for (int i = 0; i < captions; ++i) learner->Count(absl::StrCat("caption ", i, " good"), i + 1);
  ASSERT_TRUE(Eventually([&] {
    AnswerAll();
    return learner->table().scores_.size() == captions;
  })) << process_->log();
  EXPECT_FALSE(learner->table().gaps_);
  EXPECT_NE(learner->incarnation(), incarnation);
  EXPECT_EQ(learner->table().snapshots_, before.snapshots_ + 1);
  EXPECT_EQ(learner->table().Of("caption 7 good"), 1);
  std::set<std::string> distinct;
  for (const std::string& caption : annotator_.accepted_captions()) EXPECT_TRUE(distinct.insert(caption).second);
  EXPECT_THAT(distinct, SizeIs(captions));
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(), kExitStopped);
  const v1::RewardModelState state = State();
  EXPECT_EQ(state.captions_size(), captions);
  for (const v1::RewardCaption& caption : state.captions()) EXPECT_EQ(caption.answers(), 1) << caption.text();
}

TEST_F(ProcessTest, AClassifierLearnsAndGoesOnWhereItWasKilled) {
  const std::vector<std::string> flags = {"--set", "reward_model.kind=REWARD_MODEL_KIND_CLASSIFICATION",
                                          "--set", "reward_model.training.text_length=27",
                                          "--set", "reward_model.training.learning_rate=1e-3",
                                          "--set", "reward_model.training.cpu_share=1",
                                          "--set", "reward_model.training.version_seconds=0"};
  AnnotatorServer server(annotator_, annotator_address_);
  Start(flags);
  auto learner = Connect();
  for (int i = 0; i < 20; ++i) {
    learner->Count(absl::StrCat(i, " good"), i + 1);
    learner->Count(absl::StrCat(i, " bad"), i + 1);
  }
  const auto learned = [&] {
    AnswerAll();
    const ScoreTable table = learner->table();
    return table.Of("3 good") > 0.9 && table.Of("3 bad") >= 0 && table.Of("3 bad") < 0.1;
  };
  ASSERT_TRUE(Eventually(learned)) << process_->log();
  learner->Count("99 good", 1);
  ASSERT_TRUE(Eventually([&] { return learner->table().Of("99 good") > 0.5; })) << "scored before it has a label";
  ASSERT_TRUE(Eventually([&] { return AnswersOnDisk() >= 40; }));
  ASSERT_TRUE(Eventually([&] { return std::filesystem::exists(folder_ / "run/reward_model.safetensors"); }));
  process_->Signal(SIGKILL);
  EXPECT_EQ(process_->Wait(), 1000 + SIGKILL);

  Start(flags);
  learner = Connect();
  for (int i = 0; i < 20; ++i) {
    learner->Count(absl::StrCat(i, " good"), i + 1);
    learner->Count(absl::StrCat(i, " bad"), i + 1);
  }
  ASSERT_TRUE(Eventually(learned)) << process_->log();
  std::set<std::string> distinct;
  for (const std::string& caption : annotator_.accepted_captions()) EXPECT_TRUE(distinct.insert(caption).second);

  // Another network's weights are not taken for this one's.
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(), kExitStopped);
  std::string log;
  std::vector<std::string> larger = flags;
  larger[3] = "reward_model.training.text_length=60";
  EXPECT_EQ(Fails(larger, &log), 1);
  EXPECT_THAT(log, HasSubstr("is of another network"));
}

TEST_F(ProcessTest, ARankerAsksForComparisons) {
  AnnotatorServer server(annotator_, annotator_address_);
  Start({"--set", "reward_model.kind=REWARD_MODEL_KIND_RANKING", "--set", "reward_model.training.text_length=27",
         "--set", "reward_model.training.learning_rate=1e-3", "--set", "reward_model.training.cpu_share=1"});
  auto learner = Connect();
  for (const char* caption : {"one good", "one bad", "two good", "two bad"}) learner->Count(caption, 10);
  std::set<std::pair<std::string, std::string>> answered;
  ASSERT_TRUE(Eventually([&] {
    for (const v1::Query& query : annotator_.accepted()) {
      const std::string first = Captions(query)[0], second = Captions(query)[1];
      if (!answered.insert({first, second}).second) continue;
      const bool tie = first.ends_with("good") == second.ends_with("good");
      annotator_.AnswerPair(first, second, !tie && first.ends_with("good") ? 1 : 0, tie ? 1 : 0);
    }
    const ScoreTable table = learner->table();
    return table.transform_.deviation() > 0 && table.Of("one good") > table.transform_.mean() &&
           table.Of("two good") > table.transform_.mean() && table.scores_.size() == 4 &&
           table.Of("one bad") < table.transform_.mean() && table.Of("two bad") < table.transform_.mean();
  })) << process_->log();
  EXPECT_FALSE(learner->table().transform_.binary());
  EXPECT_LE(answered.size(), 6u) << "no pair twice";
}

TEST_F(ProcessTest, WorksBeforeTheAnnotatorIsThereAndWhenItComes) {
  Start();
  auto learner = Connect();
  learner->Count("a door good", 3);
  ASSERT_TRUE(process_->Says("waiting for the annotator"));
  ASSERT_TRUE(Eventually([&] { return learner->progress().candidates() == 1; }));
  EXPECT_FALSE(learner->progress().annotator_connected());
  auto server = std::make_unique<AnnotatorServer>(annotator_, annotator_address_);
  ASSERT_TRUE(Eventually([&] {
    AnswerAll();
    return learner->table().Of("a door good") == 1;
  })) << process_->log();

  // And when it goes, and comes again.
  server.reset();
  learner->Count("a chest good", 3);
  ASSERT_TRUE(Eventually([&] { return learner->progress().candidates() == 1; }));
  server = std::make_unique<AnnotatorServer>(annotator_, annotator_address_);
  ASSERT_TRUE(Eventually([&] {
    AnswerAll();
    return learner->table().Of("a chest good") == 1;
  })) << process_->log();
  EXPECT_EQ(learner->table().snapshots_, 1);
  EXPECT_FALSE(learner->table().gaps_);
}

TEST_F(ProcessTest, AReconnectedLearnerGetsWhatItMissedAndNoMore) {
  AnnotatorServer server(annotator_, annotator_address_);
  Start();
  auto learner = Connect();
  learner->Count("one good", 1);
  ASSERT_TRUE(Eventually([&] {
    AnswerAll();
    return learner->table().Of("one good") == 1;
  }));
  learner->Count("two good", 1);
  ASSERT_TRUE(Eventually([&] { return annotator_.accepted().size() == 2; }));
  const ScoreTable before = learner->table();
  hello_.set_reward_model_incarnation(learner->incarnation());
  hello_.set_last_sequence(before.last_sequence_);
  learner.reset();
  AnswerAll();
  learner = Connect(before);
  ASSERT_TRUE(Eventually([&] { return learner->table().Of("two good") == 1; })) << process_->log();
  EXPECT_EQ(learner->table().snapshots_, 1);
  EXPECT_EQ(learner->table().updates_, before.updates_ + 1);
  EXPECT_FALSE(learner->table().gaps_);
}

TEST_F(ProcessTest, StopsAtSigtermWithACheckpoint) {
  AnnotatorServer server(annotator_, annotator_address_);
  Start({"--set", "reward_model.checkpoint_seconds=3600"});
  auto learner = Connect();
  learner->Count("a door good", 3);
  ASSERT_TRUE(Eventually([&] {
    AnswerAll();
    return learner->table().Of("a door good") == 1;
  }));
  EXPECT_EQ(State().captions_size(), 0);
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(), kExitStopped) << process_->log();
  EXPECT_EQ(learner->End().error_code(), grpc::StatusCode::UNAVAILABLE);
  const v1::RewardModelState state = State();
  ASSERT_EQ(state.captions_size(), 1);
  EXPECT_EQ(state.run_id(), "run");
  EXPECT_EQ(state.captions(0).text(), "a door good");
  EXPECT_EQ(state.captions(0).count(), 3);
  EXPECT_EQ(state.captions(0).good_sum(), 1);
  EXPECT_EQ(state.next_sequence(), 2);
}

TEST_F(ProcessTest, StopsAtSigtermWhileItWaitsForEverything) {
  Start();
  ASSERT_TRUE(process_->Says("waiting for the annotator"));
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(), kExitStopped) << process_->log();
}

TEST_F(ProcessTest, RefusesLearnersThatDoNotFit) {
  Start();
  hello_.set_protocol_version(kProtocolVersion + 1);
  grpc::Status status = Connect()->End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr(absl::StrCat("protocol version ", kProtocolVersion + 1)));
  hello_.set_protocol_version(kProtocolVersion);
  hello_.set_goal("collect gold");
  status = Connect()->End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("the learner's goal is not the reward model's"));
  EXPECT_THAT(status.error_message(), Not(HasSubstr("doors")));
  EXPECT_TRUE(process_->Says("is refused: FAILED_PRECONDITION: the learner's goal is not the reward model's"));
  hello_.set_goal("open doors");

  auto learner = Connect();
  ASSERT_TRUE(Eventually([&] { return learner->incarnation() != 0; }));
  ASSERT_TRUE(Eventually([&] { return State().run_id() == "run"; }));
  Start();
  hello_.set_run_id("another");
  status = Connect()->End();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("the learner's run is not"));
  EXPECT_THAT(status.error_message(), Not(HasSubstr("another")));
}

TEST_F(ProcessTest, RefusesMessagesThatBreakTheContract) {
  Start();
  auto learner = Connect();
  v1::LearnerToRewardModel message;
  *message.mutable_hello() = hello_;
  learner->Write(message);
  EXPECT_EQ(learner->End().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  learner = Connect();
  message.mutable_counts()->add_id(1);
  learner->Write(message);
  EXPECT_EQ(learner->End().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ProcessTest, EndsWithAMessageWhereItCannotStart) {
  Start();
  std::string log;
  EXPECT_EQ(Fails({absl::StrCat("--listen=127.0.0.1:", port_)}, &log), 1);
  EXPECT_THAT(log, HasSubstr(absl::StrCat("cannot listen on 127.0.0.1:", port_)));
  EXPECT_EQ(Fails({"--annotator="}, &log), kExitUsage);
  EXPECT_THAT(log, HasSubstr("--annotator is not set"));
  EXPECT_EQ(Fails({"--set", "reward_model.goal="}, &log), kExitUsage);
  EXPECT_THAT(log, HasSubstr("reward_model.goal"));
  EXPECT_EQ(Fails({"--set", "reward_model.no_such_field=1"}, &log), kExitUsage);
  EXPECT_THAT(log, HasSubstr("no_such_field"));
  EXPECT_EQ(Fails({"--no_such_flag"}, &log), kExitUsage);
  ASSERT_TRUE(Eventually([&] { return !State().goal().empty(); }));
  EXPECT_EQ(Fails({"--set=reward_model.goal=collect gold"}, &log), 1);
  EXPECT_THAT(log, HasSubstr("`collect gold`"));
  EXPECT_THAT(log, HasSubstr("`open doors`"));
}

TEST_F(ProcessTest, EndsWhenTheAnnotatorSpeaksAnotherProtocol) {
  annotator_.SetDown(absl::FailedPreconditionError("the annotator speaks protocol version 9"));
  AnnotatorServer server(annotator_, annotator_address_);
  Start();
  EXPECT_EQ(process_->Wait(), 1);
  EXPECT_TRUE(process_->Says("the annotator speaks protocol version 9"));
}

TEST_F(ProcessTest, WithTheRealAnnotatorALostCheckpointCostsNoLabel) {
  EXPECT_TRUE(WriteFileDurably(folder_ / "rules", "helpful: good$\ndefault: unhelpful\n").ok());
  Process annotator({SIBYL_BIN_DIR "/sibyl-annotator", "--config=" + (folder_ / "experiment.textproto").string(),
                     "--run_dir=" + (folder_ / "annotator").string(), "--listen=127.0.0.1:0",
                     "--metrics_listen=127.0.0.1:0"});
  const int port = annotator.NumberAfter("listening on 127.0.0.1:0 (port ");
  ASSERT_GT(port, 0) << annotator.log();
  annotator_address_ = absl::StrCat("127.0.0.1:", port);
  const int captions = 500;
  const auto count_all = [&](Connection& learner) {
    for (int i = 0; i < captions; ++i) learner.Count(absl::StrCat("caption ", i, i % 2 ? " good" : " bad"), i + 1);
  };
  Start();
  auto learner = Connect();
  count_all(*learner);
  ASSERT_TRUE(Eventually([&] { return learner->table().scores_.size() >= 100; })) << process_->log();
  process_->Signal(SIGKILL);
  process_->Wait();
  learner.reset();
  std::filesystem::remove(folder_ / "run/reward_model.records");

  Start();
  learner = Connect();
  count_all(*learner);
  ASSERT_TRUE(Eventually([&] { return learner->table().scores_.size() == captions; })) << process_->log();
  EXPECT_EQ(learner->table().Of("caption 7 good"), 1);
  EXPECT_EQ(learner->table().Of("caption 8 bad"), 0);
  EXPECT_EQ(learner->table().version_, captions) << "one label each";
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(), kExitStopped);
  EXPECT_EQ(State().next_sequence(), captions + 1);
}

}  // namespace
}  // namespace sibyl::reward_model
