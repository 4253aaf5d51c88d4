#include "learner/experience/caption_table.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/caption.h"
#include "common/status_macros.h"

namespace sibyl::learner {
namespace {

// Rows of an update in parts that are held back, at least; more where the table is larger.
constexpr size_t kMostHeldBackRows = 16'000'000;
// A score, or the mean and deviation that it is normalised by, is never larger than this in good faith, nor a deviation
// smaller than its inverse: rewards stay finite.
constexpr float kLargest = 1e9f;

absl::Status CheckScores(const v1::ScoreUpdate& update) {
  if (update.id_size() != update.score_size()) {
    return absl::InvalidArgumentError(absl::StrCat("ScoreUpdate ", update.sequence(), " has ", update.id_size(),
                                                   " ids and ", update.score_size(), " scores"));
  }
  for (int i = 0; i < update.score_size(); ++i) {
    if (std::abs(update.score(i)) <= kLargest) continue;  // false for NaN
    return absl::InvalidArgumentError(absl::StrCat("ScoreUpdate ", update.sequence(), " has a score of ",
                                                   update.score(i), " for caption ", absl::Hex(update.id(i)),
                                                   ", must be between -1e9 and 1e9"));
  }
  if (!update.has_transform()) return absl::OkStatus();
  const v1::RewardTransform& transform = update.transform();
  const float deviation = transform.deviation() == 0 ? 1 : transform.deviation();
  if (std::abs(transform.mean()) <= kLargest && deviation >= 1 / kLargest && deviation <= kLargest &&
      std::abs(transform.threshold()) <= kLargest) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("ScoreUpdate ", update.sequence(), " has a transform with mean ",
                                                 transform.mean(), ", deviation ", transform.deviation(),
                                                 " and threshold ", transform.threshold(),
                                                 "; each must be finite and the deviation positive"));
}

}  // namespace

void CaptionTable::Unlink(int32_t row) {
  Row& r = rows_[row];
  (r.older != 0 ? rows_[r.older].newer : oldest_) = r.newer;
  (r.newer != 0 ? rows_[r.newer].older : newest_) = r.older;
  r.older = r.newer = 0;
}

void CaptionTable::LinkNewest(int32_t row) {
  Row& r = rows_[row];
  r.older = newest_;
  r.newer = 0;
  (newest_ != 0 ? rows_[newest_].newer : oldest_) = row;
  newest_ = row;
}

void CaptionTable::MarkChanged(int32_t row) {
  if (rows_[row].changed) return;
  rows_[row].changed = true;
  changed_.push_back(row);
}

void CaptionTable::SetText(Row& row, const std::string& text, const std::string& context) {
  row.text = text;
  row.context = context;
  text_bytes_ += text.size() + context.size();
}

bool CaptionTable::ForgetOldest() {
  // Unrolls name only recent captions, so the search ends at once unless the table is hardly larger than they are.
  int32_t victim = oldest_;
  while (victim != 0 && rows_[victim].pins > 0) victim = rows_[victim].newer;
  if (victim == 0) return false;
  Unlink(victim);
  Row& row = rows_[victim];
  row_of_.erase(row.id);
  text_bytes_ -= row.text.size() + row.context.size();
  const bool in_next = applying_ && static_cast<size_t>(victim) < copied_;
  SetWaitingScore(row.id, in_next ? next_row_scores_[victim] : row_scores_[victim]);
  SetRowScore(victim, Score());
  const bool listed = row.changed;
  row = Row();
  row.changed = listed;  // its place in changed_ goes to the row's next caption
  free_.push_back(victim);
  ++evicted_;
  return true;
}

int32_t CaptionTable::RowFor(uint64_t id) {
  if (const auto it = row_of_.find(id); it != row_of_.end()) return it->second;
  while (row_of_.size() >= capacity_ && ForgetOldest()) {
  }
  int32_t row = 0;
  if (!free_.empty()) {
    row = free_.back();
    free_.pop_back();
  } else {
    row = static_cast<int32_t>(rows_.size());
    rows_.emplace_back();
  }
  rows_[row].id = id;
  const auto waiting = waiting_.find(id);
  SetRowScore(row, waiting != waiting_.end() ? waiting->second.score : Score());
  SetWaitingScore(id, Score());
  row_of_[id] = row;
  LinkNewest(row);
  return row;
}

void CaptionTable::See(absl::Span<const uint64_t> ids, uint64_t step, int32_t* rows) {
  MutexLock lock(mutex_);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == 0) {
      rows[i] = 0;
      continue;
    }
    const int32_t row = RowFor(ids[i]);
    Row& r = rows_[row];
    ++r.pins;
    ++pins_;
    ++r.count;
    r.last_step = step;
    if (newest_ != row) {
      Unlink(row);
      LinkNewest(row);
    }
    MarkChanged(row);
    rows[i] = row;
  }
}

void CaptionTable::Unpin(absl::Span<const int32_t> rows) {
  MutexLock lock(mutex_);
  for (int32_t row : rows) {
    if (row == 0) continue;
    --rows_[row].pins;
    --pins_;
  }
}

void CaptionTable::Pin(absl::Span<const int32_t> rows) {
  MutexLock lock(mutex_);
  for (int32_t row : rows) {
    if (row == 0) continue;
    ++rows_[row].pins;
    ++pins_;
  }
}

void CaptionTable::AddTexts(const google::protobuf::RepeatedPtrField<v1::CaptionText>& texts) {
  MutexLock lock(mutex_);
  for (const v1::CaptionText& text : texts) {
    const auto it = row_of_.find(text.id());
    if (CaptionId(text.text()) != text.id()) {
      ++collisions_;
      continue;
    }
    if (it == row_of_.end()) continue;  // it was forgotten meanwhile
    Row& row = rows_[it->second];
    if (row.text.empty()) {
      SetText(row, text.text(), text.context());
    } else if (row.text != text.text()) {
      ++collisions_;
    }
    while (text_bytes_ > max_text_bytes_ && ForgetOldest()) {
    }
  }
}

std::vector<uint64_t> CaptionTable::WithoutText(absl::Span<const int32_t> rows) const {
  MutexLock lock(mutex_);
  std::vector<uint64_t> missing;
  for (int32_t row : rows) {
    if (row != 0 && rows_[row].text.empty()) missing.push_back(rows_[row].id);
  }
  return missing;
}

v1::CaptionTexts CaptionTable::Texts(absl::Span<const uint64_t> ids) const {
  MutexLock lock(mutex_);
  v1::CaptionTexts texts;
  for (uint64_t id : ids) {
    const auto it = row_of_.find(id);
    if (it == row_of_.end() || rows_[it->second].text.empty()) continue;
    v1::CaptionText* text = texts.add_texts();
    text->set_id(id);
    text->set_text(rows_[it->second].text);
    text->set_context(rows_[it->second].context);
  }
  return texts;
}

v1::CaptionCounts CaptionTable::TakeChanged(bool all, size_t limit) {
  MutexLock lock(mutex_);
  if (all) report_from_ = 1;
  v1::CaptionCounts counts;
  const auto report = [&](const Row& row) {
    counts.add_id(row.id);
    counts.add_count(row.count - row.since);
    counts.add_last_step(row.last_step);
  };
  while (report_from_ != 0 && static_cast<size_t>(counts.id_size()) < limit) {
    if (report_from_ == static_cast<int32_t>(rows_.size())) {
      report_from_ = 0;
      break;
    }
    const Row& row = rows_[report_from_++];
    if (row.id != 0 && !row.changed) report(row);  // what has changed comes below
  }
  while (!changed_.empty() && static_cast<size_t>(counts.id_size()) < limit) {
    Row& row = rows_[changed_.back()];
    changed_.pop_back();
    row.changed = false;
    if (row.id != 0) report(row);
  }
  return counts;
}

void CaptionTable::TakeNews(v1::RankNews* news) {
  MutexLock lock(mutex_);
  std::vector<int32_t> waiting;
  for (int32_t row : changed_) {
    Row& r = rows_[row];
    if (r.id != 0 && r.text.empty()) {
      waiting.push_back(row);
      continue;
    }
    r.changed = false;
    if (r.id == 0) continue;
    if (r.since == 0) {
      v1::CaptionText* text = news->mutable_texts()->add_texts();
      text->set_id(r.id);
      text->set_text(r.text);
      text->set_context(r.context);
    }
    news->mutable_captions()->add_id(r.id);
    news->mutable_captions()->add_count(r.count - r.since);
    news->mutable_captions()->add_last_step(r.last_step);
    r.since = r.count;
  }
  changed_ = std::move(waiting);
}

void CaptionTable::AddNews(const v1::RankNews& news) {
  {
    MutexLock lock(mutex_);
    const v1::CaptionCounts& captions = news.captions();
    for (int i = 0; i < captions.id_size() && i < captions.count_size() && i < captions.last_step_size(); ++i) {
      const int32_t row = RowFor(captions.id(i));
      rows_[row].count += captions.count(i);
      rows_[row].last_step = std::max(rows_[row].last_step, captions.last_step(i));
      if (newest_ != row) {
        Unlink(row);
        LinkNewest(row);
      }
      MarkChanged(row);
    }
  }
  AddTexts(news.texts().texts());
}

void CaptionTable::SetRowScore(int32_t row, const Score& score) {
  if (row_scores_.size() < rows_.size()) row_scores_.resize(rows_.size());
  row_scores_[row] = score;
  if (!applying_) return;
  if (next_row_scores_.size() < rows_.size()) next_row_scores_.resize(rows_.size());
  next_row_scores_[row] = score;
}

void CaptionTable::SetWaitingScore(uint64_t id, const Score& score) {
  const auto it = waiting_.find(id);
  if (it != waiting_.end() && score.known) {
    it->second.score = score;
  } else if (it != waiting_.end()) {
    waiting_order_.erase(it->second.place);
    waiting_.erase(it);
  } else if (score.known) {
    waiting_[id] = {score, waiting_order_.insert(waiting_order_.end(), id)};
    if (waiting_.size() <= capacity_) return;
    waiting_.erase(waiting_order_.front());
    waiting_order_.pop_front();
    ++scores_dropped_;
  }
}

void CaptionTable::ApplyEntries(const v1::ScoreUpdate& update, int begin, int end, uint64_t step,
                                std::vector<Score>* row_scores) {
  const auto set = [&](uint64_t id, const Score& score) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (const auto it = row_of_.find(id); it != row_of_.end()) {
      (*row_scores)[it->second] = score;
    } else {
      SetWaitingScore(id, score);
    }
  };
  const int removed = update.removed_size();
  for (int i = begin; i < end; ++i) {
    if (i < removed) {
      set(update.removed(i), Score());
    } else {
      set(update.id(i - removed), {update.score(i - removed), true, step});
    }
  }
}

absl::Status CaptionTable::Apply(const v1::ScoreUpdate& update, uint64_t step) {
  constexpr int kAtOnce = 1024;
  constexpr size_t kCopiedAtOnce = 65'536;
  // Longer than it takes to wake up: whoever waits for the lock has it before the next rows.
  constexpr auto kPause = std::chrono::microseconds(100);
  SIBYL_RETURN_IF_ERROR(CheckScores(update));
  if (update.reset()) {
    held_back_.clear();
    held_back_rows_ = 0;
  }
  held_back_rows_ += update.id_size() + update.removed_size() + 1;
  if (update.more() && held_back_rows_ > std::max(kMostHeldBackRows, 16 * capacity_)) {
    const size_t rows = std::exchange(held_back_rows_, 0);
    held_back_.clear();
    return absl::InvalidArgumentError(absl::StrCat("a ScoreUpdate has more than ", rows, " rows in its parts"));
  }
  held_back_.push_back(update);
  if (update.more()) return absl::OkStatus();
  const std::vector<v1::ScoreUpdate> parts = std::exchange(held_back_, {});
  held_back_rows_ = 0;
  const auto entries = [](const v1::ScoreUpdate& part) { return part.removed_size() + part.id_size(); };
  const auto finish = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const v1::ScoreUpdate& part : parts) {
      if (part.has_transform()) transform_ = part.transform();
      score_version_ = part.score_version();
    }
  };
  if (parts.size() == 1 && !update.reset() && entries(update) <= kAtOnce) {
    MutexLock lock(mutex_);
    ApplyEntries(update, 0, entries(update), step, &row_scores_);
    finish();
    return absl::OkStatus();
  }

  // Only the first part can empty the table.
  const bool reset = parts[0].reset();
  size_t rows = 0;
  {
    MutexLock lock(mutex_);
    rows = row_scores_.size();
  }
  std::vector<Score> next(rows), old;
  decltype(waiting_) old_waiting;  // freed without the lock, like `old`
  decltype(waiting_order_) old_order;
  {
    MutexLock lock(mutex_);
    next.resize(row_scores_.size());
    next_row_scores_.swap(next);
    applying_ = true;
    copied_ = 0;
    if (reset) {
      copied_ = std::numeric_limits<size_t>::max();
      old_waiting.swap(waiting_);
      old_order.swap(waiting_order_);
    }
  }
  for (bool copied = reset; !copied;) {
    MutexLock lock(mutex_);
    const size_t end = std::min(copied_ + kCopiedAtOnce, row_scores_.size());
    std::copy(row_scores_.begin() + static_cast<ptrdiff_t>(copied_), row_scores_.begin() + static_cast<ptrdiff_t>(end),
              next_row_scores_.begin() + static_cast<ptrdiff_t>(copied_));
    copied = end == row_scores_.size();
    copied_ = copied ? std::numeric_limits<size_t>::max() : end;
  }
  for (const v1::ScoreUpdate& part : parts) {
    for (int begin = 0; begin < entries(part); begin += kAtOnce) {
      {
        MutexLock lock(mutex_);
        ApplyEntries(part, begin, std::min(begin + kAtOnce, entries(part)), step, &next_row_scores_);
      }
      std::this_thread::sleep_for(kPause);
    }
  }
  MutexLock lock(mutex_);
  old.swap(row_scores_);
  row_scores_.swap(next_row_scores_);
  applying_ = false;
  finish();
  return absl::OkStatus();
}

void CaptionTable::Rewards(absl::Span<const int32_t> rows, uint64_t step, CaptionReward* rewards) const {
  MutexLock lock(mutex_);
  for (size_t i = 0; i < rows.size(); ++i) {
    rewards[i] = {};
    const Score& score = row_scores_[rows[i]];
    if (!score.known) continue;
    rewards[i].scored = true;
    rewards[i].reward = RewardFor(score);
    rewards[i].age = step - std::min(step, score.step);
  }
}

float CaptionTable::RewardFor(const Score& score) const {
  const float y = (score.value - transform_.mean()) / (transform_.deviation() > 0 ? transform_.deviation() : 1.0f);
  return y <= transform_.threshold() ? 0.0f : transform_.binary() ? 1.0f : y;
}

void CaptionTable::RewardsOf(absl::Span<const uint64_t> ids, float* rewards) const {
  MutexLock lock(mutex_);
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto row = row_of_.find(ids[i]);
    const bool known = row != row_of_.end() && row_scores_[row->second].known;
    rewards[i] = known ? RewardFor(row_scores_[row->second]) : 0;
  }
}

void CaptionTable::Ids(absl::Span<const int32_t> rows, uint64_t* ids) const {
  MutexLock lock(mutex_);
  for (size_t i = 0; i < rows.size(); ++i) ids[i] = rows_[rows[i]].id;
}

size_t CaptionTable::size() const {
  MutexLock lock(mutex_);
  return row_of_.size();
}

uint64_t CaptionTable::pins() const {
  MutexLock lock(mutex_);
  return pins_;
}

uint64_t CaptionTable::collisions() const {
  MutexLock lock(mutex_);
  return collisions_;
}

uint64_t CaptionTable::evicted() const {
  MutexLock lock(mutex_);
  return evicted_;
}

uint64_t CaptionTable::score_version() const {
  MutexLock lock(mutex_);
  return score_version_;
}

size_t CaptionTable::text_bytes() const {
  MutexLock lock(mutex_);
  return text_bytes_;
}

size_t CaptionTable::scores_without_row() const {
  MutexLock lock(mutex_);
  return waiting_.size();
}

uint64_t CaptionTable::scores_dropped() const {
  MutexLock lock(mutex_);
  return scores_dropped_;
}

size_t CaptionTable::bytes() const {
  constexpr size_t kListNode = 2 * sizeof(void*) + sizeof(uint64_t);
  MutexLock lock(mutex_);
  return rows_.capacity() * sizeof(Row) + (row_scores_.capacity() + next_row_scores_.capacity()) * sizeof(Score) +
         text_bytes_ + row_of_.capacity() * (sizeof(uint64_t) + sizeof(int32_t) + 9) +
         waiting_.capacity() * (sizeof(uint64_t) + sizeof(WaitingScore) + 1) + waiting_order_.size() * kListNode;
}

bool CaptionTable::SavePiece(int32_t* next_row, google::protobuf::RepeatedPtrField<v1::CaptionState>* captions) const {
  constexpr int32_t kRowsAPiece = 4096;
  MutexLock lock(mutex_);
  const int32_t end = std::min(*next_row + kRowsAPiece, static_cast<int32_t>(rows_.size()));
  for (; *next_row < end; ++*next_row) {
    const Row& row = rows_[*next_row];
    if (row.id == 0) continue;
    v1::CaptionState* state = captions->Add();
    state->set_id(row.id);
    state->set_text(row.text);
    state->set_context(row.context);
    state->set_count(row.count);
    state->set_last_step(row.last_step);
    if (const Score& score = row_scores_[*next_row]; score.known) state->set_reward(RewardFor(score));
  }
  return *next_row < static_cast<int32_t>(rows_.size());
}

void CaptionTable::Save(google::protobuf::RepeatedPtrField<v1::CaptionState>* captions) const {
  captions->Clear();
  int32_t next_row = 0;
  while (SavePiece(&next_row, captions)) {
  }
}

void CaptionTable::Load(const google::protobuf::RepeatedPtrField<v1::CaptionState>& captions) {
  std::vector<const v1::CaptionState*> in_order;
  for (const v1::CaptionState& state : captions) in_order.push_back(&state);
  std::stable_sort(in_order.begin(), in_order.end(), [](const v1::CaptionState* a, const v1::CaptionState* b) {
    return a->last_step() < b->last_step();
  });
  MutexLock lock(mutex_);
  for (const v1::CaptionState* state : in_order) {
    if (state->id() == 0) continue;
    Row& row = rows_[RowFor(state->id())];
    if (row.text.empty()) SetText(row, state->text(), state->context());
    row.count = row.since = state->count();
    row.last_step = state->last_step();
    while (text_bytes_ > max_text_bytes_ && ForgetOldest()) {
    }
  }
}

}  // namespace sibyl::learner
