// Annotators are killed again and again while they answer: whatever was acknowledged is answered exactly once, on both
// stores. More of it by hand: SIBYL_KILLS=50 SIBYL_KILL_QUERIES=20000 build/release/tests/annotator_kill_test

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <set>

#include "common/random.h"
#include "common/rpc/channel.h"
#include "sibyl/v1/annotator.grpc.pb.h"
#include "tests/annotator/fake_llm.h"
#include "tests/annotator/postgres_server.h"
#include "tests/annotator/queries.h"
#include "tests/process.h"

namespace sibyl::annotator {
namespace {

int FromEnvironment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

constexpr int kInFlight = 8;

class KillTest : public ::testing::Test {
 protected:
  KillTest() {
    setenv("no_proxy", "127.0.0.1", 1);
    folder_.Write("p.txt", "[user]\nGoal: {goal}\nCaption: {caption}\n");
    folder_.Write("e.textproto",
                  "environment { name: \"minigrid/DoorKey-8x8\" }\nreward_model { goal: \"find the ball\" }\n"
                  "annotator { queue_capacity: 1000000 }\n");
    llm_ = std::make_unique<FakeLlm>([this](const FakeLlm::Call& call) {
      if (call.probe) return FakeLlm::ObeysSchemas();
      {
        MutexLock lock(mutex_);
        ++requests_[FakeLlm::Caption(call)];
      }
      FakeLlm::Reply reply = FakeLlm::Says("Label: helpful");
      reply.delay = absl::Milliseconds(5);
      return reply;
    });
  }

  struct Annotator {
    std::unique_ptr<Process> process;
    std::unique_ptr<v1::AnnotatorService::Stub> stub;
  };
  Annotator Start(const std::string& store, int number) {
    Annotator annotator;
    annotator.process = std::make_unique<Process>(std::vector<std::string>{
        SIBYL_BIN_DIR "/sibyl-annotator", "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
        "--config=" + folder_ / "e.textproto", absl::StrCat("--run_dir=", folder_ / "run", number),
        "--set=annotator.judge=JUDGE_KIND_OPENAI", "--set=annotator.openai.url=" + llm_->url(),
        "--set=annotator.openai.model=fake", "--set=annotator.openai.prompt_file=" + folder_ / "p.txt",
        absl::StrCat("--set=annotator.openai.max_in_flight=", kInFlight), "--set=annotator.store=" + store});
    const int port = annotator.process->NumberAfter("(port ");
    EXPECT_GT(port, 0) << annotator.process->log();
    annotator.stub = v1::AnnotatorService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", port)));
    return annotator;
  }

  static v1::DescribeResponse Describe(Annotator& annotator) {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(20)));
    v1::DescribeRequest request;
    request.set_protocol_version(kProtocolVersion);
    v1::DescribeResponse response;
    EXPECT_TRUE(annotator.stub->Describe(&context, request, &response).ok());
    return response;
  }

  void Run(const std::string& store, int count) {
    const int kills = FromEnvironment("SIBYL_KILLS", 4), queries = FromEnvironment("SIBYL_KILL_QUERIES", 1200);
    std::vector<Annotator> annotators;
    for (int i = 0; i < count; ++i) annotators.push_back(Start(store, i));
    Random random(7);
    std::set<std::string> acknowledged;
    int offered = 0, killed = 0;
    const absl::Time start = absl::Now();
    absl::Time kill_at = start + absl::Milliseconds(300);
    while (offered < queries || killed < kills) {
      if (offered < queries && offered < queries * (killed + 1) / kills) {
        v1::AskRequest request;
        request.set_protocol_version(kProtocolVersion);
        const int end = std::min(queries, offered + 100);
        for (int i = offered; i < end; ++i) *request.add_queries() = Classify(absl::StrCat("c", i));
        grpc::ClientContext context;
        context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(20)));
        v1::AskResponse response;
        if (annotators[random.Below(annotators.size())].stub->Ask(&context, request, &response).ok()) {
          for (int i = offered; i < end; ++i) acknowledged.insert(absl::StrCat("c", i));
          offered = end;
        }
      }
      if (killed < kills && absl::Now() >= kill_at) {
        const size_t which = random.Below(annotators.size());
        annotators[which].process->Signal(SIGKILL);
        EXPECT_EQ(annotators[which].process->Wait(), 1000 + SIGKILL) << annotators[which].process->log();
        annotators[which] = Start(store, static_cast<int>(which));
        ++killed;
        kill_at = absl::Now() + absl::Milliseconds(100 + random.Below(500));
      }
    }
    ASSERT_TRUE(Eventually([&] { return Describe(annotators[0]).waiting() == 0; }, absl::Minutes(5)));
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);

    grpc::ClientContext context;
    v1::LabelsRequest request;
    request.set_protocol_version(kProtocolVersion);
    const auto stream = annotators[0].stub->Labels(&context, request);
    v1::LabelBatch batch;
    std::map<std::string, int> answered;
    uint64_t next = 1;
    const uint64_t labels = Describe(annotators[0]).labels();
    while (next <= labels && stream->Read(&batch)) {
      for (const v1::Label& label : batch.labels()) {
        EXPECT_EQ(label.sequence(), next++);
        EXPECT_EQ(label.outcome(), v1::OUTCOME_ANSWERED);
        ++answered[CaptionOf(label.query())];
      }
    }
    context.TryCancel();
    EXPECT_EQ(acknowledged.size(), static_cast<size_t>(queries));
    int lost = 0, twice = 0;
    for (const std::string& caption : acknowledged) {
      lost += answered[caption] == 0;
      twice += answered[caption] > 1;
    }
    EXPECT_EQ(lost, 0);
    EXPECT_EQ(twice, 0);
    MutexLock lock(mutex_);
    int requests = 0;
    for (const auto& [caption, times] : requests_) requests += times;
    // What was in flight when an annotator died, and as much that was answered and not yet written.
    EXPECT_LE(requests, queries + killed * 2 * kInFlight);
    std::printf("%d annotators, %d kills: %zu acknowledged, %zu answered, %d lost, %d twice, %d requests, %.0f s\n",
                count, killed, acknowledged.size(), answered.size(), lost, twice, requests, seconds);
  }

  TemporaryFolder folder_;
  Mutex mutex_;
  std::map<std::string, int> requests_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<FakeLlm> llm_;
};

TEST_F(KillTest, WhatASqliteStoreAcknowledgedIsAnsweredExactlyOnce) { Run("labels.sqlite", 1); }

TEST_F(KillTest, WhatTwoAnnotatorsOnOneDatabaseAcknowledgedIsAnsweredExactlyOnce) {
  Run(PostgresServer::Get().NewDatabase(), 2);
}

}  // namespace
}  // namespace sibyl::annotator
