#pragma once

// In-memory stand-ins for what the reward model talks to.

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/caption.h"
#include "common/config.h"
#include "common/mutex.h"
#include "common/protocol.h"
#include "common/runtime/clock.h"
#include "reward_model/annotator_link.h"
#include "reward_model/checkpoint.h"
#include "reward_model/coordinator.h"
#include "reward_model/label_source.h"
#include "reward_model/questions.h"
#include "reward_model/scoring/retrieval.h"
#include "tests/heartbeat_watch.h"

namespace sibyl::reward_model {

inline v1::Experiment TestExperiment() {
  v1::Experiment experiment;
  experiment.mutable_environment()->set_name("minigrid/Empty-5x5");
  experiment.mutable_reward_model()->set_goal("open doors");
  experiment.mutable_annotator()->set_rules_file("/rules");
  FillDefaults(&experiment);
  return experiment;
}

// An annotator in memory: a log of labels, and a bounded queue. Labels come when a test says so. Any thread.
class FakeAnnotator : public LabelSource {
 public:
  explicit FakeAnnotator(size_t capacity = 1000) : capacity_(capacity) {}

  absl::StatusOr<v1::DescribeResponse> Describe() override {
    if (describing_ != nullptr) describing_->Wait();
    MutexLock lock(mutex_);
    if (!down_.ok()) return down_;
    v1::DescribeResponse response;
    response.set_judge(judge_);
    response.set_prompt(prompt_);
    response.set_log_id(log_id_);
    response.set_labels(log_.size());
    response.set_waiting(waiting_.size());
    response.set_capacity(capacity_);
    return response;
  }

  absl::StatusOr<v1::AskResponse> Ask(v1::AskRequest request) override {
    if (asking_ != nullptr) asking_->Wait();
    MutexLock lock(mutex_);
    if (!down_.ok()) return down_;
    for (const v1::Query& query : request.queries()) {
      if (Captions(query)[0] == unacceptable_) {
        return absl::InvalidArgumentError(absl::StrCat("texts of query ", query.tag(), " are not acceptable"));
      }
    }
    v1::AskResponse response;
    for (const v1::Query& query : request.queries()) {
      v1::AskOutcome& outcome = *response.add_outcomes();
      outcome.set_tag(query.tag());
      const std::string key = Key(query);
      if (const auto known = answers_.find(key); known != answers_.end()) {
        outcome.set_kind(v1::AskOutcome::KIND_KNOWN);
        *outcome.mutable_label() = log_[known->second - 1];
      } else if (waiting_.contains(key)) {
        outcome.set_kind(v1::AskOutcome::KIND_DUPLICATE);
      } else if (waiting_.size() >= capacity_) {
        outcome.set_kind(v1::AskOutcome::KIND_FULL);
      } else {
        outcome.set_kind(v1::AskOutcome::KIND_ACCEPTED);
        waiting_[key] = query;
        accepted_.push_back(query);
      }
    }
    response.set_room(static_cast<uint32_t>(capacity_ - waiting_.size()));
    return response;
  }

  // Hands over what there is, and "loses the connection" then; with `stay`, follows until Cancel.
  absl::Status Follow(v1::LabelsRequest request, const std::function<void(const v1::LabelBatch&)>& on_batch) override {
    uint64_t next = std::max<uint64_t>(1, request.from_sequence());
    {
      MutexLock lock(mutex_);
      follows_.push_back(request);
    }
    while (true) {
      const v1::LabelBatch batch = LabelsFrom(next);
      on_batch(batch);
      next = batch.next_sequence();
      MutexLock lock(mutex_);
      while (stay_ && !cancelled_ && next > log_.size()) changed_.Wait(mutex_);
      if (cancelled_) return absl::CancelledError("cancelled");
      if (!stay_) return absl::UnavailableError("that is all");
    }
  }
  v1::LabelBatch LabelsFrom(uint64_t next) {
    v1::LabelBatch batch;
    MutexLock lock(mutex_);
    for (; next <= log_.size(); ++next) *batch.add_labels() = log_[next - 1];
    batch.set_next_sequence(next);
    return batch;
  }

  void Cancel() override {
    MutexLock lock(mutex_);
    cancelled_ = true;
    changed_.NotifyAll();
  }

  // Each call waits in its gate. Before the annotator is used; the gates outlive its use.
  void SetGates(Gate* describing, Gate* asking) {
    describing_ = describing;
    asking_ = asking;
  }

  // What a test does to it.
  void Answer(const std::string& caption, float good) {
    MutexLock lock(mutex_);
    Append(caption, v1::OUTCOME_ANSWERED, good, "");
  }
  void Answer(const std::string& caption, v1::Outcome outcome) {
    MutexLock lock(mutex_);
    Append(caption, outcome, 0, "");
  }
  // What a comparison says: the probability that the first caption is better, and that of a tie.
  void AnswerPair(const std::string& first, const std::string& second, float first_better, float tie = 0) {
    MutexLock lock(mutex_);
    AppendPair(first, second, v1::OUTCOME_ANSWERED, {first_better, 1 - first_better - tie, tie});
  }
  void AnswerPair(const std::string& first, const std::string& second, v1::Outcome outcome) {
    MutexLock lock(mutex_);
    AppendPair(first, second, outcome, {});
  }
  // A label of the same caption asked with something in view.
  void AnswerWithContext(const std::string& caption, const std::string& context, float good) {
    MutexLock lock(mutex_);
    Append(caption, v1::OUTCOME_ANSWERED, good, context);
  }
  void SetGoal(const std::string& goal) {
    MutexLock lock(mutex_);
    goal_ = goal;
  }
  void SetJudge(const std::string& judge) {
    MutexLock lock(mutex_);
    judge_ = judge;
    answers_.clear();
  }
  void SetDown(absl::Status status) {
    MutexLock lock(mutex_);
    down_ = std::move(status);
  }
  void SetUnacceptable(const std::string& caption) {
    MutexLock lock(mutex_);
    unacceptable_ = caption;
  }
  void SetStay(bool stay) {
    MutexLock lock(mutex_);
    stay_ = stay;
  }
  void LoseEverything() {
    MutexLock lock(mutex_);
    log_id_ += "'";
    log_.clear();
    answers_.clear();
    waiting_.clear();
  }
  std::vector<v1::Query> accepted() {
    MutexLock lock(mutex_);
    return accepted_;
  }
  std::vector<std::string> accepted_captions() {
    std::vector<std::string> captions;
    for (const v1::Query& query : accepted()) captions.push_back(Captions(query)[0]);
    return captions;
  }
  v1::LabelsRequest last_follow() {
    MutexLock lock(mutex_);
    return follows_.back();
  }

 private:
  static std::string Key(const v1::Query& query) {
    return absl::StrCat(absl::StrJoin(Captions(query), "\n"), "\n", query.goal(), "\n", ContextOf(query));
  }

  void Append(const std::string& caption, v1::Outcome outcome, float good, const std::string& context)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    v1::Query query;
    query.set_kind("classify");
    (*query.mutable_texts())["caption"] = caption;
    if (!context.empty()) (*query.mutable_texts())["context"] = context;
    for (const char* label : {"unhelpful", "helpful"}) query.mutable_grammar()->mutable_choice()->add_labels(label);
    std::vector<float> distribution;
    if (outcome == v1::OUTCOME_ANSWERED) distribution = {1 - good, good};
    AppendLabel(std::move(query), outcome, distribution);
  }
  void AppendPair(const std::string& first, const std::string& second, v1::Outcome outcome,
                  const std::vector<float>& distribution) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    v1::Query query;
    query.set_kind("compare");
    (*query.mutable_texts())["first"] = first;
    (*query.mutable_texts())["second"] = second;
    for (const char* label : {"first", "second", "tie"}) query.mutable_grammar()->mutable_choice()->add_labels(label);
    AppendLabel(std::move(query), outcome, distribution);
  }
  void AppendLabel(v1::Query query, v1::Outcome outcome, const std::vector<float>& distribution)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    query.set_goal(goal_);
    v1::Label label;
    label.set_sequence(log_.size() + 1);
    label.set_outcome(outcome);
    label.set_judge(judge_);
    label.set_prompt(prompt_);
    for (const float probability : distribution) {
      label.mutable_answer()->mutable_choice()->add_distribution(probability);
    }
    *label.mutable_query() = query;
    waiting_.erase(Key(query));
    answers_[Key(query)] = label.sequence();
    log_.push_back(std::move(label));
    changed_.NotifyAll();
  }

  const size_t capacity_;
  Gate *describing_ = nullptr, *asking_ = nullptr;
  Mutex mutex_;
  CondVar changed_;
  std::string judge_ ABSL_GUARDED_BY(mutex_) = "rules:test@1", prompt_ ABSL_GUARDED_BY(mutex_);
  std::string log_id_ ABSL_GUARDED_BY(mutex_) = "log";
  std::string goal_ ABSL_GUARDED_BY(mutex_) = "open doors";
  std::string unacceptable_ ABSL_GUARDED_BY(mutex_);
  absl::Status down_ ABSL_GUARDED_BY(mutex_);
  bool stay_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<v1::Label> log_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, uint64_t> answers_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, v1::Query> waiting_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::Query> accepted_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::LabelsRequest> follows_ ABSL_GUARDED_BY(mutex_);
};

// All pieces of a whole checkpoint in one message, as version 1 was, and back.
inline v1::RewardModelState Checkpoint(Coordinator& coordinator) {
  v1::RewardModelState state;
  state.set_format_version(1);
  coordinator.BeginCheckpoint(/*whole=*/true);
  while (true) {
    const v1::RewardModelPiece piece = coordinator.NextPiece();
    state.mutable_captions()->MergeFrom(piece.captions());
    state.mutable_comparisons()->MergeFrom(piece.comparisons());
    if (!piece.has_head()) continue;
    state.set_run_id(piece.head().run_id());
    state.set_goal(piece.head().goal());
    *state.mutable_label_set() = piece.head().label_set();
    state.set_judge(piece.head().judge());
    state.set_prompt(piece.head().prompt());
    state.set_log_id(piece.head().log_id());
    state.set_next_sequence(piece.head().next_sequence());
    state.set_learner_incarnation(piece.head().learner_incarnation());
    // Version 1 has no numbers of learners and logs: what an earlier learner told is not in it.
    for (v1::RewardCaption& caption : *state.mutable_captions()) {
      if (caption.learner() != piece.head().learner()) caption.clear_learner_count();
      caption.clear_learner();
      caption.clear_label_log();
    }
    return state;
  }
}
// The captions in it, by id, as text.
inline std::map<uint64_t, std::string> Rows(const v1::RewardModelState& state) {
  std::map<uint64_t, std::string> rows;
  for (const v1::RewardCaption& caption : state.captions()) rows[caption.id()] = caption.ShortDebugString();
  return rows;
}
inline absl::Status Restore(Coordinator& coordinator, const v1::RewardModelState& state) {
  const v1::RewardModelPiece piece = PieceOf(state);
  coordinator.Restore(piece);
  return coordinator.FinishRestore(piece.head());
}

// A learner's table of scores, built as reward.proto says.
class ScoreTable {
 public:
  // Updates must come without gaps.
  void Apply(const v1::ScoreUpdate& update) {
    ++updates_;
    if (update.reset()) {
      building_.clear();
      in_snapshot_ = true;
    } else if (update.sequence() != last_sequence_ + 1) {
      gaps_ = true;
    }
    last_sequence_ = update.sequence();
    auto& table = in_snapshot_ ? building_ : scores_;
    for (int i = 0; i < update.id_size(); ++i) table[update.id(i)] = update.score(i);
    for (uint64_t id : update.removed()) table.erase(id);
    if (in_snapshot_ && !update.more()) {
      scores_ = building_;
      in_snapshot_ = false;
      ++snapshots_;
    }
    version_ = update.score_version();
    transform_ = update.transform();
  }

  // -1: it has none.
  float Of(const std::string& caption) const {
    const auto it = scores_.find(CaptionId(caption));
    return it == scores_.end() ? -1 : it->second;
  }

  std::map<uint64_t, float> scores_, building_;
  uint64_t last_sequence_ = 0, version_ = 0;
  v1::RewardTransform transform_;
  int updates_ = 0, snapshots_ = 0;
  bool in_snapshot_ = false, gaps_ = false;
};

// A learner's end of the stream, in memory.
class FakeOutput : public LearnerOutput {
 public:
  bool Deliver(v1::RewardModelToLearner message) override {
    if (!reading) return false;
    if (message.has_scores() && table != nullptr) table->Apply(message.scores());
    messages.push_back(std::move(message));
    return true;
  }
  void Disconnect(const absl::Status& status) override { disconnected = status; }

  std::vector<v1::ScoreUpdate> Scores() const {
    std::vector<v1::ScoreUpdate> scores;
    for (const auto& message : messages) {
      if (message.has_scores()) scores.push_back(message.scores());
    }
    return scores;
  }
  std::vector<uint64_t> TextsRequested() const {
    std::vector<uint64_t> ids;
    for (const auto& message : messages) {
      ids.insert(ids.end(), message.text_request().ids().begin(), message.text_request().ids().end());
    }
    return ids;
  }

  ScoreTable* table = nullptr;
  bool reading = true;
  absl::Status disconnected;
  std::vector<v1::RewardModelToLearner> messages;
};

// A learner process: captions with cumulative counts, and a table that outlives its connections.
class FakeLearner {
 public:
  explicit FakeLearner(Coordinator& model, uint64_t incarnation = 1) : model_(&model) {
    hello.set_protocol_version(kProtocolVersion);
    hello.set_run_id("run");
    hello.set_incarnation(incarnation);
    hello.set_goal("open doors");
  }

  // Connects (again), and offers all its captions.
  absl::Status Connect() {
    hello.set_last_sequence(table.last_sequence_);
    output = std::make_shared<FakeOutput>();
    output->table = &table;
    const absl::Status status = model_->ConnectLearner(hello, output);
    if (!status.ok()) return status;
    hello.set_reward_model_incarnation(output->messages.front().hello().incarnation());
    return Offer(true);
  }
  void ConnectTo(Coordinator& model) { model_ = &model; }
  void Lose() { model_->DisconnectLearner(output.get()); }

  // Sees a caption `times` more.
  void See(const std::string& caption, uint64_t times = 1, uint64_t step = 0) {
    Entry& entry = captions_[CaptionId(caption)];
    entry.text = caption;
    entry.count += times;
    entry.last_step = step;
    entry.changed = true;
  }
  // Tells what it has seen, and gives the texts that are wanted.
  absl::Status Offer(bool all = false) {
    v1::CaptionCounts counts;
    for (auto& [id, entry] : captions_) {
      if (!all && !entry.changed) continue;
      entry.changed = false;
      counts.add_id(id);
      counts.add_count(entry.count);
      counts.add_last_step(entry.last_step);
    }
    return model_->OnCounts(output.get(), counts);
  }
  void SendTexts() {
    v1::CaptionTexts texts;
    for (uint64_t id : output->TextsRequested()) {
      v1::CaptionText& text = *texts.add_texts();
      text.set_id(id);
      text.set_text(captions_[id].text);
      text.set_context("view of " + captions_[id].text);
    }
    model_->OnTexts(output.get(), texts);
  }
  // The whole of it.
  void SeeAndTell(const std::string& caption, uint64_t times = 1, uint64_t step = 0) {
    See(caption, times, step);
    (void)Offer();
    model_->Tick();
    SendTexts();
    model_->Tick();
  }

  v1::LearnerHello hello;
  ScoreTable table;
  std::shared_ptr<FakeOutput> output;

 private:
  struct Entry {
    std::string text;
    uint64_t count = 0, last_step = 0;
    bool changed = false;
  };
  Coordinator* model_;
  std::map<uint64_t, Entry> captions_;
};

// One that has connected.
class ConnectedLearner : public FakeLearner {
 public:
  explicit ConnectedLearner(Coordinator& model, uint64_t incarnation = 1) : FakeLearner(model, incarnation) {
    EXPECT_TRUE(Connect().ok());
  }
};

}  // namespace sibyl::reward_model
