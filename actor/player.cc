#include "actor/player.h"

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/caption.h"
#include "common/columns.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "common/step_flags.h"
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

absl::StatusOr<EnvironmentGroups> MakeEnvironments(const v1::ActorWelcome& welcome) {
  if (welcome.groups() == 0 || welcome.environments() % welcome.groups() != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the learner asks for ", welcome.environments(), " environments in ",
                                                   welcome.groups(), " groups"));
  }
  EnvironmentGroups groups;
  GroupOptions options;
  options.environment.max_episode_steps = welcome.max_episode_steps();
  options.contexts = welcome.send_context();
  for (uint32_t i = 0; i < welcome.groups(); ++i) {
    SIBYL_ASSIGN_OR_RETURN(groups.emplace_back(),
                           MakeEnvironmentGroup(welcome.environment(),
                                                static_cast<int>(welcome.environments() / welcome.groups()), options));
  }
  return groups;
}

Player::Player(const v1::ActorWelcome& welcome, const EnvironmentGroups* environments)
    : slot_(welcome.lease().slot()),
      run_seed_(welcome.run_seed()),
      caption_rule_(welcome.caption_rule()),
      max_caption_length_(welcome.max_caption_length()),
      send_context_(welcome.send_context()),
      stagger_(welcome.stagger()),
      count_observations_(welcome.count_observations()),
      rows_(static_cast<int>(welcome.environments() / welcome.groups())),
      spec_(environments->front()->spec()),
      action_bytes_(ActionBytes(spec_.action())),
      observation_bytes_(ObservationBytes(spec_)),
      groups_(environments->size()),
      shown_(&groups_[0]),
      running_(welcome.environments()),
      next_episode_(welcome.environments(), welcome.episodes().begin()),
      last_episode_(welcome.episodes().end()),
      texts_(std::max<uint32_t>(welcome.text_memory(), 1)) {
  for (size_t i = 0; i < groups_.size(); ++i) {
    Group& group = groups_[i];
    group.environments = (*environments)[i].get();
    group.orders.resize(rows_);
    group.observations.resize(rows_ * observation_bytes_);
    group.finals.resize(rows_ * observation_bytes_);
  }
}

void Player::AddEpisodes(const v1::EpisodeBlock& block) {
  // A block that does not go on from the last one replaces it.
  if (block.begin() > last_episode_) {
    for (uint64_t& next : next_episode_) next = std::max(next, block.begin());
  }
  last_episode_ = std::max(last_episode_, block.end());
}

uint64_t Player::SeedOf(int environment, uint64_t episode) const {
  return EpisodeSeed(run_seed_, slot_, environment, episode);
}

absl::Status Player::BeginEpisode(int environment) {
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
  episode.observation_counts.clear();
  return absl::OkStatus();
}

std::pair<uint64_t, uint32_t> Player::TakeCaption(int environment, absl::string_view raw, const std::string& context,
                                                  v1::StepBatch* batch) {
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
    if (send_context_) sent->set_context(context);
  }
  return {id, count};
}

uint32_t Player::Count(int environment, absl::string_view observation) {
  return ++running_[environment].observation_counts[absl::HashOf(observation)];
}

absl::Status Player::Begin(Group& group) {
  const int first = static_cast<int>(&group - groups_.data()) * rows_;
  for (int row = 0; row < rows_; ++row) {
    const Episode& episode = running_[first + row];
    RowOrder& order = group.orders[row];
    order.action = group.actions.empty() ? nullptr : &group.actions[row * action_bytes_];
    order.seed = SeedOf(first + row, next_episode_[first + row]);
    order.cut_off = episode.length + 1 == episode.cut_off_at;
  }
  return group.environments->Start(group.orders, group.observations.data(), group.finals.data());
}

absl::Status Player::StartEpisodes(int group) {
  groups_[group].actions.clear();
  groups_[group].sequence = 0;
  return Begin(groups_[group]);
}

absl::Status Player::StartStep(const v1::ActionBatch& actions) {
  if (actions.group() >= groups_.size() || actions.action().size() != rows_ * action_bytes_) {
    return absl::InvalidArgumentError(absl::StrCat("actions for group ", actions.group(), " with ",
                                                   actions.action().size(), " bytes; there are ", groups_.size(),
                                                   " groups of ", rows_, " rows of ", action_bytes_, " bytes"));
  }
  SIBYL_RETURN_IF_ERROR(CheckActions(spec_.action(), actions.action()));
  Group& group = groups_[actions.group()];
  group.actions = actions.action();
  group.sequence = actions.sequence() + 1;
  if (spec_.action().has_box()) {
    for (int row = 0; row < rows_; ++row) ScaleToBounds(spec_.action().box(), &group.actions[row * action_bytes_]);
  }
  return Begin(group);
}

absl::Status Player::Finish(int group_index, v1::StepBatch* batch) {
  Group& group = groups_[group_index];
  SIBYL_ASSIGN_OR_RETURN(const absl::Span<const RowResult> results, group.environments->Finish());
  shown_ = &group;
  finals_.clear();
  batch->set_group(group_index);
  batch->set_sequence(group.sequence);
  for (int row = 0; row < rows_; ++row) {
    const int environment = group_index * rows_ + row;
    const RowResult& result = results[row];
    const StepResult& step = result.step;
    Episode& episode = running_[environment];
    const bool ended = step.terminated || step.truncated;
    const absl::string_view shown =
        absl::string_view(group.observations).substr(row * observation_bytes_, observation_bytes_);
    const absl::string_view led_to =
        ended ? absl::string_view(group.finals).substr(row * observation_bytes_, observation_bytes_) : shown;
    std::pair<uint64_t, uint32_t> caption;
    uint32_t observation_count = 0;
    if (group.sequence > 0) {
      ++steps_;
      ++episode.length;
      episode.episode_return += step.reward;
      caption = TakeCaption(environment, result.caption, result.context, batch);
      if (count_observations_) observation_count = Count(environment, led_to);
    }
    AppendTo(batch->mutable_reward(), step.reward);
    AppendTo(batch->mutable_caption_id(), caption.first);
    AppendTo(batch->mutable_caption_count(), caption.second);
    if (count_observations_) AppendTo(batch->mutable_observation_count(), observation_count);
    if (ended) {
      finals_.append(led_to.data(), led_to.size());
      v1::EpisodeEnd* end = batch->add_episodes();
      end->set_row(row);
      end->set_episode(episode.number);
      end->set_length(episode.length);
      end->set_episode_return(episode.episode_return);
      end->set_success(result.success);
      end->set_cut_off(result.cut_off);
      for (double figure : result.figures) end->add_figures(figure);
      if (!result.cut_off) ++episodes_;
    }
    if (result.started) {
      SIBYL_RETURN_IF_ERROR(BeginEpisode(environment));
      if (stagger_ && group.sequence == 0 && spec_.max_episode_steps() > 0) {
        episode.cut_off_at = 1 + Random(SeedOf(environment, episode.number)).Below(spec_.max_episode_steps());
      }
      if (count_observations_) Count(environment, shown);
      AppendTo<uint64_t>(batch->mutable_first_caption_id(),
                         TakeCaption(environment, result.first_caption, result.first_context, batch).first);
      AppendTo<uint64_t>(batch->mutable_first_episode(), episode.number);
    }
    batch->mutable_flags()->push_back(static_cast<char>((step.terminated ? kStepTerminated : 0) |
                                                        (step.truncated ? kStepTruncated : 0) |
                                                        (result.started ? kStepFirst : 0)));
  }
  return absl::OkStatus();
}

absl::Status Player::Start(int group, v1::StepBatch* batch) {
  SIBYL_RETURN_IF_ERROR(StartEpisodes(group));
  return Finish(group, batch);
}

absl::Status Player::Step(const v1::ActionBatch& actions, v1::StepBatch* batch) {
  SIBYL_RETURN_IF_ERROR(StartStep(actions));
  return Finish(static_cast<int>(actions.group()), batch);
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
