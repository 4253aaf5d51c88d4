#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/tensor_packing.h"
#include "environments/environment_group.h"
#include "sibyl/v1/act.pb.h"

namespace sibyl::actor {

// Remembers the texts of the captions that a stream has carried, so that each text crosses the stream once. It forgets
// the least recently seen caption beyond `capacity`.
class TextMemory {
 public:
  explicit TextMemory(size_t capacity) : capacity_(capacity) {}

  // True: the caption is new to the stream or was forgotten, so its text has to be sent.
  bool Remember(uint64_t id, const std::string& text);
  // nullptr: the caption is not remembered.
  const std::string* Find(uint64_t id) const;
  // Approximate memory.
  size_t bytes() const { return text_bytes_ + entries_.size() * (sizeof(Entry) + 64); }

 private:
  struct Entry {
    uint64_t id;
    std::string text;
  };
  const size_t capacity_;
  std::list<Entry> entries_;  // most recently seen first
  absl::flat_hash_map<uint64_t, std::list<Entry>::iterator> by_id_;
  size_t text_bytes_ = 0;
};

// The environments of one slot, in groups of as many rows.
using EnvironmentGroups = std::vector<std::unique_ptr<EnvironmentGroup>>;

// Makes the environments that a welcome asks for. Errors of MakeEnvironmentGroup.
absl::StatusOr<EnvironmentGroups> MakeEnvironments(const v1::ActorWelcome& welcome);

// Plays all environments of one slot over the life of one stream. One thread. The observations after Finish are in
// observations() and final_observations(); StepPacker adds them to the batch.
class Player {
 public:
  // The player starts fresh episodes in `environments`, which outlive it.
  Player(const v1::ActorWelcome& welcome, const EnvironmentGroups* environments);

  // Adds episode numbers that the learner has granted.
  void AddEpisodes(const v1::EpisodeBlock& block);

  // Starts an episode in every environment of a group. Where the welcome says `stagger`, these episodes are truncated
  // at a step that their seeds decide. Call it once for a group, before any step of the group.
  absl::Status StartEpisodes(int group);
  // Starts one action in each environment of a group. An environment whose episode ends starts a fresh one.
  // InvalidArgument: the actions do not fit.
  absl::Status StartStep(const v1::ActionBatch& actions);
  // Waits for what StartEpisodes or StartStep began, and writes the results to `batch`. Other groups may be started
  // between the two calls. ResourceExhausted: the episode numbers have run out.
  absl::Status Finish(int group, v1::StepBatch* batch);

  // StartEpisodes or StartStep, then Finish.
  absl::Status Start(int group, v1::StepBatch* batch);
  absl::Status Step(const v1::ActionBatch& actions, v1::StepBatch* batch);

  // The texts that are asked for, as far as they are remembered.
  v1::CaptionTexts Texts(const v1::CaptionTextRequest& request) const;

  // Of the group that was finished last. [rows of a group, bytes of one observation]: what the next actions are for.
  absl::string_view observations() const { return shown_->observations; }
  // [rows whose episode the last step ended, bytes of one observation], by ascending row.
  absl::string_view final_observations() const { return finals_; }

  int groups() const { return static_cast<int>(groups_.size()); }
  uint64_t steps() const { return steps_; }
  uint64_t episodes() const { return episodes_; }
  // Steps whose caption was longer than the run allows.
  uint64_t cut_captions() const { return cut_captions_; }
  size_t text_bytes() const { return texts_.bytes(); }

 private:
  struct Episode {
    uint64_t number = 0;
    uint32_t length = 0;
    double episode_return = 0;
    uint64_t cut_off_at = 0;                                   // length; 0: never
    absl::flat_hash_map<uint64_t, uint32_t> caption_counts;    // by caption id
    absl::flat_hash_map<size_t, uint32_t> observation_counts;  // by hash; empty where nothing counts them
  };
  struct Group {
    EnvironmentGroup* environments = nullptr;
    std::vector<RowOrder> orders;
    std::string actions;               // [rows], in the environments' units
    std::string observations, finals;  // [rows, bytes of one observation]
    uint64_t sequence = 0;             // of the step that Finish writes next
  };

  uint64_t SeedOf(int environment, uint64_t episode) const;
  absl::Status Begin(Group& group);
  // Notes that the environment began its next episode.
  absl::Status BeginEpisode(int environment);
  // Id and count of a caption that the environment has just shown; adds its text to the batch where the stream does not
  // have it.
  std::pair<uint64_t, uint32_t> TakeCaption(int environment, absl::string_view raw, const std::string& context,
                                            v1::StepBatch* batch);
  // How often the observation has occurred in the environment's episode, this time included.
  uint32_t Count(int environment, absl::string_view observation);

  const uint32_t slot_;
  const uint64_t run_seed_;
  const v1::CaptionRule caption_rule_;
  const size_t max_caption_length_;
  const bool send_context_, stagger_, count_observations_;
  const int rows_;  // a group
  const v1::EnvironmentSpec spec_;
  const size_t action_bytes_, observation_bytes_;
  std::vector<Group> groups_;
  const Group* shown_;
  std::vector<Episode> running_;
  std::vector<uint64_t> next_episode_;
  uint64_t last_episode_ = 0;  // one past the last usable number
  uint64_t cut_captions_ = 0;
  TextMemory texts_;
  std::string finals_;
  uint64_t steps_ = 0, episodes_ = 0;
};

// Packs the player's observations into the batches of one group, in their order.
class StepPacker {
 public:
  explicit StepPacker(v1::PackingCodec codec) : packer_(codec) {}
  // `batch`: the one that the player's last Start or Step wrote.
  void Pack(const Player& player, v1::StepBatch* batch);

 private:
  ObservationPacker packer_;
  ObservationPacker final_packer_{v1::PACKING_CODEC_LZ4};
};

}  // namespace sibyl::actor
