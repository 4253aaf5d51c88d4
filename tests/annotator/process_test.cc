// The real sibyl-annotator as a process: killed, resumed, drained, misconfigured.

#include "tests/process.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <map>
#include <set>

#include "sibyl/v1/annotator.grpc.pb.h"
#include "tests/annotator/fake_llm.h"
#include "tests/annotator/queries.h"

namespace sibyl::annotator {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

// sibyl-annotator on free ports.
class AnnotatorProcess : public Process {
 public:
  explicit AnnotatorProcess(const std::vector<std::string>& flags, const std::string& listen = "127.0.0.1:0")
      : Process(Arguments(flags, listen)) {}

  int port() { return NumberAfter("(port "); }
  std::unique_ptr<v1::AnnotatorService::Stub> Stub() {
    // A channel of its own, so that one test's backoff is not the next one's.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return v1::AnnotatorService::NewStub(
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port()), grpc::InsecureChannelCredentials(), arguments));
  }
  // No file of the process may grow beyond this any more.
  bool LimitFiles(rlim_t bytes) {
    const rlimit limit = {bytes, bytes};
    return prlimit(pid(), RLIMIT_FSIZE, &limit, nullptr) == 0;
  }

 private:
  static std::vector<std::string> Arguments(const std::vector<std::string>& flags, const std::string& listen) {
    std::vector<std::string> arguments = {SIBYL_BIN_DIR "/sibyl-annotator", "--listen=" + listen,
                                          "--metrics_listen=127.0.0.1:0"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    return arguments;
  }
};

class ProcessTest : public ::testing::Test {
 protected:
  ProcessTest() {
    setenv("no_proxy", "127.0.0.1", 1);
    folder_.Write("a.rules", "helpful: key\ndefault: unhelpful\n");
    folder_.Write("p.txt", "[user]\nGoal: {goal}\nCaption: {caption}\n");
    folder_.Write("rules.textproto",
                  "environment { name: \"minigrid/DoorKey-8x8\" }\nreward_model { goal: \"g\" }\n"
                  "annotator { rules_file: \"a.rules\" queue_capacity: 100000 }\n");
  }
  std::vector<std::string> Flags(std::vector<std::string> more = {}) {
    std::vector<std::string> flags = {"--config=" + (folder_ / "rules.textproto"), "--run_dir=" + (folder_ / "run")};
    flags.insert(flags.end(), more.begin(), more.end());
    return flags;
  }
  std::vector<std::string> LlmFlags(const std::string& url) {
    return Flags({"--set", "annotator.judge=JUDGE_KIND_OPENAI", "--set=annotator.openai.url=" + url, "--set",
                  "annotator.openai.model=fake", "--set", "annotator.openai.prompt_file=" + (folder_ / "p.txt")});
  }
  static grpc::Status Ask(v1::AnnotatorService::Stub& stub, const v1::AskRequest& request, v1::AskResponse* response) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + kPatience * std::chrono::seconds(20));
    return stub.Ask(&context, request, response);
  }
  // The log from `from` until it holds `count` labels more.
  static std::vector<v1::Label> Labels(v1::AnnotatorService::Stub& stub, uint64_t from, size_t count) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + kPatience * std::chrono::seconds(30));
    v1::LabelsRequest request;
    request.set_protocol_version(kProtocolVersion);
    request.set_from_sequence(from);
    auto stream = stub.Labels(&context, request);
    std::vector<v1::Label> labels;
    v1::LabelBatch batch;
    while (labels.size() < count && stream->Read(&batch)) {
      labels.insert(labels.end(), batch.labels().begin(), batch.labels().end());
    }
    context.TryCancel();
    stream->Finish();
    return labels;
  }

  TemporaryFolder folder_;
};

TEST_F(ProcessTest, AnswersIsKilledAndResumesWhereItWas) {
  {
    AnnotatorProcess annotator(Flags());
    ASSERT_GT(annotator.port(), 0) << annotator.log();
    auto stub = annotator.Stub();
    v1::AskResponse response;
    ASSERT_TRUE(Ask(*stub, Request({Classify("a key"), Classify("a wall")}), &response).ok());
    EXPECT_EQ(response.outcomes(0).kind(), v1::AskOutcome::KIND_ACCEPTED);
    const auto labels = Labels(*stub, 0, 2);
    ASSERT_EQ(labels.size(), 2u);
    EXPECT_EQ(Distribution(labels[0].answer())[1], 1);
    EXPECT_THAT(labels[0].judge(), ::testing::MatchesRegex("rules:a\\.rules@[0-9a-f]{8}"));
    annotator.Signal(SIGKILL);
    EXPECT_EQ(annotator.Wait(), 1000 + SIGKILL);
  }
  AnnotatorProcess annotator(Flags());
  auto stub = annotator.Stub();
  v1::AskResponse response;
  ASSERT_TRUE(Ask(*stub, Request({Classify("a wall"), Classify("a door")}), &response).ok());
  EXPECT_EQ(response.outcomes(0).kind(), v1::AskOutcome::KIND_KNOWN);
  EXPECT_EQ(response.outcomes(1).kind(), v1::AskOutcome::KIND_ACCEPTED);
  const auto labels = Labels(*stub, 3, 1);
  ASSERT_EQ(labels.size(), 1u);
  EXPECT_EQ(labels[0].sequence(), 3u);
  EXPECT_EQ(CaptionOf(labels[0].query()), "a door");
}

// kill -9 again and again in the middle of a load: everything acknowledged is there, the LLM is never asked again about
// what was answered, and the log has no gaps.
TEST_F(ProcessTest, KilledInTheMiddleOfALoadItLosesNothingAndAsksNothingTwice) {
  Mutex mutex;
  std::map<std::string, int> asked;
  FakeLlm llm([&](const FakeLlm::Call& call) {
    if (call.probe) return FakeLlm::ObeysSchemas();
    MutexLock lock(mutex);
    ++asked[FakeLlm::Caption(call)];
    return FakeLlm::Says("Label: helpful");
  });
  std::set<std::string> acknowledged;
  std::map<std::string, uint64_t> seen;  // labels that a caller was sent
  std::map<std::string, int> asked_when_seen;
  for (int round = 0; round < 4; ++round) {
    AnnotatorProcess annotator(LlmFlags(llm.url()));
    ASSERT_GT(annotator.port(), 0) << annotator.log();
    auto stub = annotator.Stub();
    std::thread killer([&] {
      // In the middle: when some of this round's answers are there and more are on their way.
      const size_t enough = 40 * (round + 1);
      Eventually([&] {
        MutexLock lock(mutex);
        return asked.size() >= enough;
      });
      annotator.Signal(SIGKILL);
    });
    for (int i = 0;; ++i) {
      const std::string caption = absl::StrCat("caption ", round, " ", i);
      v1::AskResponse response;
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + kPatience * std::chrono::seconds(20));
      if (!stub->Ask(&context, Request({Classify(caption)}), &response).ok()) break;
      ASSERT_EQ(response.outcomes(0).kind(), v1::AskOutcome::KIND_ACCEPTED);
      acknowledged.insert(caption);
    }
    killer.join();
    EXPECT_EQ(annotator.Wait(), 1000 + SIGKILL) << annotator.log();

    // What is in the log now must never be asked again.
    AnnotatorProcess after(LlmFlags("http://127.0.0.1:9/v1"));
    ASSERT_GT(after.port(), 0) << after.log();
    auto reader = after.Stub();
    grpc::ClientContext context;
    v1::DescribeRequest describe;
    describe.set_protocol_version(kProtocolVersion);
    v1::DescribeResponse description;
    ASSERT_TRUE(reader->Describe(&context, describe, &description).ok());
    EXPECT_GE(description.labels() + description.waiting(), acknowledged.size());
    MutexLock lock(mutex);
    for (const v1::Label& label : Labels(*reader, 0, description.labels())) {
      const std::string caption = CaptionOf(label.query());
      if (seen.emplace(caption, label.sequence()).second) asked_when_seen[caption] = asked[caption];
      EXPECT_EQ(seen[caption], label.sequence()) << "a label does not move";
    }
  }
  AnnotatorProcess annotator(LlmFlags(llm.url()));
  auto stub = annotator.Stub();
  ASSERT_TRUE(Eventually(
      [&] {
        grpc::ClientContext context;
        v1::DescribeRequest describe;
        describe.set_protocol_version(kProtocolVersion);
        v1::DescribeResponse description;
        return stub->Describe(&context, describe, &description).ok() && description.waiting() == 0;
      },
      absl::Seconds(60)));
  std::set<std::string> labelled;
  uint64_t expected = 1;
  const auto labels = Labels(*stub, 0, acknowledged.size());
  for (const v1::Label& label : labels) {
    EXPECT_EQ(label.sequence(), expected++);
    EXPECT_TRUE(labelled.insert(CaptionOf(label.query())).second) << "answered twice";
  }
  for (const std::string& caption : acknowledged) EXPECT_EQ(labelled.count(caption), 1u) << caption;
  MutexLock lock(mutex);
  for (const auto& [caption, times] : asked_when_seen) EXPECT_EQ(asked[caption], times) << caption;
  EXPECT_GT(asked_when_seen.size(), 0u);
  RecordProperty("acknowledged", static_cast<int>(acknowledged.size()));
}

TEST_F(ProcessTest, SigtermDrainsAndExitsAsStopped) {
  std::atomic<bool> release = false;
  FakeLlm llm([&](const FakeLlm::Call& call) {
    if (call.probe) return FakeLlm::ObeysSchemas();
    Eventually([&] { return release.load(); });
    return FakeLlm::Says("Label: helpful");
  });
  {
    AnnotatorProcess annotator(LlmFlags(llm.url()));
    auto stub = annotator.Stub();
    v1::AskResponse response;
    ASSERT_TRUE(Ask(*stub, Request({Classify("in flight")}), &response).ok());
    ASSERT_TRUE(Eventually([&] { return llm.calls() == 1; })) << annotator.log();
    grpc::ClientContext context;
    v1::LabelsRequest request;
    request.set_protocol_version(kProtocolVersion);
    auto stream = stub->Labels(&context, request);
    v1::LabelBatch batch;
    ASSERT_TRUE(stream->Read(&batch));
    annotator.Signal(SIGTERM);
    ASSERT_TRUE(Eventually([&] { return annotator.log().find("stopping") != std::string::npos; }));
    release = true;
    ASSERT_TRUE(stream->Read(&batch)) << "the answer in flight is committed and sent";
    EXPECT_EQ(batch.labels_size(), 1);
    EXPECT_FALSE(stream->Read(&batch));
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(annotator.Wait(), 143) << annotator.log();
  }
  // A judge that never answers does not hold it up for longer than it is told.
  release = false;
  std::vector<std::string> flags = LlmFlags(llm.url());
  flags.push_back("--drain=50ms");
  AnnotatorProcess annotator(flags);
  auto stub = annotator.Stub();
  v1::AskResponse response;
  ASSERT_TRUE(Ask(*stub, Request({Classify("never")}), &response).ok());
  ASSERT_TRUE(Eventually([&] { return llm.calls() == 2; }));
  annotator.Signal(SIGTERM);
  EXPECT_EQ(annotator.Wait(), 143);
  EXPECT_THAT(annotator.log(), HasSubstr("1 queries were not answered in time"));
  release = true;
}

TEST_F(ProcessTest, AnAbsentLlmIsWaitedForAndNamed) {
  AnnotatorProcess annotator(LlmFlags("http://127.0.0.1:9/v1"));
  auto stub = annotator.Stub();
  v1::AskResponse response;
  ASSERT_TRUE(Ask(*stub, Request({Classify("a")}), &response).ok());
  EXPECT_EQ(response.outcomes(0).kind(), v1::AskOutcome::KIND_ACCEPTED);
  EXPECT_TRUE(
      Eventually([&] { return annotator.log().find("waiting for the judge at 127.0.0.1:9") != std::string::npos; }));
  EXPECT_EQ(waitpid(annotator.pid(), nullptr, WNOHANG), 0) << "it runs";
}

TEST_F(ProcessTest, OneStoreOneProcess) {
  AnnotatorProcess annotator(Flags());
  ASSERT_GT(annotator.port(), 0);
  AnnotatorProcess second(Flags());
  EXPECT_EQ(second.Wait(), 1);
  EXPECT_THAT(second.log(), AllOf(HasSubstr("labels.sqlite is open in another process"), HasSubstr("annotator.store")));
}

TEST_F(ProcessTest, WhatItCannotStartWithIsNamedAndItExitsNonZero) {
  {
    AnnotatorProcess first(Flags());
    const int port = first.port();
    ASSERT_GT(port, 0);
    AnnotatorProcess second(Flags({"--run_dir=" + (folder_ / "other")}), absl::StrCat("127.0.0.1:", port));
    EXPECT_EQ(second.Wait(), 1);
    EXPECT_THAT(second.log(),
                AllOf(HasSubstr(absl::StrCat("cannot listen on 127.0.0.1:", port)), HasSubstr("--listen")));
  }
  const auto log = [&](const std::vector<std::string>& flags, int status = 2) {
    AnnotatorProcess process(flags);
    EXPECT_EQ(process.Wait(), status);
    EXPECT_TRUE(process.Says(" error "));  // what it wrote may still be on its way
    return process.log();
  };
  EXPECT_THAT(log(Flags({"--set", "annotator.rules_file=/nowhere/a.rules"})),
              HasSubstr("cannot read /nowhere/a.rules"));
  folder_.Write("bad.rules", "helpful: x\nbest: y\ndefault: helpful\n");
  EXPECT_THAT(log(Flags({"--set", "annotator.rules_file=" + (folder_ / "bad.rules")})),
              HasSubstr("bad.rules:2: `best: y` gives `best`"));
  EXPECT_THAT(log(Flags({"--set", "annotator.rulez_file=x"})), HasSubstr("no field `rulez_file`"));
  EXPECT_THAT(log(Flags({"--run_dir=/proc/nowhere"}), 1), HasSubstr("/proc/nowhere"));
  EXPECT_THAT(log({}), HasSubstr("--config is not set"));
  folder_.Write("run2.sqlite", std::string(9000, 'x'));
  EXPECT_THAT(log(Flags({"--set", "annotator.store=" + (folder_ / "run2.sqlite")}), 1), HasSubstr("run2.sqlite"));
}

TEST_F(ProcessTest, AStoreWhoseLabelsAreLostIsRefusedNotBegunAnew) {
  {
    AnnotatorProcess annotator(Flags());
    auto stub = annotator.Stub();
    v1::AskResponse response;
    ASSERT_TRUE(Ask(*stub, Request({Classify("a key")}), &response).ok());
    ASSERT_EQ(Labels(*stub, 0, 1).size(), 1u);
    annotator.Signal(SIGKILL);
    annotator.Wait();
  }
  const std::string store = folder_ / "run/labels.sqlite";
  const auto refused = [&] {
    AnnotatorProcess annotator(Flags());
    EXPECT_EQ(annotator.Wait(), 1);
    EXPECT_TRUE(annotator.Says(" error "));
    return annotator.log();
  };
  folder_.Write("run/labels.sqlite", "");
  EXPECT_THAT(refused(), AllOf(HasSubstr(store), HasSubstr("0 bytes"), HasSubstr("Restore")));
  std::filesystem::remove(store);
  EXPECT_THAT(refused(), AllOf(HasSubstr(store), HasSubstr("is gone"), HasSubstr("labels.sqlite.lock")));
}

TEST_F(ProcessTest, AStoreThatIsDamagedWhileItRunsEndsIt) {
  AnnotatorProcess annotator(Flags());
  auto stub = annotator.Stub();
  v1::AskRequest request = Request({});
  for (int i = 0; i < 500; ++i) *request.add_queries() = Classify(absl::StrCat("caption ", i, std::string(200, 'x')));
  v1::AskResponse response;
  ASSERT_TRUE(Ask(*stub, request, &response).ok());
  ASSERT_TRUE(Eventually([&] {
    grpc::ClientContext context;
    v1::DescribeRequest describe;
    describe.set_protocol_version(kProtocolVersion);
    v1::DescribeResponse description;
    return stub->Describe(&context, describe, &description).ok() && description.labels() == 500;
  }));
  {
    // What the write-ahead log holds is written into the file, and the file's pages are overwritten then.
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open((folder_ / "run/labels.sqlite").c_str(), &db), SQLITE_OK);
    ASSERT_EQ(sqlite3_exec(db, "PRAGMA wal_checkpoint(TRUNCATE)", nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(db);
    std::fstream file(folder_ / "run/labels.sqlite", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(0, std::ios::end);
    const auto size = static_cast<size_t>(file.tellp());
    file.seekp(4096);
    file << std::string(size - 4096, '\xa5');
  }
  grpc::ClientContext context;
  v1::LabelsRequest labels;
  labels.set_protocol_version(kProtocolVersion);
  auto stream = stub->Labels(&context, labels);
  v1::LabelBatch batch;
  while (stream->Read(&batch)) {
  }
  EXPECT_FALSE(stream->Finish().ok());
  EXPECT_EQ(annotator.Wait(), 1);
  EXPECT_TRUE(annotator.Says("damaged"));
  EXPECT_TRUE(annotator.Says(".recover"));
}

// A consumer of another kind than the reward model's: asks for subgoals, and follows their log. It knows the contract
// (annotator.proto) and its own kind and grammar, nothing else.
class SubgoalConsumer {
 public:
  explicit SubgoalConsumer(AnnotatorProcess& annotator) : stub_(annotator.Stub()) {
    query_.set_kind("compose");
    query_.set_goal("g");
    query_.mutable_grammar()->set_json_schema(
        R"({"type":"object","properties":{"subgoal":{"type":"string"}},"required":["subgoal"]})");
  }
  v1::AskOutcome Ask(const std::string& situation) {
    v1::AskRequest request;
    request.set_protocol_version(kProtocolVersion);
    *request.add_queries() = query_;
    (*request.mutable_queries(0)->mutable_texts())["text"] = situation;
    v1::AskResponse response;
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    EXPECT_TRUE(stub_->Ask(&context, request, &response).ok());
    return response.outcomes_size() == 1 ? response.outcomes(0) : v1::AskOutcome();
  }
  // The next subgoal in the log, as JSON.
  std::string Next() {
    grpc::ClientContext context;
    v1::LabelsRequest request;
    request.set_protocol_version(kProtocolVersion);
    request.set_from_sequence(next_);
    request.set_kind(query_.kind());
    *request.mutable_grammar() = query_.grammar();
    auto stream = stub_->Labels(&context, request);
    v1::LabelBatch batch;
    while (batch.labels_size() == 0 && stream->Read(&batch)) {
    }
    context.TryCancel();
    if (batch.labels_size() == 0) return "";
    next_ = batch.labels(0).sequence() + 1;
    return batch.labels(0).answer().json();
  }

 private:
  std::unique_ptr<v1::AnnotatorService::Stub> stub_;
  v1::Query query_;
  uint64_t next_ = 1;
};

TEST_F(ProcessTest, AKindThatTheRewardModelDoesNotAskIsServedByTheSameProcess) {
  folder_.Write("a.rules",
                "helpful: key\ndefault: unhelpful\n[compose]\nlocked => {\"subgoal\": \"find the key\"}\n"
                "default => {\"subgoal\": \"explore\"}\n");
  {
    AnnotatorProcess annotator(Flags());
    SubgoalConsumer consumer(annotator);
    auto stub = annotator.Stub();
    v1::AskResponse response;
    ASSERT_TRUE(Ask(*stub, Request({Classify("a key", "g")}), &response).ok());
    EXPECT_EQ(consumer.Ask("A locked door.").kind(), v1::AskOutcome::KIND_ACCEPTED);
    EXPECT_EQ(consumer.Next(), R"({"subgoal":"find the key"})");
    EXPECT_EQ(consumer.Ask("A wall.").kind(), v1::AskOutcome::KIND_ACCEPTED);
    EXPECT_EQ(consumer.Next(), R"({"subgoal":"explore"})");
    annotator.Signal(SIGKILL);
    annotator.Wait();
  }
  AnnotatorProcess annotator(Flags());
  SubgoalConsumer consumer(annotator);
  const v1::AskOutcome known = consumer.Ask("A locked door.");
  EXPECT_EQ(known.kind(), v1::AskOutcome::KIND_KNOWN);
  EXPECT_EQ(known.label().answer().json(), R"({"subgoal":"find the key"})");
}

// The server answers probes and refuses every query, until it is repaired: no query is lost.
TEST_F(ProcessTest, QueriesThatABrokenServerRefusedAreAnsweredAfterItsRepair) {
  std::atomic<bool> repaired = false;
  FakeLlm llm([&](const FakeLlm::Call& call) {
    if (call.probe) return FakeLlm::ObeysSchemas();
    if (!repaired) return FakeLlm::Reply{.status = 400, .body = "{\"error\":\"no such field\"}"};
    return FakeLlm::Says("Label: helpful");
  });
  const auto all_ended = [](v1::AnnotatorService::Stub& stub) {
    return Eventually([&] {
      grpc::ClientContext context;
      v1::DescribeRequest describe;
      describe.set_protocol_version(kProtocolVersion);
      v1::DescribeResponse description;
      return stub.Describe(&context, describe, &description).ok() && description.waiting() == 0;
    });
  };
  v1::AskRequest request = Request({});
  for (int i = 0; i < 50; ++i) *request.add_queries() = Classify(absl::StrCat("caption ", i));
  {
    AnnotatorProcess annotator(LlmFlags(llm.url()));
    auto stub = annotator.Stub();
    v1::AskResponse response;
    ASSERT_TRUE(Ask(*stub, request, &response).ok());
    ASSERT_TRUE(annotator.Says("refuses every query"));
    repaired = true;
    ASSERT_TRUE(all_ended(*stub)) << "most waited for the repair";
    annotator.Signal(SIGTERM);
    EXPECT_EQ(annotator.Wait(), 143);
  }
  // The few that were asked before the warning have failed once. By hand they are asked without their cool-down.
  std::vector<std::string> flags = LlmFlags(llm.url());
  flags.push_back("--ask_again=failed");
  AnnotatorProcess annotator(flags);
  auto stub = annotator.Stub();
  ASSERT_TRUE(annotator.Says("asked again"));
  ASSERT_TRUE(all_ended(*stub));
  v1::AskResponse response;
  ASSERT_TRUE(Ask(*stub, request, &response).ok());
  int second_attempts = 0;
  for (const v1::AskOutcome& outcome : response.outcomes()) {
    EXPECT_EQ(outcome.kind(), v1::AskOutcome::KIND_KNOWN);
    EXPECT_EQ(outcome.label().outcome(), v1::OUTCOME_ANSWERED);
    second_attempts += outcome.label().attempt() == 2;
  }
  EXPECT_GE(second_attempts, 5);
  EXPECT_LE(second_attempts, 20) << "those in flight, and one after each probe";
}

TEST_F(ProcessTest, AStoreThatCannotBeWrittenEndsItWithTheReason) {
  // A file size limit stands for a full disk; whoever ignores the signal that comes with it gets an error instead.
  signal(SIGXFSZ, SIG_IGN);
  AnnotatorProcess annotator(Flags());
  ASSERT_GT(annotator.port(), 0);
  auto stub = annotator.Stub();
  v1::AskResponse response;
  ASSERT_TRUE(Ask(*stub, Request({Classify("a")}), &response).ok());
  ASSERT_TRUE(annotator.LimitFiles(200'000));
  grpc::Status status;
  for (int i = 0; i < 10'000 && status.ok(); ++i) {
    // Without waiting for a server: it may have ended over a label before this query came.
    grpc::ClientContext context;
    status = stub->Ask(&context, Request({Classify(absl::StrCat(std::string(5000, 'x'), i))}), &response);
  }
  // CANCELLED is gRPC's word for a call that a stopping server has not looked at yet.
  EXPECT_THAT(status.error_code(), AnyOf(grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::CANCELLED));
  EXPECT_EQ(annotator.Wait(), 1) << annotator.log();
  EXPECT_THAT(annotator.log(), AllOf(HasSubstr("labels.sqlite: cannot"), HasSubstr("disk")));
}

}  // namespace
}  // namespace sibyl::annotator
