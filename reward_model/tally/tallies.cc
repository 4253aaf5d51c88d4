#include "reward_model/tally/tallies.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"

namespace sibyl::reward_model {
namespace {

std::string JudgeName(const std::string& judge, const std::string& prompt) {
  if (judge.empty()) return "unknown";
  return prompt.empty() ? judge : absl::StrCat(judge, " with prompt ", prompt);
}

}  // namespace

Tallies::Log Tallies::Follow(const v1::DescribeResponse& annotator) {
  if (annotator.judge() != judge_ || annotator.prompt() != prompt_) {
    if (next_sequence_ > 1) {
      spdlog::warn("the judge was {} and is now {}: the labels of the former are dropped", JudgeName(judge_, prompt_),
                   JudgeName(annotator.judge(), annotator.prompt()));
    }
    judge_ = annotator.judge();
    prompt_ = annotator.prompt();
    log_id_ = annotator.log_id();
    Clear();
    return Log::kOtherJudge;
  }
  const std::string before = std::exchange(log_id_, annotator.log_id());
  const bool same = before.empty() || before == log_id_;
  if (same && next_sequence_ <= annotator.labels() + 1) return Log::kSame;
  spdlog::warn(
      "the label log {} was read up to {}, but the annotator has {}, which ends at {}: that is another log, which is "
      "read from its beginning; labels that it lacks are kept",
      before, next_sequence_ - 1, log_id_, annotator.labels());
  next_sequence_ = 1;
  // Early labels are of the lost log too, and count like the others that are.
  for (const auto& [id, early] : early_) AddTo(entries_[id].tally, early.vote);
  early_.clear();
  ++log_;
  return Log::kAnother;
}

Tally Tallies::Of(uint64_t id) const {
  Tally tally;
  if (const auto it = entries_.find(id); it != entries_.end()) tally = it->second.tally;
  if (const auto it = early_.find(id); it != early_.end()) AddTo(tally, it->second.vote);
  return tally;
}

Tally Tallies::Settled(uint64_t id) const {
  Tally tally;
  if (const auto it = entries_.find(id); it != entries_.end()) tally = it->second.tally;
  const auto it = early_.find(id);
  if (it != early_.end() && it->second.sequence < next_sequence_) AddTo(tally, it->second.vote);
  return tally;
}

uint32_t Tallies::LogOf(uint64_t id) const {
  const auto it = entries_.find(id);
  return it == entries_.end() ? log_ : it->second.log;
}

bool Tallies::IsSuperseded(uint64_t id) const {
  const auto it = entries_.find(id);
  return it != entries_.end() && it->second.tally.labels() > 0 && it->second.log != log_;
}

void Tallies::Add(uint64_t id, Vote vote) {
  CountOut(id);
  Entry& entry = entries_[id];
  if (entry.log != log_) entry.tally = {};
  entry.log = log_;
  AddTo(entry.tally, vote);
  CountIn(id);
}

void Tallies::AddEarly(uint64_t id, uint64_t sequence, Vote vote) {
  CountOut(id);
  if (IsSuperseded(id)) entries_.erase(id);
  early_[id] = {sequence, vote};
  CountIn(id);
}

bool Tallies::SettleEarly(uint64_t id, uint64_t sequence) {
  const auto it = early_.find(id);
  if (it == early_.end() || it->second.sequence != sequence) return false;
  const Vote vote = it->second.vote;
  CountOut(id);
  early_.erase(it);
  CountIn(id);
  Add(id, vote);
  return true;
}

void Tallies::Forget(uint64_t id) {
  CountOut(id);
  entries_.erase(id);
  early_.erase(id);
}

void Tallies::RestoreLog(const std::string& judge, const std::string& prompt, const std::string& log_id,
                         uint64_t next_sequence, uint32_t log) {
  judge_ = judge;
  prompt_ = prompt;
  log_id_ = log_id;
  next_sequence_ = std::max<uint64_t>(1, next_sequence);
  log_ = log;
}

void Tallies::Restore(uint64_t id, const Tally& tally, uint32_t log) {
  Forget(id);
  if (tally.labels() == 0) return;
  entries_[id] = {tally, log};
  CountIn(id);
}

size_t Tallies::bytes() const {
  return entries_.capacity() * (sizeof(uint64_t) + sizeof(Entry) + 1) +
         early_.capacity() * (sizeof(uint64_t) + sizeof(EarlyLabel) + 1);
}

void Tallies::AddTo(Tally& tally, Vote vote) {
  if (vote.answered) {
    ++tally.answers;
    tally.good_sum += vote.good;
  } else {
    ++tally.unanswered;
  }
}

void Tallies::CountOut(uint64_t id) {
  const Tally tally = Of(id);
  captions_labelled_ -= tally.answers > 0;
  labels_without_answer_ -= tally.unanswered;
}

void Tallies::CountIn(uint64_t id) {
  const Tally tally = Of(id);
  captions_labelled_ += tally.answers > 0;
  labels_without_answer_ += tally.unanswered;
}

void Tallies::Clear() {
  entries_.clear();
  early_.clear();
  next_sequence_ = 1;
  captions_labelled_ = labels_without_answer_ = 0;
}

}  // namespace sibyl::reward_model
