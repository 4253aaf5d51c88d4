// The store by itself: outcomes, the log, versions, and what is left after the power fails.

#include "annotator/label_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <cstring>
#include <future>
#include <map>
#include <set>

#include "common/random.h"
#include "tests/annotator/queries.h"

namespace sibyl::annotator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Verdict Good() {
  Verdict verdict;
  verdict.outcome = v1::OUTCOME_ANSWERED;
  verdict.distribution = {0.1f, 0.9f};
  verdict.outside = 0.25f;
  verdict.raw = "Label: helpful";
  verdict.prompt_tokens = 12;
  verdict.completion_tokens = 3;
  return verdict;
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
      disk()->images_[name];
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

class LabelStoreTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<LabelStore>> TryOpen(const std::string& folder, const std::string& vfs = "") {
    metrics_.push_back(std::make_unique<Metrics>());
    LabelStoreOptions options;
    options.path = folder + "/labels.sqlite";
    options.judge_identity = identity_;
    options.capacity = capacity_;
    options.vfs = vfs;
    return LabelStore::Open(options, clock_, *metrics_.back(), [this](absl::Status reason) { failure_ = reason; });
  }
  std::unique_ptr<LabelStore> Open() {
    auto store = TryOpen(folder_.path());
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  static absl::StatusOr<AskResult> Ask(LabelStore& store, std::vector<v1::Query> queries) {
    std::promise<absl::StatusOr<AskResult>> promise;
    store.Ask(std::move(queries), [&](absl::StatusOr<AskResult> result) { promise.set_value(std::move(result)); });
    return promise.get_future().get();
  }
  static absl::StatusOr<v1::Label> Append(LabelStore& store, const WaitingQuery& query, Verdict verdict = Good()) {
    std::promise<absl::StatusOr<v1::Label>> promise;
    store.Append(query, "rules:r", "p.txt@1", std::move(verdict),
                 [&](absl::StatusOr<v1::Label> label) { promise.set_value(std::move(label)); });
    return promise.get_future().get();
  }
  static std::vector<v1::AskOutcome::Kind> Kinds(const AskResult& result) {
    std::vector<v1::AskOutcome::Kind> kinds;
    for (const auto& outcome : result.outcomes) kinds.push_back(outcome.kind());
    return kinds;
  }
  static std::vector<v1::Label> All(LabelStore& store) {
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
  absl::Status failure_;
  std::vector<std::unique_ptr<Metrics>> metrics_;
};

TEST_F(LabelStoreTest, AQuestionIsAcceptedOnceThenDuplicateThenKnown) {
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
  EXPECT_EQ(known->outcomes[0].label().SerializeAsString(), label->SerializeAsString());
  EXPECT_EQ(label->query().captions(0), "a");
  EXPECT_EQ(label->query().tag(), 0u);
  EXPECT_THAT(label->distribution(), ElementsAre(0.1f, 0.9f));
  EXPECT_EQ(label->outside(), 0.25f);
  EXPECT_EQ(label->raw(), "Label: helpful");
  EXPECT_EQ(label->prompt_tokens(), 12u);
  EXPECT_EQ(label->committed_unix_micros(), absl::ToUnixMicros(clock_.Now()));
  EXPECT_EQ(store->waiting(), 1u);
}

TEST_F(LabelStoreTest, ALabelBelongsToItsGoalItsLabelSetItsContextAndItsJudge) {
  auto store = Open();
  const auto accepted = Ask(*store, {Classify("a", "win")})->accepted;
  ASSERT_TRUE(Append(*store, accepted[0]).ok());
  v1::Query context = Classify("a", "win");
  context.set_context("c");
  v1::Query labels = Classify("a", "win");
  labels.add_label_set("neutral");
  EXPECT_THAT(Kinds(*Ask(*store, {Classify("a", "lose"), context, labels})),
              ElementsAre(v1::AskOutcome::KIND_ACCEPTED, v1::AskOutcome::KIND_ACCEPTED, v1::AskOutcome::KIND_ACCEPTED));
  store.reset();
  identity_ = "openai:m";
  store = Open();
  EXPECT_EQ(store->set_aside(), 3u);
  EXPECT_TRUE(store->TakeWaiting().empty());
  EXPECT_THAT(Kinds(*Ask(*store, {Classify("a", "win")})), ElementsAre(v1::AskOutcome::KIND_ACCEPTED));
}

TEST_F(LabelStoreTest, RefusesWhatIsBeyondItsCapacity) {
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

TEST_F(LabelStoreTest, AnsweredQueriesAreNotAskedAgainAfterARestartAndWaitingOnesAre) {
  auto store = Open();
  v1::Query compare = Compare("first thing", "second thing");
  compare.set_priority(2.5);
  compare.set_context("in view");
  auto accepted = Ask(*store, {Classify("a"), compare, Classify("c")})->accepted;
  ASSERT_TRUE(Append(*store, accepted[0]).ok());
  store.reset();
  store = Open();
  auto waiting = store->TakeWaiting();
  ASSERT_EQ(waiting.size(), 2u);
  EXPECT_EQ(waiting[0].query.SerializeAsString(), compare.SerializeAsString());
  EXPECT_EQ(waiting[1].query.captions(0), "c");
  EXPECT_EQ(Append(*store, waiting[1])->sequence(), 2u);
  EXPECT_EQ(Append(*store, waiting[0])->sequence(), 3u);
  store.reset();
  store = Open();
  EXPECT_TRUE(store->TakeWaiting().empty());
  EXPECT_EQ(store->last_sequence(), 3u);
}

TEST_F(LabelStoreTest, TheLogIsReadFromAnywhereAndFiltered) {
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
  EXPECT_EQ(batch->labels(0).query().captions(0), "c3");
  EXPECT_EQ(batch->labels(1).sequence(), 6u);
  request.set_judge("another");
  batch = store->Read(request, 100);
  EXPECT_EQ(batch->labels_size(), 0);
  EXPECT_EQ(batch->next_sequence(), 11u);
  request.clear_judge();
  request.set_prompt("p.txt@1");
  request.add_label_set("unhelpful");
  EXPECT_EQ(store->Read(request, 100)->labels_size(), 0) << "another label set";
  request.add_label_set("helpful");
  EXPECT_EQ(store->Read(request, 100)->labels_size(), 4);
  request.set_from_sequence(11);
  EXPECT_EQ(store->Read(request, 100)->next_sequence(), 11u);
  request.set_from_sequence(12);
  EXPECT_EQ(store->Read(request, 100).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(store->Read(request, 100).status().message(), AllOf(HasSubstr("12"), HasSubstr("10")));
}

TEST_F(LabelStoreTest, OnlyOneMayHaveItOpen) {
  auto store = Open();
  const absl::Status second = TryOpen(folder_.path()).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(second.message(), AllOf(HasSubstr(folder_ / "labels.sqlite"), HasSubstr("open in another process"),
                                      HasSubstr("annotator.store")));
  store.reset();
  EXPECT_TRUE(TryOpen(folder_.path()).ok());
}

TEST_F(LabelStoreTest, AnUnknownVersionIsRefusedWithBothVersions) {
  Open().reset();
  Sql("PRAGMA user_version=7");
  const absl::Status status = TryOpen(folder_.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("version 7"), HasSubstr("version 1"), HasSubstr("labels.sqlite")));
}

TEST_F(LabelStoreTest, OtherFilesAreRefused) {
  Sql("CREATE TABLE mine(x)");
  EXPECT_THAT(TryOpen(folder_.path()).status().message(), HasSubstr("no label store"));
  TemporaryFolder garbage;
  garbage.Write("labels.sqlite", std::string(5000, 'x'));
  EXPECT_THAT(TryOpen(garbage.path()).status().message(),
              AllOf(HasSubstr("labels.sqlite"), HasSubstr("not a database")));
  EXPECT_THAT(TryOpen("/nowhere").status().message(),
              AllOf(HasSubstr("/nowhere/labels.sqlite"), HasSubstr("annotator.store")));
}

TEST_F(LabelStoreTest, AStoreThatCannotBeWrittenRefusesEverythingAndSaysSo) {
  auto store = Open();
  Sql("CREATE TRIGGER broken BEFORE INSERT ON queries BEGIN SELECT RAISE(ABORT, 'disk on fire'); END");
  auto result = Ask(*store, {Classify("a")});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(result.status().message(), AllOf(HasSubstr("labels.sqlite"), HasSubstr("disk on fire")));
  EXPECT_EQ(Ask(*store, {Classify("b")}).status(), result.status());
  store.reset();
  EXPECT_EQ(failure_, result.status());
}

TEST_F(LabelStoreTest, CallsThatComeWhileItSyncsAreCommittedTogether) {
  auto store = Open();
  const int calls = 400;
  std::atomic<int> done = 0;
  for (int i = 0; i < calls; ++i) {
    store->Ask({Classify(absl::StrCat("c", i))}, [&](absl::StatusOr<AskResult> result) { done += result.ok(); });
  }
  ASSERT_TRUE(Eventually([&] { return done == calls; }));
  const std::string text = metrics_.back()->Text();
  const std::string name = "\nsibyl_annotator_commits_total ";
  const size_t at = text.find(name);
  ASSERT_NE(at, std::string::npos);
  EXPECT_LT(std::stoi(text.substr(at + name.size())), calls);
}

// Runs a load over a disk that forgets, fails the power at seeded moments, and gives how much that was acknowledged is
// not there afterwards.
using OpenStore =
    std::function<absl::StatusOr<std::unique_ptr<LabelStore>>(const std::string& folder, const std::string& vfs)>;
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
        (*store)->Append(result->accepted[0], "rules:r", "", Good(), [&, caption](absl::StatusOr<v1::Label> label) {
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
  for (const WaitingQuery& query : (*store)->TakeWaiting()) there.insert(query.query.captions(0));
  uint64_t expected = 1;
  const auto batch = (*store)->Read({}, 1'000'000);
  for (const v1::Label& label : batch->labels()) {
    EXPECT_EQ(label.sequence(), expected++);
    EXPECT_TRUE(there.insert(label.query().captions(0)).second) << "answered and waiting";
    there_labelled.insert(label.query().captions(0));
  }
  int lost = 0;
  for (const std::string& caption : accepted) lost += there.count(caption) == 0;
  for (const std::string& caption : labelled) lost += there_labelled.count(caption) == 0;
  return lost;
}

TEST_F(LabelStoreTest, WhatWasAcknowledgedSurvivesAPowerFailure) {
  const OpenStore open = [this](const std::string& folder, const std::string& vfs) { return TryOpen(folder, vfs); };
  for (uint64_t seed = 0; seed < 12; ++seed) {
    EXPECT_EQ(LostAfterPowerFailure(false, seed, open), 0) << "seed " << seed;
  }
}

TEST_F(LabelStoreTest, ThePowerFailureTestNoticesADiskThatDoesNotSync) {
  const OpenStore open = [this](const std::string& folder, const std::string& vfs) { return TryOpen(folder, vfs); };
  int noticed = 0;
  for (uint64_t seed = 0; seed < 3; ++seed) {
    noticed += LostAfterPowerFailure(true, seed, open) != 0;
  }
  EXPECT_EQ(noticed, 3);
}

}  // namespace
}  // namespace sibyl::annotator
