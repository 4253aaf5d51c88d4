#include "learner/experience/caption_table.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "common/caption.h"

namespace sibyl::learner {

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

int32_t CaptionTable::RowFor(uint64_t id) {
  const auto [it, is_new] = row_of_.try_emplace(id, 0);
  if (!is_new) return it->second;
  int32_t row = 0;
  if (row_of_.size() > capacity_) {
    // Unrolls name only recent captions, so the search ends at once unless the table is hardly larger than they are.
    int32_t victim = oldest_;
    while (victim != 0 && rows_[victim].pins > 0) victim = rows_[victim].newer;
    if (victim != 0) {
      Unlink(victim);
      row_of_.erase(rows_[victim].id);
      text_bytes_ -= rows_[victim].text.size() + rows_[victim].context.size();
      const bool listed = rows_[victim].changed;
      rows_[victim] = Row();
      rows_[victim].changed = listed;  // its place in changed_ goes to the new caption
      row = victim;
      ++evicted_;
    }
  }
  if (row == 0) {
    if (!free_.empty()) {
      row = free_.back();
      free_.pop_back();
    } else {
      row = static_cast<int32_t>(rows_.size());
      rows_.emplace_back();
    }
  }
  rows_[row].id = id;
  const auto score = scores_.find(id);
  SetRowScore(row, score != scores_.end() ? score->second : Score());
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
  if (all) {
    for (int32_t row = newest_; row != 0; row = rows_[row].older) MarkChanged(row);
  }
  v1::CaptionCounts counts;
  while (!changed_.empty() && static_cast<size_t>(counts.id_size()) < limit) {
    const int32_t row = changed_.back();
    changed_.pop_back();
    Row& r = rows_[row];
    r.changed = false;
    if (r.id == 0) continue;
    counts.add_id(r.id);
    counts.add_count(r.count - r.since);
    counts.add_last_step(r.last_step);
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

void CaptionTable::ApplyEntries(const v1::ScoreUpdate& update, int begin, int end, uint64_t step,
                                std::vector<Score>* row_scores) {
  const auto set = [&](uint64_t id, const Score& score) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (score.known) {
      scores_[id] = score;
    } else {
      scores_.erase(id);
    }
    if (const auto it = row_of_.find(id); it != row_of_.end()) (*row_scores)[it->second] = score;
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

void CaptionTable::Apply(const v1::ScoreUpdate& update, uint64_t step) {
  constexpr int kAtOnce = 1024;
  // Longer than it takes to wake up: whoever waits for the lock has it before the next rows.
  constexpr auto kPause = std::chrono::microseconds(100);
  if (update.reset()) held_back_.clear();
  held_back_.push_back(update);
  if (update.more()) return;
  const std::vector<v1::ScoreUpdate> parts = std::exchange(held_back_, {});
  const auto entries = [](const v1::ScoreUpdate& part) {
    return part.removed_size() + std::min(part.id_size(), part.score_size());
  };
  const auto finish = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const v1::ScoreUpdate& part : parts) {
      if (part.has_transform()) transform_ = part.transform();
      score_version_ = part.version();
    }
  };
  if (parts.size() == 1 && !update.reset() && entries(update) <= kAtOnce) {
    MutexLock lock(mutex_);
    ApplyEntries(update, 0, entries(update), step, &row_scores_);
    finish();
    return;
  }
  {
    MutexLock lock(mutex_);
    applying_ = true;
    next_row_scores_ = row_scores_;
  }
  for (const v1::ScoreUpdate& part : parts) {
    if (part.reset()) {
      absl::flat_hash_map<uint64_t, Score> old;  // freed without the lock
      MutexLock lock(mutex_);
      old.swap(scores_);
      std::fill(next_row_scores_.begin(), next_row_scores_.end(), Score());
    }
    for (int begin = 0; begin < entries(part); begin += kAtOnce) {
      {
        MutexLock lock(mutex_);
        ApplyEntries(part, begin, std::min(begin + kAtOnce, entries(part)), step, &next_row_scores_);
      }
      std::this_thread::sleep_for(kPause);
    }
  }
  std::vector<Score> old;
  MutexLock lock(mutex_);
  old.swap(row_scores_);
  row_scores_.swap(next_row_scores_);
  applying_ = false;
  finish();
}

void CaptionTable::Rewards(absl::Span<const int32_t> rows, uint64_t step, CaptionReward* rewards) const {
  MutexLock lock(mutex_);
  const float deviation = transform_.deviation() > 0 ? transform_.deviation() : 1.0f;
  for (size_t i = 0; i < rows.size(); ++i) {
    rewards[i] = {};
    const Score& score = row_scores_[rows[i]];
    if (!score.known) continue;
    const float y = (score.value - transform_.mean()) / deviation;
    rewards[i].scored = true;
    rewards[i].reward = y <= transform_.threshold() ? 0.0f : transform_.binary() ? 1.0f : y;
    rewards[i].age = step - std::min(step, score.step);
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

size_t CaptionTable::bytes() const {
  MutexLock lock(mutex_);
  return rows_.capacity() * sizeof(Row) + (row_scores_.capacity() + next_row_scores_.capacity()) * sizeof(Score) +
         text_bytes_ + row_of_.capacity() * (sizeof(uint64_t) + sizeof(int32_t) + 9) +
         scores_.capacity() * (sizeof(uint64_t) + sizeof(Score) + 1);
}

void CaptionTable::Save(google::protobuf::RepeatedPtrField<v1::CaptionState>* captions) const {
  MutexLock lock(mutex_);
  captions->Clear();
  for (int32_t row = oldest_; row != 0; row = rows_[row].newer) {
    v1::CaptionState* state = captions->Add();
    state->set_id(rows_[row].id);
    state->set_text(rows_[row].text);
    state->set_context(rows_[row].context);
    state->set_count(rows_[row].count);
    state->set_last_step(rows_[row].last_step);
  }
}

void CaptionTable::Load(const google::protobuf::RepeatedPtrField<v1::CaptionState>& captions) {
  MutexLock lock(mutex_);
  for (const v1::CaptionState& state : captions) {
    Row& row = rows_[RowFor(state.id())];
    if (row.text.empty()) SetText(row, state.text(), state.context());
    row.count = row.since = state.count();
    row.last_step = state.last_step();
  }
}

}  // namespace sibyl::learner
