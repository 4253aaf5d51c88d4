#include "learner/experience/unroll_writer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/columns.h"
#include "common/status_macros.h"
#include "common/step_flags.h"

namespace sibyl::learner {

UnrollWriter::UnrollWriter(const v1::EnvironmentSpec& spec, const Feedback* feedback, bool told_by_actor,
                           const ExperienceBooks& books, uint32_t slot, int groups, int rows)
    : feedback_(feedback),
      told_by_actor_(told_by_actor),
      rows_(rows),
      observation_bytes_(books.unrolls->shape().observation_bytes - feedback->bytes()),
      row_bytes_(books.unrolls->shape().observation_bytes),
      action_bytes_(books.unrolls->shape().action_bytes),
      value_heads_(books.unrolls->shape().value_heads),
      unroll_length_(books.unrolls->shape().length),
      counts_observations_(books.unrolls->shape().counts_observations),
      slot_(slot),
      books_(books),
      check_(spec, rows, books.unrolls->shape().counts_observations, told_by_actor ? feedback->reward_numbers() : 0),
      tracks_(groups * rows),
      next_sequence_(groups),
      unpackers_(groups) {}

UnrollWriter::~UnrollWriter() {
  Unrolls unfinished;
  std::vector<int32_t> pinned;
  uint64_t abandoned = 0;
  for (Track& track : tracks_) {
    abandoned += track.playing;
    if (track.unroll == nullptr) {
      pinned.push_back(track.begin.caption);
      continue;
    }
    const std::vector<int32_t> named = track.unroll->CaptionRows(track.t);
    pinned.insert(pinned.end(), named.begin(), named.end());
    unfinished.push_back(std::move(track.unroll));
  }
  books_.captions->Unpin(pinned);
  books_.unrolls->Release(std::move(unfinished));
  books_.episodes->Abandon(abandoned);
}

absl::Status UnrollWriter::Check(const v1::StepBatch& step, int ahead) const {
  if (step.group() >= next_sequence_.size()) {
    return absl::InvalidArgumentError(absl::StrCat("group ", step.group(), " of ", next_sequence_.size()));
  }
  return check_.CheckStep(step, next_sequence_[step.group()] + ahead);
}

absl::Status UnrollWriter::Write(const v1::StepBatch& step, std::vector<uint64_t>* textless) {
  absl::string_view observations, finals;
  SIBYL_RETURN_IF_ERROR(unpackers_[step.group()].Unpack(step.observation(), observation_bytes_, &observations));
  if (step.final_observation().rows() > 0) {
    SIBYL_RETURN_IF_ERROR(final_unpacker_.Unpack(step.final_observation(), observation_bytes_, &finals));
  }
  SIBYL_RETURN_IF_ERROR(check_.CheckObservations(observations));
  SIBYL_RETURN_IF_ERROR(check_.CheckMasks(observations));
  SIBYL_RETURN_IF_ERROR(check_.CheckObservations(finals));
  ++next_sequence_[step.group()];

  // Captions: entry 2i is what the action led to, entry 2i + 1 the next episode's first where an episode starts.
  ids_.assign(2 * rows_, 0);
  for (size_t row = 0, first = 0; row < rows_; ++row) {
    ids_[2 * row] = EntryOf<uint64_t>(step.caption_id(), row);
    if (step.flags()[row] & kStepFirst) ids_[2 * row + 1] = EntryOf<uint64_t>(step.first_caption_id(), first++);
  }
  caption_rows_.resize(ids_.size());
  books_.captions->See(ids_, books_.steps->received(), caption_rows_.data());
  if (step.texts_size() > 0) books_.captions->AddTexts(step.texts());
  const std::vector<uint64_t> missing = books_.captions->WithoutText(caption_rows_);
  textless->insert(textless->end(), missing.begin(), missing.end());
  books_.episodes->Add(step.episodes());
  if (step.sequence() > 0) TellRewards(step);

  pinned_again_.clear();
  Unrolls finished;
  size_t first = 0;
  for (size_t row = 0; row < rows_; ++row, observations.remove_prefix(observation_bytes_)) {
    Track& track = tracks_[step.group() * rows_ + row];
    const unsigned char flags = step.flags()[row];
    const int32_t paid = caption_rows_[2 * row];
    const uint32_t paid_count = EntryOf<uint32_t>(step.caption_count(), row);
    Begun& begin = track.begin;
    begin.first = (flags & kStepFirst) != 0;
    if (begin.first) {
      begin.caption = caption_rows_[2 * row + 1];
      begin.count = begin.caption != 0 ? 1 : 0;
      begin.episode = EntryOf<uint64_t>(step.first_episode(), first++);
    } else {
      begin.caption = paid;
      begin.count = paid_count;
    }
    track.playing = true;
    const bool ended = (flags & (kStepTerminated | kStepTruncated)) != 0;
    const absl::string_view shown = observations.substr(0, observation_bytes_);
    const absl::string_view led_to = ended ? finals.substr(0, observation_bytes_) : shown;
    if (ended) finals.remove_prefix(observation_bytes_);
    track.observation.assign(shown.data(), shown.size());
    track.observation.resize(row_bytes_, '\0');
    if (Unroll* unroll = track.unroll.get(); unroll != nullptr) {
      const int t = track.t;
      unroll->reward[t] = EntryOf<float>(step.reward(), row);
      unroll->terminated[t] = (flags & kStepTerminated) != 0;
      unroll->truncated[t] = (flags & kStepTruncated) != 0;
      unroll->paid_caption[t] = paid;
      unroll->paid_count[t] = paid_count;
      if (!begin.first) pinned_again_.push_back(paid);  // seen once, named by paid_caption and seen_caption
      if (counts_observations_) unroll->observation_count[t] = EntryOf<uint32_t>(step.observation_count(), row);
      const auto tell = [&](std::string* observation) {
        observation->resize(row_bytes_);
        feedback_->Write(&unroll->action[t * action_bytes_], told_rewards_.data() + row * feedback_->reward_numbers(),
                         observation->data() + observation_bytes_);
      };
      if (unroll->truncated[t]) {
        unroll->finals.push_back({t, std::string(led_to)});
        tell(&unroll->finals.back().observation);
      }
      if (!begin.first) tell(&track.observation);
      ++track.t;
      Place(track);
      if (track.t < unroll_length_) continue;
      pinned_again_.push_back(begin.caption);  // named by this unroll and the next
      finished.push_back(std::move(track.unroll));
    }
  }
  books_.captions->Pin(pinned_again_);
  books_.unrolls->Finish(std::move(finished));
  if (step.sequence() > 0) books_.steps->Add(rows_);
  return absl::OkStatus();
}

void UnrollWriter::TellRewards(const v1::StepBatch& step) {
  const size_t R = feedback_->reward_numbers();
  if (R == 0) return;
  told_rewards_.resize(rows_ * R);
  if (told_by_actor_) {
    std::memcpy(told_rewards_.data(), step.last_rewards().data(), step.last_rewards().size());
    return;
  }
  // The caption before the action, and the one that it led to.
  caption_rewards_.assign(2 * rows_, {});
  if (feedback_->reads_captions()) {
    looked_up_.resize(2 * rows_);
    for (size_t row = 0; row < rows_; ++row) {
      looked_up_[2 * row] = tracks_[step.group() * rows_ + row].begin.caption;
      looked_up_[2 * row + 1] = caption_rows_[2 * row];
    }
    books_.captions->Rewards(looked_up_, books_.steps->received(), caption_rewards_.data());
  }
  for (size_t row = 0; row < rows_; ++row) {
    Payment payment;
    payment.extrinsic = EntryOf<float>(step.reward(), row);
    payment.before = {caption_rewards_[2 * row].reward, tracks_[step.group() * rows_ + row].begin.count};
    payment.after = {caption_rewards_[2 * row + 1].reward, EntryOf<uint32_t>(step.caption_count(), row)};
    payment.terminated = (step.flags()[row] & kStepTerminated) != 0;
    if (counts_observations_) payment.observation_count = EntryOf<uint32_t>(step.observation_count(), row);
    feedback_->Rewards(payment, &told_rewards_[row * R]);
  }
}

void UnrollWriter::Place(Track& track) {
  Unroll& unroll = *track.unroll;
  std::memcpy(&unroll.observation[track.t * row_bytes_], track.observation.data(), row_bytes_);
  unroll.first[track.t] = track.begin.first;
  unroll.episode[track.t] = track.begin.episode;
  unroll.seen_caption[track.t] = track.begin.caption;
  unroll.seen_count[track.t] = track.begin.count;
}

int UnrollWriter::Lacking(int group) const {
  return tracks_[group * rows_].unroll == nullptr ? static_cast<int>(rows_) : 0;
}

void UnrollWriter::Begin(int group, Unrolls unrolls) {
  for (size_t row = 0; row < rows_; ++row) {
    const uint32_t environment = static_cast<uint32_t>(group * rows_ + row);
    Track& track = tracks_[environment];
    track.unroll = std::move(unrolls[row]);
    track.t = 0;
    track.unroll->slot = slot_;
    track.unroll->environment = environment;
    Place(track);
  }
}

void UnrollWriter::WriteDecision(int environment, const Decision& decision) {
  Track& track = tracks_[environment];
  Unroll& unroll = *track.unroll;
  std::memcpy(&unroll.action[track.t * action_bytes_], decision.action, action_bytes_);
  unroll.log_prob[track.t] = decision.log_prob;
  std::copy_n(decision.value, value_heads_, unroll.value.begin() + track.t * value_heads_);
  unroll.policy_version[track.t] = decision.policy_version;
  if (track.t == 0) std::copy_n(decision.state, unroll.state.size(), unroll.state.begin());
}

const char* UnrollWriter::Observation(int environment) const {
  const Track& track = tracks_[environment];
  return &track.unroll->observation[track.t * row_bytes_];
}

}  // namespace sibyl::learner
