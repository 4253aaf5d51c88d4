// The label log in SQLite by itself: outcomes, attempts, versions, damage, and what is left after the power fails.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <cstring>
#include <future>
#include <map>
#include <set>

#include "annotator/judges/openai_judge.h"
#include "annotator/judges/query_key.h"
#include "annotator/judges/rules_judge.h"
#include "annotator/questions/canonical.h"
#include "annotator/store/sqlite_label_log.h"
#include "annotator/store/sqlite_store.h"
#include "common/random.h"
#include "common/runtime/files.h"
#include "tests/annotator/queries.h"

namespace sibyl::annotator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::Label Ended(v1::Outcome outcome) {
  v1::Label label;
  label.set_outcome(outcome);
  label.set_judge("rules:r");
  label.set_prompt("p.txt@1");
  return label;
}

v1::Label Good() {
  v1::Label label = Ended(v1::OUTCOME_ANSWERED);
  v1::Answer::Choice& choice = *label.mutable_answer()->mutable_choice();
  choice.add_distribution(0.1f);
  choice.add_distribution(0.9f);
  choice.set_outside(0.25f);
  label.set_raw("Label: helpful");
  label.set_prompt_tokens(12);
  label.set_completion_tokens(3);
  return label;
}

// ---- a disk that forgets what was not synced

// A VFS over the usual one. It remembers, for each file, what would be on the disk after a power failure: the bytes of
// the last sync, and of the writes since then a seeded random part.
class ForgetfulDisk {
 public:
  // `lying`: syncs do nothing, as with synchronous=OFF; shows that the test would notice.
  explicit ForgetfulDisk(bool lying) : lying_(lying) {
    disk() = this;
    base_ = sqlite3_vfs_find(nullptr);
    vfs_ = *base_;
    vfs_.zName = "forgetful";
    vfs_.szOsFile = static_cast<int>(sizeof(File)) + base_->szOsFile;
    vfs_.xOpen = Open;
    vfs_.xDelete = Delete;
    sqlite3_vfs_register(&vfs_, 0);
  }
  ~ForgetfulDisk() { sqlite3_vfs_unregister(&vfs_); }

  // The files as a power failure now would leave them, written into `folder` under their own names.
  void FailPower(const std::string& folder, uint64_t seed) {
    MutexLock lock(mutex_);
    Random random(seed);
    for (const auto& [path, image] : images_) {
      std::string bytes = image.synced;
      const double survives = seed % 3 == 0 ? 0 : seed % 3 == 1 ? 0.5 : 0.9;
      for (const auto& [offset, data] : image.unsynced) {
        if (random.Uniform() < survives) Put(&bytes, offset, data);
      }
      std::ofstream(folder + "/" + std::filesystem::path(path).filename().string(), std::ios::binary) << bytes;
    }
  }

 private:
  struct Image {
    std::string synced;
    std::vector<std::pair<size_t, std::string>> unsynced;
  };
  struct File {
    sqlite3_file base;  // first: SQLite's view of it
    std::string* path;
    sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
  };
  static ForgetfulDisk*& disk() {
    static ForgetfulDisk* current = nullptr;
    return current;
  }
  static File* Of(sqlite3_file* file) { return reinterpret_cast<File*>(file); }
  static sqlite3_file* Real(sqlite3_file* file) { return Of(file)->real(); }
  static void Put(std::string* bytes, size_t offset, const std::string& data) {
    if (bytes->size() < offset + data.size()) bytes->resize(offset + data.size());
    bytes->replace(offset, data.size(), data);
  }

  static int Open(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out) {
    File* self = Of(file);
    self->base.pMethods = nullptr;
    self->path = nullptr;
    const int code = disk()->base_->xOpen(disk()->base_, name, self->real(), flags, out);
    if (code != SQLITE_OK) return code;
    static const sqlite3_io_methods methods = Methods();
    self->base.pMethods = &methods;
    self->path = new std::string(name == nullptr ? "" : name);
    if (name != nullptr) {
      MutexLock lock(disk()->mutex_);
      // A new store is made under another name, synced and renamed.
      const auto [image, added] = disk()->images_.try_emplace(name);
      if (added) image->second.synced = ReadFile(name).value_or("");
    }
    return SQLITE_OK;
  }
  static int Delete(sqlite3_vfs*, const char* name, int sync) {
    // Without a sync of the folder the deletion is lost.
    if (sync && !disk()->lying_) {
      MutexLock lock(disk()->mutex_);
      disk()->images_.erase(name);
    }
    return disk()->base_->xDelete(disk()->base_, name, sync);
  }
  static sqlite3_io_methods Methods() {
    sqlite3_io_methods m = {};
    m.iVersion = 2;
    m.xClose = [](sqlite3_file* f) {
      const int code = Real(f)->pMethods->xClose(Real(f));
      delete Of(f)->path;
      return code;
    };
    m.xRead = [](sqlite3_file* f, void* to, int n, sqlite3_int64 at) {
      return Real(f)->pMethods->xRead(Real(f), to, n, at);
    };
    m.xWrite = [](sqlite3_file* f, const void* from, int n, sqlite3_int64 at) {
      if (!Of(f)->path->empty()) {
        MutexLock lock(disk()->mutex_);
        disk()->images_[*Of(f)->path].unsynced.emplace_back(at, std::string(static_cast<const char*>(from), n));
      }
      return Real(f)->pMethods->xWrite(Real(f), from, n, at);
    };
    m.xTruncate = [](sqlite3_file* f, sqlite3_int64 n) { return Real(f)->pMethods->xTruncate(Real(f), n); };
    m.xSync = [](sqlite3_file* f, int flags) {
      if (!disk()->lying_ && !Of(f)->path->empty()) {
        MutexLock lock(disk()->mutex_);
        Image& image = disk()->images_[*Of(f)->path];
        for (const auto& [offset, data] : image.unsynced) Put(&image.synced, offset, data);
        image.unsynced.clear();
      }
      return Real(f)->pMethods->xSync(Real(f), flags);
    };
    m.xFileSize = [](sqlite3_file* f, sqlite3_int64* n) { return Real(f)->pMethods->xFileSize(Real(f), n); };
    m.xLock = [](sqlite3_file* f, int l) { return Real(f)->pMethods->xLock(Real(f), l); };
    m.xUnlock = [](sqlite3_file* f, int l) { return Real(f)->pMethods->xUnlock(Real(f), l); };
    m.xCheckReservedLock = [](sqlite3_file* f, int* out) {
      return Real(f)->pMethods->xCheckReservedLock(Real(f), out);
    };
    m.xFileControl = [](sqlite3_file* f, int op, void* arg) {
      return Real(f)->pMethods->xFileControl(Real(f), op, arg);
    };
    m.xSectorSize = [](sqlite3_file* f) { return Real(f)->pMethods->xSectorSize(Real(f)); };
    m.xDeviceCharacteristics = [](sqlite3_file* f) { return Real(f)->pMethods->xDeviceCharacteristics(Real(f)); };
    m.xShmMap = [](sqlite3_file* f, int page, int size, int extend, void volatile** out) {
      return Real(f)->pMethods->xShmMap(Real(f), page, size, extend, out);
    };
    m.xShmLock = [](sqlite3_file* f, int at, int n, int flags) {
      return Real(f)->pMethods->xShmLock(Real(f), at, n, flags);
    };
    m.xShmBarrier = [](sqlite3_file* f) { Real(f)->pMethods->xShmBarrier(Real(f)); };
    m.xShmUnmap = [](sqlite3_file* f, int remove) { return Real(f)->pMethods->xShmUnmap(Real(f), remove); };
    return m;
  }

  const bool lying_;
  sqlite3_vfs* base_;
  sqlite3_vfs vfs_;
  Mutex mutex_;
  std::map<std::string, Image> images_ ABSL_GUARDED_BY(mutex_);
};

// ---- the store

class LabelLogTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<LabelLog>> TryOpen(const std::string& folder, const std::string& vfs = "") {
    SqliteLabelLogOptions options;
    options.path = folder + "/labels.sqlite";
    options.judge = {identity_, identity_ + "\n\n", "p.txt@1",
                     [identity = identity_](const v1::Query& query, const std::string& served) {
                       return absl::StrCat(identity, served, query.kind(), TextsJson(query.texts()), query.goal(),
                                           GrammarJson(query.grammar()));
                     }};
    options.capacity = capacity_;
    options.vfs = vfs;
    return TryOpen(options);
  }
  absl::StatusOr<std::unique_ptr<LabelLog>> TryOpen(const SqliteLabelLogOptions& options) {
    hosts_.push_back(std::make_unique<TestHost>(clock_));
    return SqliteLabelLog::Open(options, *hosts_.back());
  }
  std::unique_ptr<LabelLog> Open() {
    auto store = TryOpen(folder_.path());
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  // Closes the log, and gives how that ended.
  static absl::Status Close(std::unique_ptr<LabelLog> store) { return store->Close(); }
  static absl::StatusOr<AskResult> Ask(LabelLog& store, std::vector<v1::Query> queries) {
    std::promise<absl::StatusOr<AskResult>> promise;
    store.Ask(std::move(queries), [&](absl::StatusOr<AskResult> result) { promise.set_value(std::move(result)); });
    return promise.get_future().get();
  }
  static absl::StatusOr<v1::Label> Append(LabelLog& store, const WaitingQuery& query, v1::Label label = Good()) {
    std::promise<absl::StatusOr<v1::Label>> promise;
    store.Append(query, std::move(label),
                 [&](absl::StatusOr<v1::Label> label) { promise.set_value(std::move(label)); });
    return promise.get_future().get();
  }
  static std::vector<WaitingQuery> AskAgain(LabelLog& store) {
    std::promise<absl::StatusOr<std::vector<WaitingQuery>>> promise;
    store.AskAgain([&](absl::StatusOr<std::vector<WaitingQuery>> found) { promise.set_value(std::move(found)); });
    return *promise.get_future().get();
  }
  static absl::StatusOr<EditResult> Edit(LabelLog& store, const v1::EditRequest& request) {
    std::promise<absl::StatusOr<EditResult>> promise;
    store.Edit(request, [&](absl::StatusOr<EditResult> result) { promise.set_value(std::move(result)); });
    return promise.get_future().get();
  }
  static std::vector<WaitingQuery> Retry(LabelLog& store, const std::vector<v1::Outcome>& outcomes) {
    v1::EditRequest request;
    for (const v1::Outcome outcome : outcomes) request.mutable_retry()->add_outcomes(outcome);
    return Edit(store, request)->waiting;
  }
  static std::vector<v1::AskOutcome::Kind> Kinds(const AskResult& result) {
    std::vector<v1::AskOutcome::Kind> kinds;
    for (const auto& outcome : result.outcomes) kinds.push_back(outcome.kind());
    return kinds;
  }
  static std::vector<v1::Label> All(LabelLog& store) {
    auto batch = store.Read({}, 1'000'000);
    EXPECT_TRUE(batch.ok()) << batch.status();
    return {batch->labels().begin(), batch->labels().end()};
  }
  void Sql(const std::string& sql) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open((folder_ / "labels.sqlite").c_str(), &db), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(db);
    sqlite3_close(db);
  }

  TemporaryFolder folder_;
  FakeClock clock_;
  std::string identity_ = "rules:r";
  uint64_t capacity_ = 1000;
  std::vector<std::unique_ptr<TestHost>> hosts_;
};

TEST_F(LabelLogTest, AQuestionIsAcceptedOnceThenDuplicateThenKnown) {
  auto store = Open();
  v1::Query query = Classify("a");
  query.set_tag(17);
  auto first = Ask(*store, {query, query, Classify("b")});
  ASSERT_TRUE(first.ok());
  EXPECT_THAT(Kinds(*first), ElementsAre(v1::AskOutcome::KIND_ACCEPTED, v1::AskOutcome::KIND_DUPLICATE,
                                         v1::AskOutcome::KIND_ACCEPTED));
  EXPECT_EQ(first->outcomes[0].tag(), 17u);
  EXPECT_EQ(first->room, 998u);
  ASSERT_EQ(first->accepted.size(), 2u);
  EXPECT_THAT(Kinds(*Ask(*store, {query})), ElementsAre(v1::AskOutcome::KIND_DUPLICATE));
  auto label = Append(*store, first->accepted[0]);
  ASSERT_TRUE(label.ok());
  query.set_tag(18);
  auto known = Ask(*store, {query});
  EXPECT_THAT(Kinds(*known), ElementsAre(v1::AskOutcome::KIND_KNOWN));
  EXPECT_EQ(known->outcomes[0].tag(), 18u);
  EXPECT_EQ(known->outcomes[0].label().ShortDebugString(), label->ShortDebugString());
  EXPECT_EQ(CaptionOf(label->query()), "a");
  EXPECT_EQ(label->query().tag(), 0u);
  EXPECT_THAT(Distribution(label->answer()), ElementsAre(0.1f, 0.9f));
  EXPECT_EQ(label->answer().choice().outside(), 0.25f);
  EXPECT_EQ(label->attempt(), 1u);
  EXPECT_EQ(label->raw(), "Label: helpful");
  EXPECT_EQ(label->prompt_tokens(), 12u);
  EXPECT_EQ(label->committed_unix_micros(), absl::ToUnixMicros(clock_.Now()));
  EXPECT_EQ(store->waiting(), 1u);
}

TEST_F(LabelLogTest, ALabelBelongsToItsGoalItsLabelSetItsContextAndItsJudge) {
  auto store = Open();
  const auto accepted = Ask(*store, {Classify("a", "win")})->accepted;
  ASSERT_TRUE(Append(*store, accepted[0]).ok());
  const v1::Query context = WithContext(Classify("a", "win"), "c");
  v1::Query labels = Classify("a", "win");
  labels.mutable_grammar()->mutable_choice()->add_labels("neutral");
  EXPECT_THAT(Kinds(*Ask(*store, {Classify("a", "lose"), context, labels})),
              ElementsAre(v1::AskOutcome::KIND_ACCEPTED, v1::AskOutcome::KIND_ACCEPTED, v1::AskOutcome::KIND_ACCEPTED));
  store.reset();
  identity_ = "openai:m";
  store = Open();
  EXPECT_EQ(store->set_aside(), 3u);
  EXPECT_TRUE(store->TakeWaiting().empty());
  EXPECT_THAT(Kinds(*Ask(*store, {Classify("a", "win")})), ElementsAre(v1::AskOutcome::KIND_ACCEPTED));
}

TEST_F(LabelLogTest, RefusesWhatIsBeyondItsCapacity) {
  capacity_ = 2;
  auto store = Open();
  auto result = Ask(*store, {Classify("a"), Classify("b"), Classify("c"), Classify("a")});
  EXPECT_THAT(Kinds(*result), ElementsAre(v1::AskOutcome::KIND_ACCEPTED, v1::AskOutcome::KIND_ACCEPTED,
                                          v1::AskOutcome::KIND_FULL, v1::AskOutcome::KIND_DUPLICATE));
  EXPECT_EQ(result->room, 0u);
  ASSERT_TRUE(Append(*store, result->accepted[0]).ok());
  result = Ask(*store, {Classify("c")});
  EXPECT_THAT(Kinds(*result), ElementsAre(v1::AskOutcome::KIND_ACCEPTED));
}

TEST_F(LabelLogTest, AnsweredQueriesAreNotAskedAgainAfterARestartAndWaitingOnesAre) {
  auto store = Open();
  v1::Query compare = WithContext(Compare("first thing", "second \"thing\"\n"), "in view");
  compare.set_priority(2.5);
  auto accepted = Ask(*store, {Classify("a"), compare, Classify("c")})->accepted;
  ASSERT_TRUE(Append(*store, accepted[0]).ok());
  store.reset();
  store = Open();
  auto waiting = store->TakeWaiting();
  ASSERT_EQ(waiting.size(), 2u);
  EXPECT_EQ(waiting[0].query.ShortDebugString(), compare.ShortDebugString());
  EXPECT_EQ(CaptionOf(waiting[1].query), "c");
  EXPECT_EQ(Append(*store, waiting[1])->sequence(), 2u);
  EXPECT_EQ(Append(*store, waiting[0])->sequence(), 3u);
  store.reset();
  store = Open();
  EXPECT_TRUE(store->TakeWaiting().empty());
  EXPECT_EQ(store->last_sequence(), 3u);
}

TEST_F(LabelLogTest, TheLogIsReadFromAnywhereAndFiltered) {
  auto store = Open();
  for (int i = 0; i < 10; ++i) {
    const auto accepted = Ask(*store, {Classify(absl::StrCat("c", i), i % 2 ? "odd" : "even")})->accepted;
    ASSERT_TRUE(Append(*store, accepted[0]).ok());
  }
  v1::LabelsRequest request;
  request.set_from_sequence(4);
  request.set_goal("odd");
  auto batch = store->Read(request, 3);
  EXPECT_EQ(batch->next_sequence(), 7u);
  ASSERT_EQ(batch->labels_size(), 2);
  EXPECT_EQ(batch->labels(0).sequence(), 4u);
  EXPECT_EQ(CaptionOf(batch->labels(0).query()), "c3");
  EXPECT_EQ(batch->labels(1).sequence(), 6u);
  request.set_judge("another");
  batch = store->Read(request, 100);
  EXPECT_EQ(batch->labels_size(), 0);
  EXPECT_EQ(batch->next_sequence(), 11u);
  request.clear_judge();
  request.set_prompt("p.txt@1");
  request.mutable_grammar()->mutable_choice()->add_labels("unhelpful");
  EXPECT_EQ(store->Read(request, 100)->labels_size(), 0) << "other labels";
  request.mutable_grammar()->mutable_choice()->add_labels("helpful");
  request.set_kind("compare");
  EXPECT_EQ(store->Read(request, 100)->labels_size(), 0) << "another kind";
  request.set_kind("classify");
  EXPECT_EQ(store->Read(request, 100)->labels_size(), 4);
  request.set_from_sequence(11);
  EXPECT_EQ(store->Read(request, 100)->next_sequence(), 11u);
  request.set_from_sequence(12);
  EXPECT_EQ(store->Read(request, 100).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(store->Read(request, 100).status().message(), AllOf(HasSubstr("12"), HasSubstr("10")));
}

TEST_F(LabelLogTest, OnlyOneMayHaveItOpen) {
  auto store = Open();
  const absl::Status second = TryOpen(folder_.path()).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(second.message(), AllOf(HasSubstr(folder_ / "labels.sqlite"), HasSubstr("open in another process"),
                                      HasSubstr("annotator.store")));
  store.reset();
  EXPECT_TRUE(TryOpen(folder_.path()).ok());
}

TEST_F(LabelLogTest, AnUnknownVersionIsRefusedWithBothVersions) {
  Open().reset();
  Sql("PRAGMA user_version=7");
  const absl::Status status = TryOpen(folder_.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("version 7"), HasSubstr("versions 1 to 3"), HasSubstr("labels.sqlite")));
}

TEST_F(LabelLogTest, OtherFilesAreRefused) {
  Sql("CREATE TABLE mine(x)");
  EXPECT_THAT(TryOpen(folder_.path()).status().message(), HasSubstr("no label store"));
  TemporaryFolder garbage;
  garbage.Write("labels.sqlite", std::string(5000, 'x'));
  EXPECT_THAT(TryOpen(garbage.path()).status().message(),
              AllOf(HasSubstr("labels.sqlite"), HasSubstr("not a database"), HasSubstr(".recover"),
                    ::testing::Not(HasSubstr("permissions"))));
  EXPECT_THAT(TryOpen("/nowhere").status().message(),
              AllOf(HasSubstr("/nowhere/labels.sqlite"), HasSubstr("annotator.store")));
}

TEST_F(LabelLogTest, AStoreThatCannotBeWrittenRefusesEverythingAndSaysSo) {
  auto store = Open();
  Sql("CREATE TRIGGER broken BEFORE INSERT ON queries BEGIN SELECT RAISE(ABORT, 'disk on fire'); END");
  auto result = Ask(*store, {Classify("a")});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(result.status().message(), AllOf(HasSubstr("labels.sqlite"), HasSubstr("disk on fire")));
  EXPECT_EQ(Ask(*store, {Classify("b")}).status(), result.status());
  EXPECT_EQ(hosts_.back()->failure(), result.status());
  EXPECT_EQ(Close(std::move(store)), result.status()) << "the state was not saved";
}

TEST_F(LabelLogTest, CallsThatComeWhileItSyncsAreCommittedTogether) {
  auto store = Open();
  const int calls = 400;
  std::atomic<int> done = 0;
  for (int i = 0; i < calls; ++i) {
    store->Ask({Classify(absl::StrCat("c", i))}, [&](absl::StatusOr<AskResult> result) { done += result.ok(); });
  }
  ASSERT_TRUE(Eventually([&] { return done == calls; }));
  const std::string text = hosts_.back()->metrics.Text();
  const std::string name = "\nsibyl_annotator_commits_total ";
  const size_t at = text.find(name);
  ASSERT_NE(at, std::string::npos);
  EXPECT_LT(std::stoi(text.substr(at + name.size())), calls);
}

// ---- attempts

TEST_F(LabelLogTest, AFailedQueryIsAskedAgainWhenItsCoolDownIsOver) {
  auto store = Open();
  WaitingQuery query = Ask(*store, {Classify("a")})->accepted[0];
  EXPECT_EQ(Append(*store, query, Ended(v1::OUTCOME_FAILED))->attempt(), 1u);
  EXPECT_THAT(Kinds(*Ask(*store, {Classify("a")})), ElementsAre(v1::AskOutcome::KIND_KNOWN));
  EXPECT_TRUE(AskAgain(*store).empty());
  clock_.Advance(absl::Minutes(9));
  EXPECT_TRUE(AskAgain(*store).empty());
  clock_.Advance(absl::Minutes(1));
  const auto again = AskAgain(*store);
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].id, query.id);
  EXPECT_EQ(CaptionOf(again[0].query), "a");
  EXPECT_EQ(store->waiting(), 1u);
  EXPECT_TRUE(AskAgain(*store).empty()) << "it waits already";
  EXPECT_THAT(Kinds(*Ask(*store, {Classify("a")})), ElementsAre(v1::AskOutcome::KIND_DUPLICATE));

  const auto second = Append(*store, again[0], Good());
  EXPECT_EQ(second->attempt(), 2u);
  EXPECT_EQ(second->sequence(), 2u);
  const auto known = Ask(*store, {Classify("a")});
  EXPECT_EQ(known->outcomes[0].label().outcome(), v1::OUTCOME_ANSWERED) << "the last attempt counts";
  const auto log = All(*store);
  ASSERT_EQ(log.size(), 2u) << "the log tells of both";
  EXPECT_EQ(log[0].outcome(), v1::OUTCOME_FAILED);
}

TEST_F(LabelLogTest, AFailedQueryThatIsOfferedAgainAfterItsCoolDownIsAccepted) {
  auto store = Open();
  ASSERT_TRUE(Append(*store, Ask(*store, {Classify("a")})->accepted[0], Ended(v1::OUTCOME_FAILED)).ok());
  clock_.Advance(absl::Minutes(10));
  EXPECT_THAT(Kinds(*Ask(*store, {Classify("a")})), ElementsAre(v1::AskOutcome::KIND_ACCEPTED));
}

TEST_F(LabelLogTest, TheCoolDownDoublesAndTheAttemptsThatAQueryGetsByItselfAreBounded) {
  auto store = Open();
  WaitingQuery query = Ask(*store, {Classify("a")})->accepted[0];
  for (int attempt = 1; attempt < 5; ++attempt) {
    ASSERT_EQ(Append(*store, query, Ended(v1::OUTCOME_FAILED))->attempt(), static_cast<uint32_t>(attempt));
    clock_.Advance(absl::Minutes(10 << (attempt - 1)) - absl::Seconds(1));
    EXPECT_TRUE(AskAgain(*store).empty()) << attempt;
    clock_.Advance(absl::Seconds(1));
    ASSERT_EQ(AskAgain(*store).size(), 1u) << attempt;
  }
  ASSERT_TRUE(Append(*store, query, Ended(v1::OUTCOME_FAILED)).ok());
  clock_.Advance(absl::Hours(24 * 365));
  EXPECT_TRUE(AskAgain(*store).empty());
  EXPECT_THAT(Kinds(*Ask(*store, {Classify("a")})), ElementsAre(v1::AskOutcome::KIND_KNOWN));
  EXPECT_EQ(Retry(*store, {v1::OUTCOME_FAILED}).size(), 1u) << "by hand it gets another";
}

TEST_F(LabelLogTest, ByHandQueriesAreAskedAgainByTheirLastOutcomeAsFarAsThereIsRoom) {
  capacity_ = 3;
  auto store = Open();
  const auto accepted = Ask(*store, {Classify("failed"), Classify("odd"), Classify("fine")})->accepted;
  ASSERT_TRUE(Append(*store, accepted[0], Ended(v1::OUTCOME_FAILED)).ok());
  ASSERT_TRUE(Append(*store, accepted[1], Ended(v1::OUTCOME_UNPARSABLE)).ok());
  ASSERT_TRUE(Append(*store, accepted[2], Good()).ok());
  const auto odd = Retry(*store, {v1::OUTCOME_UNPARSABLE});
  ASSERT_EQ(odd.size(), 1u);
  EXPECT_EQ(CaptionOf(odd[0].query), "odd");
  ASSERT_TRUE(Append(*store, odd[0], Good()).ok());
  EXPECT_TRUE(Retry(*store, {v1::OUTCOME_UNPARSABLE}).empty()) << "its last attempt was answered";
  ASSERT_EQ(Ask(*store, {Classify("x"), Classify("y"), Classify("z")})->accepted.size(), 3u);
  EXPECT_TRUE(Retry(*store, {v1::OUTCOME_FAILED}).empty()) << "no room";
}

TEST_F(LabelLogTest, KeepsTextsAndJsonAsItKeepsLabels) {
  const v1::Query text = Compose("a door", TextGrammar(100));
  const v1::Query json = Compose("a door", JsonGrammar(R"({"type": "object"})"));
  {
    auto store = Open();
    const auto accepted = Ask(*store, {text, json, Classify("a door")})->accepted;
    v1::Label label = Ended(v1::OUTCOME_ANSWERED);
    label.mutable_answer()->set_text("Open \"it\".");
    ASSERT_TRUE(Append(*store, accepted[0], label).ok());
    label.mutable_answer()->set_json(R"({"steps":[1,2]})");
    ASSERT_TRUE(Append(*store, accepted[1], label).ok());
  }
  auto store = Open();
  const auto known = Ask(*store, {text, json, Compose("a door", TextGrammar(99))});
  EXPECT_THAT(Kinds(*known),
              ElementsAre(v1::AskOutcome::KIND_KNOWN, v1::AskOutcome::KIND_KNOWN, v1::AskOutcome::KIND_ACCEPTED))
      << "the grammar is a part of the question";
  EXPECT_EQ(known->outcomes[0].label().answer().text(), "Open \"it\".");
  EXPECT_EQ(known->outcomes[1].label().answer().json(), R"({"steps":[1,2]})");
  v1::LabelsRequest request;
  request.set_kind("compose");
  *request.mutable_grammar() = JsonGrammar(R"({ "type":"object" })");
  const auto batch = store->Read(request, 10);
  ASSERT_EQ(batch->labels_size(), 1);
  EXPECT_EQ(batch->labels(0).query().texts().at("text"), "a door");
  EXPECT_TRUE(batch->labels(0).answer().has_json());
}

// ---- the log's identity

TEST_F(LabelLogTest, ALogKeepsItsIdentityAndAnotherLogHasAnother) {
  auto store = Open();
  const std::string id = store->log_id();
  EXPECT_EQ(id.size(), 32u);
  store.reset();
  EXPECT_EQ(Open()->log_id(), id);
  TemporaryFolder other;
  EXPECT_NE((*TryOpen(other.path()))->log_id(), id);
}

TEST_F(LabelLogTest, ARequestForAnotherLogIsRefused) {
  auto store = Open();
  ASSERT_TRUE(Append(*store, Ask(*store, {Classify("a")})->accepted[0]).ok());
  v1::LabelsRequest request;
  request.set_log_id(store->log_id());
  EXPECT_EQ(store->Read(request, 10)->labels_size(), 1);
  request.set_log_id("another");
  const absl::Status status = store->Read(request, 10).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("another"), HasSubstr(store->log_id())));
  EXPECT_TRUE(hosts_.back()->failure().ok()) << "the log itself is well";
}

// ---- version 1

// The judges that made testdata/labels_version_1.sqlite, with the program before version 2.
struct Version1 {
  Version1() {
    setenv("no_proxy", "127.0.0.1", 1);
    folder.Write("a.rules", "helpful: key\nabstain: ^Hm\nhelpful 0.25: door\ndefault: unhelpful\n");
    rules = *RulesJudge::Load(folder / "a.rules", {"unhelpful", "helpful"});
    v1::OpenAiConfig config;
    config.set_url("http://127.0.0.1:9/v1");
    config.set_model("fake");
    config.set_prompt_file(
        folder.Write("p.txt", "[system]\nYou judge.\n[user]\nGoal: {goal}\nIn view: {context}\nCaption: {caption}\n"));
    config.set_temperature(0.1);
    config.set_seed(1);
    config.set_max_tokens(256);
    config.set_max_in_flight(8);
    config.set_timeout_seconds(1);
    llm = *OpenAiJudge::ByPrompt(config, host);
  }
  static LogJudge LogJudgeOf(const Judge& judge) {
    return {JudgeIdentity(judge), absl::StrCat(judge.name(), "\n", judge.prompt(), "\n", judge.sampling()),
            judge.prompt(), [&judge](const v1::Query& query, const std::string& served) {
              return judge.Check(query).ok() ? QueryKey(query, judge, served) : "";
            }};
  }
  TemporaryFolder folder;
  TestHost host{Clock::Real()};
  std::unique_ptr<RulesJudge> rules;
  std::unique_ptr<OpenAiJudge> llm;
};

TEST_F(LabelLogTest, AStoreOfVersion1IsMigratedAndEveryLabelIsFound) {
  std::filesystem::copy_file(SIBYL_SOURCE_DIR "/tests/annotator/testdata/labels_version_1.sqlite",
                             folder_ / "labels.sqlite");
  clock_.Advance(absl::Hours(24 * 365 * 100));  // later than the store was made
  Version1 judges;
  SqliteLabelLogOptions options;
  options.path = folder_ / "labels.sqlite";
  const auto classify = [](const std::string& caption) { return Classify(caption, "open the door"); };

  options.judge = Version1::LogJudgeOf(*judges.rules);
  auto store = *TryOpen(options);
  EXPECT_EQ(store->last_sequence(), 10u);
  EXPECT_EQ(store->set_aside(), 2u);
  v1::Query compare = Compare("a wall", "a key");
  compare.set_goal("open the door");
  auto asked = Ask(*store, {classify("You pick up a key."), classify("a wall"), classify("Hm, a wall?"),
                            WithContext(classify("You see a door."), "a hall"), compare, classify("You see a door.")});
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(asked->outcomes[i].kind(), v1::AskOutcome::KIND_KNOWN) << i;
    EXPECT_EQ(asked->outcomes[i].label().sequence(), static_cast<uint64_t>(i + 1));
  }
  EXPECT_EQ(asked->outcomes[5].kind(), v1::AskOutcome::KIND_ACCEPTED) << "never asked without the hall";
  EXPECT_THAT(Distribution(asked->outcomes[0].label().answer()), ElementsAre(0, 1));
  EXPECT_EQ(asked->outcomes[2].label().outcome(), v1::OUTCOME_ABSTAINED);
  EXPECT_THAT(Distribution(asked->outcomes[3].label().answer()), ElementsAre(0.75, 0.25));
  EXPECT_THAT(Distribution(asked->outcomes[4].label().answer()), ElementsAre(0, 1, 0));
  const std::string log_id = store->log_id();
  store.reset();

  options.judge = Version1::LogJudgeOf(*judges.llm);
  store = *TryOpen(options);
  EXPECT_EQ(store->log_id(), log_id);
  const auto waiting = store->TakeWaiting();
  ASSERT_EQ(waiting.size(), 2u);
  EXPECT_EQ(CaptionOf(waiting[0].query), "You wait.");
  EXPECT_EQ(waiting[0].query.priority(), 2.5);
  EXPECT_EQ(waiting[1].query.texts().at("context"), "night");
  asked = Ask(*store, {WithContext(classify("You find a lamp."), "a \"dark\" cellar"), classify("You pick up a key."),
                       classify("The priest mumbles."), classify("T\u00fcr"), classify("You wait."),
                       classify("A cursed scroll.")});
  for (int i = 0; i < 4; ++i) ASSERT_EQ(asked->outcomes[i].kind(), v1::AskOutcome::KIND_KNOWN) << i;
  const v1::Label& lamp = asked->outcomes[0].label();
  EXPECT_THAT(Distribution(lamp.answer()), ElementsAre(0.375, 0.625));
  EXPECT_FLOAT_EQ(lamp.answer().choice().outside(), 0.2f);
  EXPECT_EQ(lamp.raw(), "helpful");
  EXPECT_EQ(lamp.prompt_tokens(), 20u);
  EXPECT_THAT(lamp.prompt(), ::testing::StartsWith("p.txt@"));
  EXPECT_EQ(asked->outcomes[2].label().outcome(), v1::OUTCOME_UNPARSABLE);
  EXPECT_EQ(asked->outcomes[4].kind(), v1::AskOutcome::KIND_DUPLICATE);
  EXPECT_EQ(asked->outcomes[5].kind(), v1::AskOutcome::KIND_ACCEPTED) << "what failed under version 1 is asked again";
  uint64_t sequence = 1;
  for (const v1::Label& label : All(*store)) EXPECT_EQ(label.sequence(), sequence++);
  EXPECT_EQ(sequence, 11u);
  EXPECT_EQ(Append(*store, waiting[0])->sequence(), 11u);
}

// Made by the program that wrote version 2, with the judges of Version1.
TEST_F(LabelLogTest, AStoreOfVersion2IsMigratedAndEveryLabelIsFound) {
  std::filesystem::copy_file(SIBYL_SOURCE_DIR "/tests/annotator/testdata/labels_version_2.sqlite",
                             folder_ / "labels.sqlite");
  clock_.Advance(absl::Hours(24 * 365 * 100));
  Version1 judges;
  SqliteLabelLogOptions options;
  options.path = folder_ / "labels.sqlite";
  const auto classify = [](const std::string& caption) { return Classify(caption, "open the door"); };
  options.judge = Version1::LogJudgeOf(*judges.rules);
  auto store = *TryOpen(options);
  EXPECT_EQ(store->last_sequence(), 6u);
  const auto asked = Ask(*store, {classify("You pick up a key."), classify("a wall"), classify("Hm, a wall?")});
  for (int i = 0; i < 3; ++i) ASSERT_EQ(asked->outcomes[i].kind(), v1::AskOutcome::KIND_KNOWN) << i;
  EXPECT_EQ(asked->outcomes[2].label().outcome(), v1::OUTCOME_ABSTAINED);
  const std::string log_id = store->log_id();
  store.reset();

  options.judge = Version1::LogJudgeOf(*judges.llm);
  store = *TryOpen(options);
  EXPECT_EQ(store->log_id(), log_id);
  const auto waiting = store->TakeWaiting();
  ASSERT_EQ(waiting.size(), 1u);
  EXPECT_EQ(CaptionOf(waiting[0].query), "You wait.");
  const v1::Query lamp = WithContext(classify("You find a lamp."), "a \"dark\" cellar");
  const auto known = [&](const v1::Query& query) { return Ask(*store, {query})->outcomes[0]; };
  EXPECT_EQ(known(lamp).label().raw(), "helpful");
  EXPECT_EQ(known(classify("The priest mumbles.")).label().outcome(), v1::OUTCOME_UNPARSABLE);
  ASSERT_EQ(store->Spending()->rows_size(), 1);
  EXPECT_EQ(store->Spending()->rows(0).prompt_tokens(), 41u);
  // What answered before is taken for the server that is heard first, and not for another one.
  store->SetServed("tiny Q4");
  EXPECT_EQ(known(lamp).kind(), v1::AskOutcome::KIND_KNOWN);
  EXPECT_EQ(known(classify("You wait.")).kind(), v1::AskOutcome::KIND_DUPLICATE);
  store->SetServed("tiny Q8");
  EXPECT_EQ(known(lamp).kind(), v1::AskOutcome::KIND_ACCEPTED);
  EXPECT_EQ(known(classify("You wait.")).kind(), v1::AskOutcome::KIND_DUPLICATE) << "it waits for any server";
  store.reset();
  store = *TryOpen(options);
  EXPECT_EQ(store->served(), "tiny Q8");
  EXPECT_EQ(store->TakeWaiting().size(), 2u);
  store->SetServed("tiny Q4");
  EXPECT_EQ(known(lamp).kind(), v1::AskOutcome::KIND_KNOWN) << "that server's own answer";
}

// ---- what it cost

TEST_F(LabelLogTest, EveryRequestIsAddedUpByDayServerModelGoalAndRun) {
  SqliteLabelLogOptions options;
  options.path = folder_ / "labels.sqlite";
  options.run = "first";
  auto store = *TryOpen(options);
  store->AddRequest({"a:1", "m", "win", "answered", 20, 4, 0.5});
  store->AddRequest({"a:1", "m", "win", "timeout", 0, 0, 0});
  store->AddRequest({"a:1", "m", "", "answered", 5, 1, 0.25});
  ASSERT_TRUE(Close(std::move(store)).ok());
  options.run = "second";
  store = *TryOpen(options);
  store->AddRequest({"a:1", "m", "win", "answered", 20, 4, 0.5});
  clock_.Advance(absl::Hours(24));
  store->AddRequest({"a:1", "m", "win", "answered", 20, 4, 0.5});
  ASSERT_TRUE(Close(std::move(store)).ok());
  store = *TryOpen(options);
  const auto spending = store->Spending();
  ASSERT_TRUE(spending.ok());
  ASSERT_EQ(spending->rows_size(), 4);
  const v1::SpendingResponse::Row& row = spending->rows(1);
  EXPECT_EQ(row.goal(), "win");
  EXPECT_EQ(row.run(), "first");
  EXPECT_EQ(row.requests(), 2u);
  EXPECT_EQ(row.failed_requests(), 1u);
  EXPECT_EQ(row.prompt_tokens(), 20u);
  EXPECT_EQ(row.completion_tokens(), 4u);
  EXPECT_EQ(row.cost(), 0.5);
  EXPECT_EQ(spending->rows(3).day(), row.day() + 1);
}

// ---- edits

TEST_F(LabelLogTest, APersonsLabelWinsAndIsMarked) {
  auto store = Open();
  const auto accepted = Ask(*store, {Classify("a")})->accepted;
  v1::EditRequest edit;
  edit.mutable_override()->set_query_id(accepted[0].id);
  edit.mutable_override()->set_by("ann");
  edit.mutable_override()->mutable_answer()->mutable_choice()->add_distribution(1);
  EXPECT_EQ(Edit(*store, edit).status().code(), absl::StatusCode::kNotFound) << "it waits for its first answer";
  ASSERT_TRUE(Append(*store, accepted[0]).ok());
  EXPECT_THAT(Edit(*store, edit).status().message(), HasSubstr("1 probabilities"));
  edit.mutable_override()->mutable_answer()->mutable_choice()->add_distribution(0);
  ASSERT_TRUE(Edit(*store, edit).ok());
  const v1::Label label = Ask(*store, {Classify("a")})->outcomes[0].label();
  EXPECT_THAT(Distribution(label.answer()), ElementsAre(1, 0));
  EXPECT_EQ(label.overridden_by(), "ann");
  EXPECT_EQ(label.judge(), "rules:r");
  EXPECT_EQ(label.sequence(), 2u) << "followers of the log learn of it";
  EXPECT_TRUE(Retry(*store, {v1::OUTCOME_ANSWERED}).empty()) << "it is not asked again";
  EXPECT_EQ(Append(*store, accepted[0]).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(LabelLogTest, LabelsAreImportedOnceAndAnExportedKeyMakesThemKnown) {
  auto store = Open();
  v1::EditRequest edit;
  ASSERT_TRUE(Append(*store, Ask(*store, {Classify("a")})->accepted[0]).ok());
  v1::LabelsRequest request;
  request.set_with_keys(true);
  v1::Label& exported = *edit.mutable_import()->add_labels();
  exported = store->Read(request, 10)->labels(0);
  v1::Label& by_hand = *edit.mutable_import()->add_labels();
  by_hand = Good();
  *by_hand.mutable_query() = Classify("b");
  exported.set_key(std::string(32, 'k'));  // the test's own keys are longer
  EXPECT_EQ(Edit(*store, edit)->changed, 2u);
  EXPECT_EQ(Edit(*store, edit)->changed, 0u);
  EXPECT_EQ(store->last_sequence(), 3u);
  const auto log = All(*store);
  EXPECT_EQ(CaptionOf(log[2].query()), "b");
  EXPECT_EQ(log[2].judge(), "rules:r");
  EXPECT_EQ(store->Read(request, 10)->labels(1).judge_identity(), "rules:r");
  by_hand.mutable_answer()->mutable_choice()->add_distribution(0);
  EXPECT_THAT(Edit(*store, edit).status().message(), AllOf(HasSubstr("import.labels[1]"), HasSubstr("3 probab")));
  by_hand.Clear();
  EXPECT_THAT(Edit(*store, edit).status().message(), HasSubstr("import.labels[1]"));
}

TEST_F(LabelLogTest, AnswersAreReadAnewUnlessTheyWereCutOff) {
  auto store = Open();
  const auto accepted = Ask(*store, {Classify("a"), Classify("b"), Classify("c")})->accepted;
  v1::Label unread = Ended(v1::OUTCOME_UNPARSABLE);
  unread.set_raw("<think>Hm.</think>Label: helpful");
  unread.set_reason("the answer says no label");
  ASSERT_TRUE(Append(*store, accepted[0], unread).ok());
  unread.set_reason("the answer was cut off at its limit of tokens");
  ASSERT_TRUE(Append(*store, accepted[1], unread).ok());
  unread.set_raw("bananas");
  unread.set_reason("the answer says no label");
  ASSERT_TRUE(Append(*store, accepted[2], unread).ok());
  v1::EditRequest edit;
  edit.mutable_reparse();
  EXPECT_EQ(Edit(*store, edit)->changed, 1u);
  EXPECT_EQ(Edit(*store, edit)->changed, 0u);
  const v1::Label label = Ask(*store, {Classify("a")})->outcomes[0].label();
  EXPECT_EQ(label.outcome(), v1::OUTCOME_ANSWERED);
  EXPECT_EQ(label.attempt(), 2u);
  EXPECT_THAT(Distribution(label.answer()), ElementsAre(0, 1));
}

TEST_F(LabelLogTest, ASampleOfAnsweredQueriesIsAskedAgain) {
  auto store = Open();
  std::vector<v1::Query> queries;
  for (int i = 0; i < 50; ++i) queries.push_back(Classify(absl::StrCat("c", i)));
  const auto accepted = Ask(*store, queries)->accepted;
  for (const WaitingQuery& query : accepted) ASSERT_TRUE(Append(*store, query).ok());
  v1::EditRequest edit;
  edit.mutable_retry()->add_outcomes(v1::OUTCOME_ANSWERED);
  edit.mutable_retry()->set_sample(10);
  EXPECT_EQ(Edit(*store, edit)->waiting.size(), 10u);
  EXPECT_EQ(store->waiting(), 10u);
}

TEST_F(LabelLogTest, AViewShowsLabelsToAnySqliteTool) {
  auto store = Open();
  const auto accepted = Ask(*store, {Classify("a key"), Classify("a wall")})->accepted;
  v1::Label good = Good();
  good.set_cost(0.25);
  ASSERT_TRUE(Append(*store, accepted[0], good).ok());
  ASSERT_TRUE(Append(*store, accepted[1], Ended(v1::OUTCOME_ABSTAINED)).ok());
  store.reset();
  Sql("CREATE TABLE seen AS SELECT caption || '|' || coalesce(label, '-') || '|' || coalesce(round(probability, 2), "
      "'-') "
      "|| '|' || judge || '|' || cost AS line FROM labels ORDER BY sequence");
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((folder_ / "labels.sqlite").c_str(), &db), SQLITE_OK);
  std::vector<std::string> lines;
  sqlite3_exec(
      db, "SELECT line FROM seen",
      +[](void* to, int, char** values, char**) {
        static_cast<std::vector<std::string>*>(to)->push_back(values[0]);
        return 0;
      },
      &lines, nullptr);
  sqlite3_close(db);
  EXPECT_THAT(lines, ElementsAre("a key|helpful|0.9|rules:r|0.25", "a wall|-|-|rules:r|0.0"));
}

// ---- loss and damage

TEST_F(LabelLogTest, AStoreOfZeroBytesIsRefused) {
  folder_.Write("labels.sqlite", "");
  const absl::Status status = TryOpen(folder_.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("labels.sqlite"), HasSubstr("0 bytes"), HasSubstr("Restore")));
  EXPECT_EQ(std::filesystem::file_size(folder_ / "labels.sqlite"), 0u) << "nothing was made of it";
}

TEST_F(LabelLogTest, ANewStoreHasItsNameOnlyWhenItIsComplete) {
  folder_.Write("labels.sqlite.new", "what a kill left");
  auto store = Open();
  EXPECT_FALSE(std::filesystem::exists(folder_ / "labels.sqlite.new"));
  EXPECT_EQ(store->last_sequence(), 0u);
}

TEST_F(LabelLogTest, AStoreThatHadLabelsAndIsGoneIsNotBegunAnew) {
  auto store = Open();
  const std::string id = store->log_id();
  store.reset();
  std::filesystem::remove(folder_ / "labels.sqlite");
  store = Open();
  EXPECT_NE(store->log_id(), id) << "without labels nothing is lost";
  const std::string second = store->log_id();
  ASSERT_TRUE(Append(*store, Ask(*store, {Classify("a")})->accepted[0]).ok());
  store.reset();
  std::filesystem::remove(folder_ / "labels.sqlite");
  const absl::Status status = TryOpen(folder_.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("gone"), HasSubstr(second), HasSubstr("labels.sqlite.lock")));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "labels.sqlite"));
  std::filesystem::remove(folder_ / "labels.sqlite.lock");
  EXPECT_TRUE(TryOpen(folder_.path()).ok()) << "as the advice says";
}

TEST_F(LabelLogTest, AStoreWithDamagedPagesIsRefusedWithTheWayToRecoverIt) {
  auto store = Open();
  std::vector<v1::Query> queries;
  for (int i = 0; i < 200; ++i) queries.push_back(Classify(absl::StrCat("caption ", i, std::string(200, 'x'))));
  const auto accepted = Ask(*store, queries)->accepted;
  for (const WaitingQuery& query : accepted) ASSERT_TRUE(Append(*store, query).ok());
  ASSERT_TRUE(Close(std::move(store)).ok());
  std::string bytes = *ReadFile(folder_ / "labels.sqlite");
  for (size_t page = 8; page < 12; ++page) bytes.replace(page * 4096, 4096, std::string(4096, '\xa5'));
  folder_.Write("labels.sqlite", bytes);
  const absl::Status status = TryOpen(folder_.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("labels.sqlite"), HasSubstr("damaged"), HasSubstr(".recover"),
                                      ::testing::Not(HasSubstr("permissions"))));
}

TEST_F(LabelLogTest, ARecoveredStoreThatLacksLabelsIsNumberedAnewAsAnotherLog) {
  auto store = Open();
  const std::string id = store->log_id();
  for (const char* caption : {"a", "b", "c", "d"}) {
    ASSERT_TRUE(Append(*store, Ask(*store, {Classify(caption)})->accepted[0]).ok());
  }
  store.reset();
  Sql("DELETE FROM attempts WHERE sequence = 2; DELETE FROM queries WHERE texts LIKE '%\"d\"%'");
  store = Open();
  EXPECT_NE(store->log_id(), id);
  const auto log = All(*store);
  ASSERT_EQ(log.size(), 2u);
  EXPECT_EQ(CaptionOf(log[1].query()), "c");
  EXPECT_EQ(log[1].sequence(), 2u);
  const auto waiting = store->TakeWaiting();
  ASSERT_EQ(waiting.size(), 1u);
  EXPECT_EQ(CaptionOf(waiting[0].query), "b") << "its label is lost, so it is asked again";
  EXPECT_THAT(Kinds(*Ask(*store, {Classify("c")})), ElementsAre(v1::AskOutcome::KIND_KNOWN));
  EXPECT_EQ(Append(*store, waiting[0])->sequence(), 3u);
}

TEST_F(LabelLogTest, AFollowerThatCannotBeServedIsNotKeptSecret) {
  auto store = Open();
  ASSERT_TRUE(Append(*store, Ask(*store, {Classify("a")})->accepted[0]).ok());
  Sql("UPDATE queries SET texts = 'x'");
  const absl::Status status = store->Read({}, 10).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(hosts_.back()->failure(), status);
  EXPECT_EQ(Ask(*store, {Classify("b")}).status(), status);
}

// Runs a load over a disk that forgets, fails the power at seeded moments, and gives how much that was acknowledged is
// not there afterwards.
using OpenStore =
    std::function<absl::StatusOr<std::unique_ptr<LabelLog>>(const std::string& folder, const std::string& vfs)>;
int LostAfterPowerFailure(bool lying, uint64_t seed, const OpenStore& open) {
  TemporaryFolder folder, after;
  std::set<std::string> accepted, labelled;
  {
    ForgetfulDisk disk(lying);
    auto store = open(folder.path(), "forgetful");
    EXPECT_TRUE(store.ok()) << store.status();
    Mutex mutex;
    std::atomic<int> done = 0;
    const int count = 150;
    const int fail_at = static_cast<int>(20 + seed * 37 % 200);
    bool failed = false;
    const auto step = [&](const std::string& caption, std::set<std::string>* acknowledged) {
      MutexLock lock(mutex);
      if (!failed) acknowledged->insert(caption);
      if (++done == fail_at) {
        disk.FailPower(after.path(), seed);  // callbacks run on the writing thread: between two transactions, or after
        failed = true;
      }
    };
    for (int i = 0; i < count; ++i) {
      const std::string caption = absl::StrCat("caption ", i);
      (*store)->Ask({Classify(caption)}, [&, caption](absl::StatusOr<AskResult> result) {
        ASSERT_TRUE(result.ok());
        step(caption, &accepted);
        (*store)->Append(result->accepted[0], Good(), [&, caption](absl::StatusOr<v1::Label> label) {
          ASSERT_TRUE(label.ok());
          step(caption, &labelled);
        });
      });
      // Some of the load comes one by one, some in bursts.
      if (i % 5 == 0) {
        EXPECT_TRUE(Eventually([&] { return done >= 2 * (i + 1); }));
      }
    }
    EXPECT_TRUE(Eventually([&] { return done == 2 * count; }));
    store->reset();
  }
  auto store = open(after.path(), "");
  if (!store.ok()) return -1;  // nothing left that could be read
  std::set<std::string> there, there_labelled;
  for (const WaitingQuery& query : (*store)->TakeWaiting()) there.insert(CaptionOf(query.query));
  uint64_t expected = 1;
  const auto batch = (*store)->Read({}, 1'000'000);
  for (const v1::Label& label : batch->labels()) {
    EXPECT_EQ(label.sequence(), expected++);
    EXPECT_TRUE(there.insert(CaptionOf(label.query())).second) << "answered and waiting";
    there_labelled.insert(CaptionOf(label.query()));
  }
  int lost = 0;
  for (const std::string& caption : accepted) lost += there.count(caption) == 0;
  for (const std::string& caption : labelled) lost += there_labelled.count(caption) == 0;
  return lost;
}

TEST_F(LabelLogTest, WhatWasAcknowledgedSurvivesAPowerFailure) {
  const OpenStore open = [this](const std::string& folder, const std::string& vfs) { return TryOpen(folder, vfs); };
  for (uint64_t seed = 0; seed < 12; ++seed) {
    EXPECT_EQ(LostAfterPowerFailure(false, seed, open), 0) << "seed " << seed;
  }
}

TEST_F(LabelLogTest, ThePowerFailureTestNoticesADiskThatDoesNotSync) {
  const OpenStore open = [this](const std::string& folder, const std::string& vfs) { return TryOpen(folder, vfs); };
  int noticed = 0;
  for (uint64_t seed = 0; seed < 3; ++seed) {
    noticed += LostAfterPowerFailure(true, seed, open) != 0;
  }
  EXPECT_EQ(noticed, 3);
}

}  // namespace
}  // namespace sibyl::annotator
