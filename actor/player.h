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
#include "environments/environment.h"
#include "sibyl/v1/act.pb.h"

namespace sibyl::actor {

// The texts of the captions that a stream carried last, so that each text crosses it once.
class TextMemory {
 public:
  explicit TextMemory(size_t capacity) : capacity_(capacity) {}

  // True when the caption is new to the stream, or was forgotten: its text has to be sent.
  bool Remember(uint64_t id, const std::string& text);
  // nullptr when it is not remembered.
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

// Plays all environments of one slot over the life of one stream. One thread. What a group shows after Start or Step is
// in observations() and final_observations(), and nothing of it in the batch: see StepPacker.
class Player {
 public:
  // The environments a welcome asks for. Errors are those of MakeEnvironment.
  static absl::StatusOr<std::vector<std::unique_ptr<Environment>>> MakeEnvironments(const v1::ActorWelcome& welcome);

  // `environments` outlive the player, which starts fresh episodes in them.
  Player(const v1::ActorWelcome& welcome, const std::vector<std::unique_ptr<Environment>>* environments);

  // More episode numbers.
  void AddEpisodes(const v1::EpisodeBlock& block);

  // A group's first batch: every environment is reset. ResourceExhausted when the episode numbers have run out.
  // Where the welcome says `stagger`, these episodes are truncated at a step drawn by their seeds.
  absl::Status Start(int group, v1::StepBatch* batch);

  // Plays one action in each environment of the group; ended episodes are followed by fresh ones. InvalidArgument when
  // the actions do not fit.
  absl::Status Step(const v1::ActionBatch& actions, v1::StepBatch* batch);

  // Those of the texts asked for that are still remembered.
  v1::CaptionTexts Texts(const v1::CaptionTextRequest& request) const;

  // [rows of a group, bytes of one observation]: what to act on, after the last Start or Step.
  absl::string_view observations() const { return observations_; }
  // [rows whose episode the last Step ended, bytes of one observation], rows ascending.
  absl::string_view final_observations() const { return finals_; }

  int groups() const { return groups_; }
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
    uint64_t cut_off_at = 0;                                 // length; 0: never
    absl::flat_hash_map<uint64_t, uint32_t> caption_counts;  // by caption id
  };

  absl::Status Reset(int environment, char* observation);
  // Id and count of the environment's caption; adds its text to the batch where the stream does not have it.
  std::pair<uint64_t, uint32_t> TakeCaption(int environment, v1::StepBatch* batch);
  // Where an observation that starts at `observation` holds each array.
  ObservationBuffers Buffers(char* observation);

  const uint32_t slot_;
  const uint64_t run_seed_;
  const v1::CaptionRule caption_rule_;
  const size_t max_caption_length_;
  const bool send_context_, stagger_;
  const int groups_, rows_;  // rows a group
  const size_t action_bytes_;
  const std::vector<std::unique_ptr<Environment>>* const environments_;
  std::vector<size_t> array_offsets_;
  size_t observation_bytes_ = 0;
  std::vector<Episode> running_;
  std::vector<uint64_t> next_episode_;
  uint64_t last_episode_ = 0;  // one past the last usable number
  uint64_t cut_captions_ = 0;
  TextMemory texts_;
  std::string observations_, finals_;
  std::string action_;  // one, in the environment's units
  std::vector<void*> buffers_;
  uint64_t steps_ = 0, episodes_ = 0;
};

// Adds to a group's batches, one after another, what the player shows. One for each group.
class StepPacker {
 public:
  explicit StepPacker(v1::PackingCodec codec) : packer_(codec) {}
  // `batch` is the player's last.
  void Pack(const Player& player, v1::StepBatch* batch);

 private:
  ObservationPacker packer_;
  ObservationPacker final_packer_{v1::PACKING_CODEC_LZ4};
};

}  // namespace sibyl::actor
