#include "actor/player.h"

#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/caption.h"
#include "common/columns.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"

namespace sibyl::actor {

bool TextMemory::Remember(uint64_t id, const std::string& text) {
  if (auto it = by_id_.find(id); it != by_id_.end()) {
    entries_.splice(entries_.begin(), entries_, it->second);
    return false;
  }
  if (entries_.size() >= capacity_ && !entries_.empty()) {
    by_id_.erase(entries_.back().id);
    text_bytes_ -= entries_.back().text.size();
    entries_.pop_back();
  }
  entries_.push_front({id, text});
  by_id_[id] = entries_.begin();
  text_bytes_ += text.size();
  return true;
}

const std::string* TextMemory::Find(uint64_t id) const {
  auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &it->second->text;
}

absl::StatusOr<std::vector<std::unique_ptr<Environment>>> Player::MakeEnvironments(const v1::ActorWelcome& welcome) {
  if (welcome.groups() == 0 || welcome.environments() % welcome.groups() != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the learner asks for ", welcome.environments(), " environments in ",
                                                   welcome.groups(), " groups"));
  }
  std::vector<std::unique_ptr<Environment>> environments;
  EnvironmentOptions options;
  options.max_episode_steps = welcome.max_episode_steps();
  for (uint32_t i = 0; i < welcome.environments(); ++i) {
    SIBYL_ASSIGN_OR_RETURN(auto environment, MakeEnvironment(welcome.environment(), options));
    environments.push_back(std::move(environment));
  }
  return environments;
}

Player::Player(const v1::ActorWelcome& welcome, const std::vector<std::unique_ptr<Environment>>* environments)
    : slot_(welcome.lease().slot()),
      run_seed_(welcome.run_seed()),
      caption_rule_(welcome.caption_rule()),
      max_caption_length_(welcome.max_caption_length()),
      send_context_(welcome.send_context()),
      stagger_(welcome.stagger()),
      groups_(static_cast<int>(welcome.groups())),
      rows_(static_cast<int>(welcome.environments() / welcome.groups())),
      action_bytes_(ActionBytes(environments->front()->spec().action())),
      environments_(environments),
      running_(environments->size()),
      next_episode_(environments->size(), welcome.episodes().begin()),
      last_episode_(welcome.episodes().end()),
      texts_(std::max<uint32_t>(welcome.text_memory(), 1)) {
  for (const auto& array : environments_->front()->spec().observation()) {
    array_offsets_.push_back(observation_bytes_);
    observation_bytes_ += Bytes(array);
  }
  observations_.resize(rows_ * observation_bytes_);
}

void Player::AddEpisodes(const v1::EpisodeBlock& block) {
  // A block that does not go on from the last one replaces it.
  if (block.begin() > last_episode_) {
    for (uint64_t& next : next_episode_) next = std::max(next, block.begin());
  }
  last_episode_ = std::max(last_episode_, block.end());
}

ObservationBuffers Player::Buffers(char* observation) {
  buffers_.clear();
  for (size_t offset : array_offsets_) buffers_.push_back(observation + offset);
  return buffers_;
}

absl::Status Player::Reset(int environment, char* observation) {
  if (next_episode_[environment] >= last_episode_) {
    return absl::ResourceExhaustedError(absl::StrCat("environment ", environment, " of slot ", slot_,
                                                     " has no episode number left after ", last_episode_));
  }
  Episode& episode = running_[environment];
  episode.number = next_episode_[environment]++;
  episode.length = 0;
  episode.episode_return = 0;
  episode.cut_off_at = 0;
  episode.caption_counts.clear();
  const uint64_t seed = EpisodeSeed(run_seed_, slot_, environment, episode.number);
  return (*environments_)[environment]->Reset(seed, Buffers(observation));
}

std::pair<uint64_t, uint32_t> Player::TakeCaption(int environment, v1::StepBatch* batch) {
  const absl::string_view raw = (*environments_)[environment]->Caption();
  if (raw.empty()) return {0, 0};
  bool cut = false;
  std::string text = CanonicalCaption(raw, caption_rule_, max_caption_length_, &cut);
  cut_captions_ += cut;
  const uint64_t id = CaptionId(text);
  if (id == 0) return {0, 0};
  const uint32_t count = ++running_[environment].caption_counts[id];
  if (texts_.Remember(id, text)) {
    v1::CaptionText* sent = batch->add_texts();
    sent->set_id(id);
    sent->set_text(std::move(text));
    if (send_context_) sent->set_context((*environments_)[environment]->Context());
  }
  return {id, count};
}

absl::Status Player::Start(int group, v1::StepBatch* batch) {
  batch->set_group(group);
  batch->set_sequence(0);
  finals_.clear();
  for (int row = 0; row < rows_; ++row) {
    const int environment = group * rows_ + row;
    SIBYL_RETURN_IF_ERROR(Reset(environment, &observations_[row * observation_bytes_]));
    Episode& episode = running_[environment];
    const uint32_t longest = (*environments_)[environment]->spec().max_episode_steps();
    if (stagger_ && longest > 0) {
      episode.cut_off_at = 1 + Random(EpisodeSeed(run_seed_, slot_, environment, episode.number)).Below(longest);
    }
    AppendTo<float>(batch->mutable_reward(), 0);
    batch->mutable_flags()->push_back(static_cast<char>(kFirst));
    AppendTo<uint64_t>(batch->mutable_caption_id(), 0);
    AppendTo<uint32_t>(batch->mutable_caption_count(), 0);
    AppendTo<uint64_t>(batch->mutable_first_caption_id(), TakeCaption(environment, batch).first);
    AppendTo<uint64_t>(batch->mutable_first_episode(), episode.number);
  }
  return absl::OkStatus();
}

absl::Status Player::Step(const v1::ActionBatch& actions, v1::StepBatch* batch) {
  const int group = static_cast<int>(actions.group());
  if (group >= groups_ || actions.action().size() != rows_ * action_bytes_) {
    return absl::InvalidArgumentError(absl::StrCat("actions for group ", group, " with ",
                                                   actions.action().size(), " bytes; there are ", groups_,
                                                   " groups of ", rows_, " rows of ", action_bytes_, " bytes"));
  }
  const v1::EnvironmentSpec& spec = environments_->front()->spec();
  SIBYL_RETURN_IF_ERROR(CheckActions(spec.action(), actions.action()));
  batch->set_group(group);
  batch->set_sequence(actions.sequence() + 1);
  finals_.clear();
  for (int row = 0; row < rows_; ++row) {
    const int index = group * rows_ + row;
    Environment& environment = *(*environments_)[index];
    Episode& episode = running_[index];
    action_.assign(actions.action(), row * action_bytes_, action_bytes_);
    if (spec.action().has_box()) ScaleToBounds(spec.action().box(), action_.data());
    char* observation = &observations_[row * observation_bytes_];
    SIBYL_ASSIGN_OR_RETURN(const StepResult result, environment.Step(ActionView(action_.data()), Buffers(observation)));
    ++steps_;
    ++episode.length;
    episode.episode_return += result.reward;
    const auto [caption, count] = TakeCaption(index, batch);
    AppendTo(batch->mutable_reward(), result.reward);
    AppendTo(batch->mutable_caption_id(), caption);
    AppendTo(batch->mutable_caption_count(), count);
    const bool cut_off = !result.terminated && !result.truncated && episode.length == episode.cut_off_at;
    unsigned char flags = (result.terminated ? kTerminated : 0) | (result.truncated || cut_off ? kTruncated : 0);
    if (flags != 0) {
      finals_.append(observation, observation_bytes_);
      v1::EpisodeEnd* end = batch->add_episodes();
      end->set_row(row);
      end->set_episode(episode.number);
      end->set_length(episode.length);
      end->set_episode_return(episode.episode_return);
      end->set_success(environment.Success());
      end->set_cut_off(cut_off);
      for (double figure : environment.Figures()) end->add_figures(figure);
      if (!cut_off) ++episodes_;
      SIBYL_RETURN_IF_ERROR(Reset(index, observation));
      flags |= kFirst;
      AppendTo<uint64_t>(batch->mutable_first_caption_id(), TakeCaption(index, batch).first);
      AppendTo<uint64_t>(batch->mutable_first_episode(), episode.number);
    }
    batch->mutable_flags()->push_back(static_cast<char>(flags));
  }
  return absl::OkStatus();
}

void StepPacker::Pack(const Player& player, v1::StepBatch* batch) {
  packer_.Pack(player.observations(), static_cast<int>(batch->flags().size()), batch->mutable_observation());
  if (batch->episodes_size() > 0) {
    final_packer_.Pack(player.final_observations(), batch->episodes_size(), batch->mutable_final_observation());
  }
}

v1::CaptionTexts Player::Texts(const v1::CaptionTextRequest& request) const {
  v1::CaptionTexts texts;
  for (uint64_t id : request.ids()) {
    if (const std::string* text = texts_.Find(id)) {
      v1::CaptionText* found = texts.add_texts();
      found->set_id(id);
      found->set_text(*text);
    }
  }
  return texts;
}

}  // namespace sibyl::actor
