// The label log in PostgreSQL, against a real server.

#include "annotator/store/postgres_label_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <set>

#include "annotator/questions/canonical.h"
#include "tests/annotator/postgres_server.h"
#include "tests/annotator/queries.h"

namespace sibyl::annotator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::Label Good() {
  v1::Label label;
  label.set_outcome(v1::OUTCOME_ANSWERED);
  label.set_judge("rules:r");
  label.set_prompt("p.txt@1");
  label.mutable_answer()->mutable_choice()->add_distribution(0.1f);
  label.mutable_answer()->mutable_choice()->add_distribution(0.9f);
  label.set_raw("Label: helpful");
  label.set_cost(0.25);
  return label;
}

// An annotator that shares the database: what it has taken is kept until the test answers it.
struct Sharer {
  std::unique_ptr<TestHost> host;
  std::unique_ptr<PostgresLabelLog> log;
  Mutex mutex;
  std::vector<WaitingQuery> taken ABSL_GUARDED_BY(mutex);
  std::atomic<int> told = 0;  // of others' labels

  size_t size() {
    MutexLock lock(mutex);
    return taken.size();
  }
  std::vector<WaitingQuery> TakeAll() {
    MutexLock lock(mutex);
    return std::move(taken);
  }
};

class PostgresLabelLogTest : public ::testing::Test {
 protected:
  PostgresLabelLogTest() : url_(PostgresServer::Get().NewDatabase()) {
    options_.url = url_;
    options_.judge.identity = "rules:r\n";
    options_.judge.prompt = "p.txt@1";
    options_.judge.key = [](const v1::Query& query, const std::string& served) {
      return absl::StrCat(served, query.kind(), TextsJson(query.texts()), query.goal());
    };
    options_.poll = absl::Milliseconds(20);
    options_.run = "run";
  }
  std::unique_ptr<Sharer> Open(Clock& clock = Clock::Real()) {
    auto sharer = std::make_unique<Sharer>();
    sharer->host = std::make_unique<TestHost>(clock);
    auto log = PostgresLabelLog::Open(options_, *sharer->host);
    EXPECT_TRUE(log.ok()) << log.status();
    sharer->log = *std::move(log);
    sharer->log->Follow({[sharer = sharer.get()](std::vector<WaitingQuery> taken) {
                           MutexLock lock(sharer->mutex);
                           for (WaitingQuery& query : taken) sharer->taken.push_back(std::move(query));
                         },
                         [sharer = sharer.get()] { ++sharer->told; }});
    return sharer;
  }
  static absl::StatusOr<AskResult> Ask(Sharer& sharer, std::vector<v1::Query> queries) {
    std::promise<absl::StatusOr<AskResult>> promise;
    sharer.log->Ask(std::move(queries),
                    [&](absl::StatusOr<AskResult> result) { promise.set_value(std::move(result)); });
    return promise.get_future().get();
  }
  static absl::StatusOr<v1::Label> Append(Sharer& sharer, const WaitingQuery& query, v1::Label label = Good()) {
    std::promise<absl::StatusOr<v1::Label>> promise;
    sharer.log->Append(query, std::move(label),
                       [&](absl::StatusOr<v1::Label> label) { promise.set_value(std::move(label)); });
    return promise.get_future().get();
  }
  static absl::StatusOr<EditResult> Edit(Sharer& sharer, const v1::EditRequest& request) {
    std::promise<absl::StatusOr<EditResult>> promise;
    sharer.log->Edit(request, [&](absl::StatusOr<EditResult> result) { promise.set_value(std::move(result)); });
    return promise.get_future().get();
  }
  static std::vector<v1::AskOutcome::Kind> Kinds(const absl::StatusOr<AskResult>& result) {
    EXPECT_TRUE(result.ok()) << result.status();
    std::vector<v1::AskOutcome::Kind> kinds;
    for (const auto& outcome : result->outcomes) kinds.push_back(outcome.kind());
    return kinds;
  }
  static WaitingQuery One(Sharer& sharer) {
    EXPECT_TRUE(Eventually([&] { return sharer.size() == 1; }));
    return sharer.TakeAll().at(0);
  }

  const std::string url_;
  FakeClock clock_;
  PostgresLabelLogOptions options_;
};

TEST_F(PostgresLabelLogTest, AQuestionIsAcceptedOnceThenDuplicateThenKnownWhoeverIsAsked) {
  auto a = Open(), b = Open();
  EXPECT_EQ(a->log->log_id(), b->log->log_id());
  v1::Query query = Classify("a \"door\"\n");
  query.set_tag(17);
  EXPECT_THAT(Kinds(Ask(*a, {query, query})),
              ElementsAre(v1::AskOutcome::KIND_ACCEPTED, v1::AskOutcome::KIND_DUPLICATE));
  EXPECT_THAT(Kinds(Ask(*b, {query})), ElementsAre(v1::AskOutcome::KIND_DUPLICATE));
  ASSERT_TRUE(Eventually([&] { return a->size() + b->size() == 1; })) << "one of them has it";
  Sharer& holder = a->size() == 1 ? *a : *b;
  Sharer& other = a->size() == 1 ? *b : *a;
  const auto label = Append(holder, holder.TakeAll()[0]);
  ASSERT_TRUE(label.ok()) << label.status();
  EXPECT_EQ(label->sequence(), 1u);
  EXPECT_EQ(label->run(), "run");
  ASSERT_TRUE(Eventually([&] { return other.told > 0; })) << "the other's followers are told";
  EXPECT_EQ(other.log->last_sequence(), 1u);
  const auto known = Ask(other, {query});
  EXPECT_THAT(Kinds(known), ElementsAre(v1::AskOutcome::KIND_KNOWN));
  EXPECT_EQ(known->outcomes[0].tag(), 17u);
  EXPECT_EQ(CaptionOf(known->outcomes[0].label().query()), "a \"door\"\n");
  EXPECT_EQ(known->outcomes[0].label().cost(), 0.25);
}

TEST_F(PostgresLabelLogTest, RefusesWhatIsBeyondItsCapacity) {
  options_.capacity = 2;
  auto a = Open();
  EXPECT_THAT(Kinds(Ask(*a, {Classify("a"), Classify("b"), Classify("c")})),
              ElementsAre(v1::AskOutcome::KIND_ACCEPTED, v1::AskOutcome::KIND_ACCEPTED, v1::AskOutcome::KIND_FULL));
}

TEST_F(PostgresLabelLogTest, AnnotatorsShareWhatWaitsAndHoldNoMoreThanTheyMay) {
  options_.hold = 10;
  auto a = Open();
  std::vector<v1::Query> queries;
  for (int i = 0; i < 40; ++i) queries.push_back(Classify(absl::StrCat("c", i)));
  ASSERT_TRUE(Ask(*a, queries).ok());
  auto b = Open();
  ASSERT_TRUE(Eventually([&] { return a->size() == 10 && b->size() == 10; }));
  std::set<int64_t> ids;
  for (Sharer* sharer : {a.get(), b.get()}) {
    for (const WaitingQuery& query : sharer->TakeAll()) {
      EXPECT_TRUE(ids.insert(query.id).second) << "held twice";
      ASSERT_TRUE(Append(*sharer, query).ok());
    }
  }
  ASSERT_TRUE(Eventually([&] { return a->size() + b->size() == 20; })) << "answers make room";
}

TEST_F(PostgresLabelLogTest, TheMostUrgentAreTakenFirst) {
  options_.hold = 1;
  auto a = Open();
  ASSERT_TRUE(Ask(*a, {Classify("held")}).ok());
  const WaitingQuery held = One(*a);
  ASSERT_TRUE(Ask(*a, {Classify("low", "g", 1), Classify("high", "g", 5)}).ok());
  ASSERT_TRUE(Append(*a, held).ok());
  EXPECT_EQ(CaptionOf(One(*a).query), "high");
}

TEST_F(PostgresLabelLogTest, WhatAnAnnotatorHeldIsTakenOverWhenItIsNotHeardOfAndItsLateAnswerIsNotLogged) {
  options_.lease = absl::Seconds(1);
  auto dead = Open(clock_);
  ASSERT_TRUE(Ask(*dead, {Classify("a")}).ok());
  const WaitingQuery held = One(*dead);
  auto b = Open();
  // Time stands still for `dead`, which renews nothing; the database's goes on, as for `b`.
  const WaitingQuery taken_over = One(*b);
  EXPECT_EQ(taken_over.id, held.id);
  ASSERT_TRUE(Append(*b, taken_over).ok());
  EXPECT_EQ(Append(*dead, held).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(b->log->last_sequence(), 1u);
}

TEST_F(PostgresLabelLogTest, WhatIsHeldIsGivenBackAtTheEnd) {
  auto a = Open();
  ASSERT_TRUE(Ask(*a, {Classify("a")}).ok());
  One(*a);
  ASSERT_TRUE(a->log->Close().ok());
  auto b = Open();
  EXPECT_EQ(CaptionOf(One(*b).query), "a");
}

// Writers commit as fast as they can; a reader of its own connection must never see a number before all below it.
TEST_F(PostgresLabelLogTest, AReaderSeesSequenceNumbersInOrderWithoutGaps) {
  auto a = Open(), b = Open(), reader = Open();
  reader->log->Follow({});  // takes none
  const int count = 150;
  std::vector<v1::Query> queries;
  for (int i = 0; i < count; ++i) queries.push_back(Classify(absl::StrCat("c", i)));
  ASSERT_TRUE(Ask(*a, queries).ok());
  std::atomic<bool> stop = false;
  const auto answer = [&](Sharer& sharer) {
    while (!stop) {
      for (const WaitingQuery& query : sharer.TakeAll()) sharer.log->Append(query, Good(), [](const auto&) {});
      absl::SleepFor(absl::Milliseconds(1));  // leaves the core to the server; nothing depends on it
    }
  };
  auto first = std::async(std::launch::async, [&] { answer(*a); });
  auto second = std::async(std::launch::async, [&] { answer(*b); });
  uint64_t next = 1;
  std::set<std::string> captions;
  const bool complete = Eventually(
      [&] {
        v1::LabelsRequest request;
        request.set_from_sequence(next);
        const auto batch = reader->log->Read(request, 50);
        EXPECT_TRUE(batch.ok()) << batch.status();
        EXPECT_EQ(batch->labels_size(), static_cast<int>(batch->next_sequence() - next));
        for (const v1::Label& label : batch->labels()) {
          EXPECT_EQ(label.sequence(), next++);
          EXPECT_TRUE(captions.insert(CaptionOf(label.query())).second);
        }
        return next == count + 1;
      },
      absl::Seconds(60));
  stop = true;
  first.get();
  second.get();
  EXPECT_TRUE(complete) << next;
}

TEST_F(PostgresLabelLogTest, FailedQueriesCoolDownAndEditsWorkAsInSqlite) {
  auto a = Open(clock_);
  ASSERT_TRUE(Ask(*a, {Classify("a"), Classify("b")}).ok());
  ASSERT_TRUE(Eventually([&] { return a->size() == 2; }));
  auto held = a->TakeAll();
  std::sort(held.begin(), held.end(), [](const auto& x, const auto& y) { return x.id < y.id; });
  v1::Label failed = Good();
  failed.clear_answer();
  failed.set_outcome(v1::OUTCOME_FAILED);
  failed.set_reason("HTTP 400");
  EXPECT_EQ(Append(*a, held[0], failed)->attempt(), 1u);
  ASSERT_TRUE(Append(*a, held[1]).ok());
  const auto again = [&] {
    std::promise<void> promise;
    a->log->AskAgain([&](const auto&) { promise.set_value(); });
    promise.get_future().wait();
  };
  clock_.Advance(absl::Minutes(9));
  again();
  EXPECT_THAT(Kinds(Ask(*a, {Classify("a")})), ElementsAre(v1::AskOutcome::KIND_KNOWN));
  clock_.Advance(absl::Minutes(1));
  again();
  EXPECT_EQ(Append(*a, One(*a), failed)->attempt(), 2u);

  v1::EditRequest edit;
  edit.mutable_retry()->add_outcomes(v1::OUTCOME_FAILED);
  EXPECT_EQ(Edit(*a, edit)->changed, 1u);
  EXPECT_EQ(CaptionOf(One(*a).query), "a");
  edit.mutable_override()->set_query_id(held[1].id);
  edit.mutable_override()->set_by("ann");
  edit.mutable_override()->mutable_answer()->mutable_choice()->add_distribution(1);
  edit.mutable_override()->mutable_answer()->mutable_choice()->add_distribution(0);
  ASSERT_TRUE(Edit(*a, edit).ok());
  EXPECT_EQ(Ask(*a, {Classify("b")})->outcomes[0].label().overridden_by(), "ann");
  edit.Clear();
  v1::Label& imported = *edit.mutable_import()->add_labels();
  imported = Good();
  *imported.mutable_query() = Classify("c");
  EXPECT_EQ(Edit(*a, edit)->changed, 1u);
  EXPECT_EQ(Edit(*a, edit)->changed, 0u);
  edit.mutable_override()->set_query_id(999);
  edit.mutable_override()->set_by("ann");
  EXPECT_EQ(Edit(*a, edit).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PostgresLabelLogTest, SpendingAddsUpOverAnnotatorsAndWhatIsServedIsShared) {
  auto a = Open(), b = Open();
  for (Sharer* sharer : {a.get(), b.get()}) sharer->log->AddRequest({"a:1", "m", "win", "answered", 20, 4, 0.5});
  ASSERT_TRUE(Ask(*a, {Classify("a")}).ok());
  a->log->SetServed("Q4");
  ASSERT_TRUE(Eventually([&] { return a->log->served() == "Q4"; }));
  EXPECT_THAT(Kinds(Ask(*b, {Classify("a")})), ElementsAre(v1::AskOutcome::KIND_DUPLICATE)) << "it has the new key";
  EXPECT_EQ(b->log->served(), "Q4");
  ASSERT_TRUE(a->log->Close().ok());
  ASSERT_TRUE(Eventually([&] {
    const auto spending = b->log->Spending();
    return spending.ok() && spending->rows_size() == 1 && spending->rows(0).requests() == 2;
  }));
  EXPECT_EQ(b->log->Spending()->rows(0).cost(), 1.0);
}

TEST_F(PostgresLabelLogTest, AViewShowsLabelsToAnyTool) {
  auto a = Open();
  ASSERT_TRUE(Ask(*a, {Classify("a key")}).ok());
  ASSERT_TRUE(Append(*a, One(*a)).ok());
  const auto connection = PostgresConnection::Open(url_);
  ASSERT_TRUE(connection.ok());
  const auto rows = (*connection)->Query("SELECT caption, label, probability, judge, cost FROM sibyl.labels");
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 1);
  EXPECT_EQ(rows->Text(0, 0), "a key");
  EXPECT_EQ(rows->Text(0, 1), "helpful");
  EXPECT_NEAR(rows->Real(0, 2), 0.9, 1e-6);
}

TEST_F(PostgresLabelLogTest, AnAbsentServerAndAnotherVersionAreNamedWithoutThePassword) {
  options_.url = "postgresql://sibyl:secret@127.0.0.1:1/db";
  TestHost host(clock_);
  const absl::Status status = PostgresLabelLog::Open(options_, host).status();
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("postgresql://sibyl@127.0.0.1:1/db"), ::testing::Not(HasSubstr("secret"))));
  options_.url = url_;
  Open().reset();
  const auto connection = PostgresConnection::Open(url_);
  ASSERT_TRUE((*connection)->Run("UPDATE sibyl.log SET version = 9").ok());
  EXPECT_THAT(std::string(PostgresLabelLog::Open(options_, host).status().message()), HasSubstr("version 9"));
}

}  // namespace
}  // namespace sibyl::annotator
