// The annotator's core and its service, with a judge that a test controls.

#include "annotator/serving/annotator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "annotator/judges/query_key.h"
#include "annotator/serving/service.h"
#include "annotator/store/sqlite_label_log.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "tests/annotator/queries.h"

namespace sibyl::annotator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Keeps what it is asked until the test answers it.
class HeldJudge : public Judge {
 public:
  explicit HeldJudge(int capacity) : capacity_(capacity) {}
  std::string name() const override { return "held"; }
  std::string prompt() const override { return "p"; }
  std::string sampling() const override { return ""; }
  std::string Rendered(const v1::Query&) const override { return ""; }
  absl::Status Check(const v1::Query& query) const override {
    return CaptionOf(query) == "bad" ? absl::InvalidArgumentError("not for this judge") : absl::OkStatus();
  }
  int capacity() const override { return capacity_; }
  void Answer(const v1::Query& query, std::function<void(Verdict)> done) override {
    MutexLock lock(mutex_);
    held_.emplace_back(CaptionOf(query), std::move(done));
    ++asked_;
  }

  int asked() {
    MutexLock lock(mutex_);
    return asked_;
  }
  // Answers what was asked first, and gives its caption.
  std::string AnswerOne(v1::Outcome outcome = v1::OUTCOME_ANSWERED) {
    std::pair<std::string, std::function<void(Verdict)>> one;
    EXPECT_TRUE(Eventually([&] {
      MutexLock lock(mutex_);
      if (held_.empty()) return false;
      one = std::move(held_.front());
      held_.erase(held_.begin());
      return true;
    }));
    Verdict verdict;
    verdict.outcome = outcome;
    if (outcome == v1::OUTCOME_ANSWERED) {
      for (const float p : {0, 1}) verdict.answer.mutable_choice()->add_distribution(p);
    }
    one.second(verdict);
    return one.first;
  }

 private:
  const int capacity_;
  Mutex mutex_;
  std::vector<std::pair<std::string, std::function<void(Verdict)>>> held_ ABSL_GUARDED_BY(mutex_);
  int asked_ ABSL_GUARDED_BY(mutex_) = 0;
};

class AnnotatorTest : public ::testing::Test {
 protected:
  void Start(int judge_capacity = 1, uint64_t capacity = 100) {
    auto judge = std::make_unique<HeldJudge>(judge_capacity);
    judge_ = judge.get();
    host_ = std::make_unique<TestHost>(clock_);
    SqliteLabelLogOptions options;
    options.path = folder_ / "labels.sqlite";
    options.judge = {JudgeIdentity(*judge), "", judge->prompt(),
                     [judge = judge_](const v1::Query& query, const std::string& served) {
                       return QueryKey(query, *judge, served);
                     }};
    options.capacity = capacity;
    auto log = SqliteLabelLog::Open(options, *host_);
    ASSERT_TRUE(log.ok()) << log.status();
    log_id_ = (*log)->log_id();
    service_ = std::make_unique<Service>(*host_);
    std::unique_ptr<LabelLog> used = *std::move(log);
    if (wrap_) used = wrap_(std::move(used));
    annotator_ = std::make_unique<Annotator>(
        std::move(judge), std::move(used), capacity, *host_, [this] { service_->OnLabel(); }, std::vector<GoldItem>(),
        absl::Milliseconds(5));
    service_->Serve(*annotator_);
    server_ = *rpc::Server::Start("127.0.0.1:0", {service_.get()});
    stub_ = v1::AnnotatorService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", server_->port())));
  }
  void Stop() {
    service_->CloseStreams();
    server_->Drain(absl::Seconds(5));
    server_.reset();
    annotator_.reset();
    service_.reset();
  }
  void TearDown() override {
    if (server_) Stop();
  }
  grpc::Status Ask(const v1::AskRequest& request, v1::AskResponse* response) {
    grpc::ClientContext context;
    return stub_->Ask(&context, request, response);
  }
  static std::vector<v1::AskOutcome::Kind> Kinds(const v1::AskResponse& response) {
    std::vector<v1::AskOutcome::Kind> kinds;
    for (const auto& outcome : response.outcomes()) kinds.push_back(outcome.kind());
    return kinds;
  }

  TemporaryFolder folder_;
  FakeClock clock_;
  std::string log_id_;
  std::function<std::unique_ptr<LabelLog>(std::unique_ptr<LabelLog>)> wrap_;  // around the log; empty: nothing
  std::unique_ptr<TestHost> host_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<Annotator> annotator_;
  HeldJudge* judge_ = nullptr;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<v1::AnnotatorService::Stub> stub_;
};

TEST_F(AnnotatorTest, AsksTheMostUrgentFirst) {
  Start();
  v1::AskResponse response;
  ASSERT_TRUE(Ask(Request({Classify("first in line")}), &response).ok());
  ASSERT_TRUE(Eventually([&] { return judge_->asked() == 1; }));
  ASSERT_TRUE(Ask(Request({Classify("low", "g", 1), Classify("high", "g", 5), Classify("older", "g", 3),
                           Classify("newer", "g", 3)}),
                  &response)
                  .ok());
  std::vector<std::string> order;
  for (int i = 0; i < 5; ++i) order.push_back(judge_->AnswerOne());
  EXPECT_THAT(order, ElementsAre("first in line", "high", "older", "newer", "low"));
}

TEST_F(AnnotatorTest, NeverGivesTheJudgeMoreThanItTakes) {
  Start(/*judge_capacity=*/2);
  v1::AskResponse response;
  ASSERT_TRUE(Ask(Request({Classify("a"), Classify("b"), Classify("c"), Classify("d")}), &response).ok());
  ASSERT_TRUE(Eventually([&] { return judge_->asked() == 2; }));
  judge_->AnswerOne();
  ASSERT_TRUE(Eventually([&] { return judge_->asked() == 3; }));
  EXPECT_EQ(annotator_->Describe().waiting(), 3u);
}

TEST_F(AnnotatorTest, KnownDuplicateAndFullAreToldApart) {
  Start(1, /*capacity=*/2);
  v1::AskResponse response;
  v1::AskRequest request = Request({Classify("a"), Classify("b"), Classify("c"), Classify("a")});
  for (int i = 0; i < 4; ++i) request.mutable_queries(i)->set_tag(10 + i);
  ASSERT_TRUE(Ask(request, &response).ok());
  EXPECT_THAT(Kinds(response), ElementsAre(v1::AskOutcome::KIND_ACCEPTED, v1::AskOutcome::KIND_ACCEPTED,
                                           v1::AskOutcome::KIND_FULL, v1::AskOutcome::KIND_DUPLICATE));
  EXPECT_EQ(response.outcomes(3).tag(), 13u);
  EXPECT_EQ(response.room(), 0u);
  judge_->AnswerOne();
  ASSERT_TRUE(Eventually([&] { return annotator_->Describe().labels() == 1; }));
  ASSERT_TRUE(Ask(Request({Classify("a")}), &response).ok());
  EXPECT_THAT(Kinds(response), ElementsAre(v1::AskOutcome::KIND_KNOWN));
  EXPECT_EQ(response.outcomes(0).label().sequence(), 1u);
  EXPECT_EQ(response.outcomes(0).label().judge(), "held");
  EXPECT_EQ(response.room(), 1u);
  EXPECT_THAT(host_->metrics.Text(), HasSubstr("sibyl_annotator_queries_total{outcome=\"full\"} 1"));
}

TEST_F(AnnotatorTest, ABadQueryIsNamedAndNothingOfItsRequestIsTaken) {
  Start();
  v1::AskResponse response;
  grpc::Status status = Ask(Request({Classify("good"), Classify("bad")}), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "queries[1]: not for this judge");
  status = Ask(Request({Compare("same", "same")}), &response);
  EXPECT_THAT(status.error_message(), AllOf(HasSubstr("queries[0]"), HasSubstr("must differ")));
  v1::AskRequest large;
  large.set_protocol_version(kProtocolVersion);
  for (int i = 0; i < 1001; ++i) *large.add_queries() = Classify(absl::StrCat(i));
  EXPECT_THAT(Ask(large, &response).error_message(), HasSubstr("1001"));
  EXPECT_EQ(annotator_->Describe().waiting(), 0u);
}

TEST_F(AnnotatorTest, AnotherProtocolVersionIsRefusedNamingBoth) {
  Start();
  v1::AskRequest ask = Request({Classify("a")});
  ask.set_protocol_version(kProtocolVersion + 8);
  v1::AskResponse response;
  const auto refused = [&](const grpc::Status& status) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    EXPECT_THAT(status.error_message(), AllOf(HasSubstr(absl::StrCat("protocol_version is ", kProtocolVersion + 8)),
                                              HasSubstr(absl::StrCat("speaks ", kProtocolVersion))));
  };
  refused(Ask(ask, &response));
  grpc::ClientContext describe_context, labels_context;
  v1::DescribeRequest describe;
  describe.set_protocol_version(kProtocolVersion + 8);
  v1::DescribeResponse description;
  refused(stub_->Describe(&describe_context, describe, &description));
  v1::LabelsRequest labels;
  labels.set_protocol_version(kProtocolVersion + 8);
  auto stream = stub_->Labels(&labels_context, labels);
  v1::LabelBatch batch;
  EXPECT_FALSE(stream->Read(&batch));
  refused(stream->Finish());
}

TEST_F(AnnotatorTest, LabelsStreamsWhatIsThereAndThenWhatComes) {
  Start(/*judge_capacity=*/8);
  v1::AskResponse response;
  ASSERT_TRUE(Ask(Request({Classify("a", "g1"), Classify("b", "g2")}), &response).ok());
  judge_->AnswerOne();
  judge_->AnswerOne();
  ASSERT_TRUE(Eventually([&] { return annotator_->Describe().labels() == 2; }));
  grpc::ClientContext context;
  v1::LabelsRequest request;
  request.set_protocol_version(kProtocolVersion);
  request.set_goal("g2");
  auto stream = stub_->Labels(&context, request);
  v1::LabelBatch batch;
  ASSERT_TRUE(stream->Read(&batch));
  ASSERT_EQ(batch.labels_size(), 1);
  EXPECT_EQ(batch.labels(0).sequence(), 2u);
  EXPECT_EQ(batch.next_sequence(), 3u);
  ASSERT_TRUE(Ask(Request({Classify("c", "g1")}), &response).ok());
  judge_->AnswerOne();
  ASSERT_TRUE(stream->Read(&batch));
  EXPECT_EQ(batch.labels_size(), 0) << "filtered out, but the log reaches further";
  EXPECT_EQ(batch.next_sequence(), 4u);
  ASSERT_TRUE(Ask(Request({Classify("d", "g2")}), &response).ok());
  judge_->AnswerOne();
  ASSERT_TRUE(stream->Read(&batch));
  ASSERT_EQ(batch.labels_size(), 1);
  EXPECT_EQ(CaptionOf(batch.labels(0).query()), "d");
  // A caller that resumes gets exactly the rest.
  grpc::ClientContext resumed_context;
  request.set_from_sequence(3);
  auto resumed = stub_->Labels(&resumed_context, request);
  ASSERT_TRUE(resumed->Read(&batch));
  ASSERT_EQ(batch.labels_size(), 1);
  EXPECT_EQ(batch.labels(0).sequence(), 4u);
  EXPECT_EQ(batch.next_sequence(), 5u);
  context.TryCancel();
  resumed_context.TryCancel();
  EXPECT_TRUE(
      Eventually([&] { return host_->metrics.Text().find("sibyl_annotator_label_streams 0\n") != std::string::npos; }));
}

TEST_F(AnnotatorTest, ManyLabelsArriveInOrderWithoutGapsInSeveralStreams) {
  Start(/*judge_capacity=*/64, /*capacity=*/5000);
  const int count = 3000;
  std::vector<std::future<void>> readers;
  for (int r = 0; r < 3; ++r) {
    readers.push_back(std::async(std::launch::async, [&] {
      grpc::ClientContext context;
      v1::LabelsRequest request;
      request.set_protocol_version(kProtocolVersion);
      auto stream = stub_->Labels(&context, request);
      v1::LabelBatch batch;
      uint64_t expected = 1;
      while (expected <= count && stream->Read(&batch)) {
        for (const auto& label : batch.labels()) EXPECT_EQ(label.sequence(), expected++);
        EXPECT_EQ(batch.next_sequence(), expected);
      }
      EXPECT_EQ(expected, count + 1u);
      context.TryCancel();
    }));
  }
  for (int i = 0; i < count; i += 500) {
    v1::AskRequest request;
    request.set_protocol_version(kProtocolVersion);
    for (int j = 0; j < 500; ++j) *request.add_queries() = Classify(absl::StrCat("c", i + j));
    v1::AskResponse response;
    ASSERT_TRUE(Ask(request, &response).ok());
  }
  for (int i = 0; i < count; ++i) judge_->AnswerOne();
  for (auto& reader : readers) reader.get();
}

TEST_F(AnnotatorTest, ACallerFromAnotherLogIsToldSo) {
  Start();
  grpc::ClientContext context;
  v1::LabelsRequest request;
  request.set_protocol_version(kProtocolVersion);
  request.set_from_sequence(500);
  auto stream = stub_->Labels(&context, request);
  v1::LabelBatch batch;
  EXPECT_FALSE(stream->Read(&batch));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::OUT_OF_RANGE);
}

TEST_F(AnnotatorTest, TheLogsIdentityIsToldAndALabelsRequestForAnotherLogIsRefused) {
  Start();
  EXPECT_EQ(annotator_->Describe().log_id(), log_id_);
  v1::LabelsRequest request;
  request.set_protocol_version(kProtocolVersion);
  for (const bool same : {true, false}) {
    grpc::ClientContext context;
    request.set_log_id(same ? log_id_ : "another");
    auto stream = stub_->Labels(&context, request);
    v1::LabelBatch batch;
    EXPECT_EQ(stream->Read(&batch), same);
    if (same) context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), same ? grpc::StatusCode::CANCELLED : grpc::StatusCode::NOT_FOUND);
  }
}

TEST_F(AnnotatorTest, AFailedQueryIsAskedAgainByItselfAfterItsCoolDown) {
  Start();
  v1::AskResponse response;
  ASSERT_TRUE(Ask(Request({Classify("a")}), &response).ok());
  EXPECT_EQ(judge_->AnswerOne(v1::OUTCOME_FAILED), "a");
  ASSERT_TRUE(Eventually([&] { return annotator_->Describe().labels() == 1; }));
  EXPECT_EQ(annotator_->Describe().waiting(), 0u);
  clock_.Advance(absl::Hours(1));
  EXPECT_EQ(judge_->AnswerOne(), "a");
  ASSERT_TRUE(Eventually([&] { return annotator_->Describe().labels() == 2; }));
  ASSERT_TRUE(Ask(Request({Classify("a")}), &response).ok());
  EXPECT_THAT(Kinds(response), ElementsAre(v1::AskOutcome::KIND_KNOWN));
  EXPECT_EQ(response.outcomes(0).label().outcome(), v1::OUTCOME_ANSWERED);
  EXPECT_EQ(response.outcomes(0).label().attempt(), 2u);
}

TEST_F(AnnotatorTest, ByHandUnparsableQueriesAreAskedAgain) {
  Start();
  v1::AskResponse response;
  ASSERT_TRUE(Ask(Request({Classify("a")}), &response).ok());
  judge_->AnswerOne(v1::OUTCOME_UNPARSABLE);
  ASSERT_TRUE(Eventually([&] { return annotator_->Describe().labels() == 1; }));
  v1::EditRequest retry;
  retry.set_protocol_version(kProtocolVersion);
  retry.mutable_retry()->add_outcomes(v1::OUTCOME_UNPARSABLE);
  grpc::ClientContext context;
  v1::EditResponse edited;
  ASSERT_TRUE(stub_->Edit(&context, retry, &edited).ok());
  EXPECT_EQ(edited.changed(), 1u);
  EXPECT_EQ(judge_->AnswerOne(), "a");
}

TEST_F(AnnotatorTest, APersonsLabelReachesFollowersAndAnAnswerThatComesLaterDoesNotReplaceIt) {
  Start(/*judge_capacity=*/8);
  v1::AskResponse response;
  ASSERT_TRUE(Ask(Request({Classify("a")}), &response).ok());
  judge_->AnswerOne();
  ASSERT_TRUE(Eventually([&] { return annotator_->Describe().labels() == 1; }));
  // It is asked again, and overridden before it is answered.
  v1::EditRequest edit;
  edit.set_protocol_version(kProtocolVersion);
  edit.mutable_retry()->add_outcomes(v1::OUTCOME_ANSWERED);
  v1::EditResponse edited;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->Edit(&context, edit, &edited).ok());
  }
  ASSERT_TRUE(Eventually([&] { return judge_->asked() == 2; }));
  ASSERT_TRUE(Ask(Request({Classify("a")}), &response).ok());
  edit.mutable_override()->set_query_id(1);
  edit.mutable_override()->set_by("ann");
  edit.mutable_override()->mutable_answer()->mutable_choice()->add_distribution(1);
  edit.mutable_override()->mutable_answer()->mutable_choice()->add_distribution(0);
  {
    grpc::ClientContext context;
    const grpc::Status status = stub_->Edit(&context, edit, &edited);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  judge_->AnswerOne();
  ASSERT_TRUE(Ask(Request({Classify("a")}), &response).ok());
  EXPECT_THAT(Kinds(response), ElementsAre(v1::AskOutcome::KIND_KNOWN));
  EXPECT_EQ(response.outcomes(0).label().overridden_by(), "ann");
  EXPECT_EQ(response.outcomes(0).label().answer().choice().distribution(0), 1);
  EXPECT_EQ(annotator_->Describe().labels(), 2u);
  EXPECT_EQ(annotator_->Describe().waiting(), 0u);
  EXPECT_EQ(annotator_->Drain(absl::Seconds(5)), 0);
}

// A log whose reads wait until the test lets them go; all else is the real one's.
class SlowToRead : public LabelLog {
 public:
  explicit SlowToRead(std::unique_ptr<LabelLog> log) : log_(std::move(log)) {}
  const std::string& log_id() const override { return log_->log_id(); }
  std::vector<WaitingQuery> TakeWaiting() override { return log_->TakeWaiting(); }
  void Ask(std::vector<v1::Query> queries, std::function<void(absl::StatusOr<AskResult>)> done) override {
    log_->Ask(std::move(queries), std::move(done));
  }
  void Append(const WaitingQuery& query, v1::Label label,
              std::function<void(absl::StatusOr<v1::Label>)> done) override {
    log_->Append(query, std::move(label), std::move(done));
  }
  void AskAgain(std::function<void(absl::StatusOr<std::vector<WaitingQuery>>)> done) override {
    log_->AskAgain(std::move(done));
  }
  void Edit(v1::EditRequest request, std::function<void(absl::StatusOr<EditResult>)> done) override {
    log_->Edit(std::move(request), std::move(done));
  }
  void AddRequest(const RequestEnd& request) override { log_->AddRequest(request); }
  absl::StatusOr<v1::SpendingResponse> Spending() override { return log_->Spending(); }
  std::string served() const override { return log_->served(); }
  void SetServed(const std::string& served) override { log_->SetServed(served); }
  void Follow(LogEvents events) override { log_->Follow(std::move(events)); }
  absl::StatusOr<v1::LabelBatch> Read(const v1::LabelsRequest& request, int rows) override {
    ++reads;
    while (held) std::this_thread::yield();
    return log_->Read(request, rows);
  }
  uint64_t last_sequence() const override { return log_->last_sequence(); }
  uint64_t waiting() const override { return log_->waiting(); }
  uint64_t set_aside() const override { return log_->set_aside(); }
  absl::Status Close() override { return log_->Close(); }

  std::atomic<bool> held = false;
  std::atomic<int> reads = 0;

 private:
  std::unique_ptr<LabelLog> log_;
};

TEST_F(AnnotatorTest, FollowersThatReadTheLogDoNotHoldUpItsWriting) {
  SlowToRead* slow = nullptr;
  wrap_ = [&](std::unique_ptr<LabelLog> log) {
    auto wrapped = std::make_unique<SlowToRead>(std::move(log));
    slow = wrapped.get();
    return wrapped;
  };
  Start(/*judge_capacity=*/8);
  grpc::ClientContext context;
  v1::LabelsRequest request;
  request.set_protocol_version(kProtocolVersion);
  auto stream = stub_->Labels(&context, request);
  v1::LabelBatch batch;
  ASSERT_TRUE(stream->Read(&batch));
  slow->held = true;
  const int reads = slow->reads;
  v1::AskResponse response;
  ASSERT_TRUE(Ask(Request({Classify("a"), Classify("b")}), &response).ok());
  judge_->AnswerOne();
  ASSERT_TRUE(Eventually([&] { return slow->reads > reads; })) << "the follower is being served";
  judge_->AnswerOne();
  EXPECT_TRUE(Eventually([&] { return annotator_->Describe().labels() == 2; })) << "and labels are written meanwhile";
  slow->held = false;
  uint64_t next = batch.next_sequence();
  while (next < 3 && stream->Read(&batch)) next = batch.next_sequence();
  EXPECT_EQ(next, 3u);
  context.TryCancel();
}

TEST_F(AnnotatorTest, DrainingCommitsWhatIsInFlightAndLeavesTheRestForTheNextStart) {
  Start(/*judge_capacity=*/1);
  v1::AskResponse response;
  ASSERT_TRUE(Ask(Request({Classify("in flight", "g", 9), Classify("waits")}), &response).ok());
  ASSERT_TRUE(Eventually([&] { return judge_->asked() == 1; }));
  auto drained = std::async(std::launch::async, [&] { return annotator_->Drain(absl::Seconds(20)); });
  ASSERT_TRUE(Eventually(
      [&] { return Ask(Request({Classify("late")}), &response).error_code() == grpc::StatusCode::UNAVAILABLE; }));
  EXPECT_EQ(judge_->AnswerOne(), "in flight");
  EXPECT_EQ(drained.get(), 0);
  EXPECT_EQ(judge_->asked(), 1);
  Stop();
  Start();
  EXPECT_EQ(annotator_->Describe().labels(), 1u);
  // Whether "late" slipped in before the drain began does not matter; "waits" is asked, "in flight" is not.
  std::set<std::string> again;
  const uint64_t waiting = annotator_->Describe().waiting();
  for (uint64_t i = 0; i < waiting; ++i) again.insert(judge_->AnswerOne());
  EXPECT_EQ(again.count("waits"), 1u);
  EXPECT_EQ(again.count("in flight"), 0u);
}

TEST_F(AnnotatorTest, AJudgeThatDoesNotAnswerDoesNotHoldUpTheEnd) {
  Start();
  v1::AskResponse response;
  ASSERT_TRUE(Ask(Request({Classify("a")}), &response).ok());
  ASSERT_TRUE(Eventually([&] { return judge_->asked() == 1; }));
  EXPECT_EQ(annotator_->Drain(absl::ZeroDuration()), 1);
  Stop();
  Start();
  EXPECT_EQ(judge_->AnswerOne(), "a");
}

TEST_F(AnnotatorTest, StreamsEndWithTheReasonWhenItStops) {
  Start();
  grpc::ClientContext context;
  v1::LabelsRequest request;
  request.set_protocol_version(kProtocolVersion);
  auto stream = stub_->Labels(&context, request);
  v1::LabelBatch batch;
  ASSERT_TRUE(stream->Read(&batch));
  EXPECT_EQ(batch.next_sequence(), 1u);
  service_->CloseStreams();
  EXPECT_FALSE(stream->Read(&batch));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("stopping"));
}

}  // namespace
}  // namespace sibyl::annotator
