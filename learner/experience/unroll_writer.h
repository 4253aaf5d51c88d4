#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/feedback.h"
#include "common/tensor_packing.h"
#include "learner/experience/caption_table.h"
#include "learner/experience/episode_stats.h"
#include "learner/experience/step_check.h"
#include "learner/experience/step_counter.h"
#include "learner/experience/unroll_pool.h"
#include "sibyl/v1/act.pb.h"
#include "sibyl/v1/tensor.pb.h"

namespace sibyl::learner {

// Where experience goes.
struct ExperienceBooks {
  UnrollPool* unrolls;
  CaptionTable* captions;
  EpisodeStats* episodes;
  StepCounter* steps;
};

// What was decided at o_t.
struct Decision {
  const char* action = nullptr;  // as ActionSpec lays it out
  float log_prob = 0;            // of the action under the policy that chose it
  const float* value = nullptr;  // [V] of o_t
  uint64_t policy_version = 0;   // optimiser steps behind that policy
  const float* state = nullptr;  // [H] recurrent state before o_t; read where o_t begins an unroll
};

// Writes the steps of one actor's stream into unrolls. This is the one place where a StepBatch gets its meaning, for
// actors of both kinds. One thread.
//
// For each group, in this order: Write(step 0); then again and again Begin, where Lacking says so, WriteDecision for
// each environment, and Write of the next step. An unroll that Write completes goes to training at once: between two
// unrolls an environment holds none, and o_T is kept until Begin makes it the next unroll's o_0.
//
// A row of the caption table stays pinned as long as an unfinished unroll, or an o_0 that waits for one, names it.
// Whoever takes finished unrolls out of the pool unpins Unroll::CaptionRows.
class UnrollWriter {
 public:
  // Environments [0, groups * rows) of `slot`. What the policy is told of its last step (`feedback`) stands behind each
  // observation; the rewards in it come with the steps where `told_by_actor` (StepBatch.last_rewards), else from the
  // scores in the books. Books and feedback outlive the writer.
  UnrollWriter(const v1::EnvironmentSpec& spec, const Feedback* feedback, bool told_by_actor,
               const ExperienceBooks& books, uint32_t slot, int groups, int rows);
  // The actor is gone: releases the unfinished unrolls and counts the running episodes as abandoned.
  ~UnrollWriter();
  UnrollWriter(const UnrollWriter&) = delete;
  UnrollWriter& operator=(const UnrollWriter&) = delete;

  // Whether the step may be written when `ahead` more steps of its group have been. InvalidArgument says what breaks
  // the contract.
  absl::Status Check(const v1::StepBatch& step, int ahead = 0) const;
  // Writes a step that Check accepts. Adds to `textless` the ids of its captions whose text is not known. After an
  // error (the observations do not unpack or are not finite) the writer is of no more use.
  absl::Status Write(const v1::StepBatch& step, std::vector<uint64_t>* textless);

  // Unrolls that the group needs before its next decisions: none, or one for each environment. All environments of a
  // group begin and end their unrolls at the same steps.
  int Lacking(int group) const;
  // Gives the group the unrolls that it lacks.
  void Begin(int group, Unrolls unrolls);
  // Before the next Write of the environment's group.
  void WriteDecision(int environment, const Decision& decision);

  // What is to be decided on: o_t, as Feedback::PolicySpec lays it out, and whether o_t starts an episode.
  const char* Observation(int environment) const;
  bool First(int environment) const { return tracks_[environment].begin.first; }
  // Steps of the group that have been written.
  uint64_t written(int group) const { return next_sequence_[group]; }

 private:
  struct Begun {  // what an unroll says of o_t beside the observation
    bool first = false;
    uint64_t episode = 0;
    int32_t caption = 0;  // row
    uint32_t count = 0;
  };
  struct Track {  // of one environment
    std::unique_ptr<Unroll> unroll;
    int t = 0;  // o_t is the newest observation in the unroll
    bool playing = false;
    Begun begin;              // of the newest observation
    std::string observation;  // the newest one, with feedback
  };

  void Place(Track& track);
  // The rewards of each row of a step that the policy is told, [rows, R].
  void TellRewards(const v1::StepBatch& step);

  const Feedback* const feedback_;
  const bool told_by_actor_;
  // observation_bytes_: on the wire; row_bytes_: with feedback.
  const size_t rows_, observation_bytes_, row_bytes_, action_bytes_, value_heads_;
  const int unroll_length_;
  const bool counts_observations_;
  const uint32_t slot_;
  const ExperienceBooks books_;
  const StepCheck check_;
  std::vector<Track> tracks_;                   // by environment
  std::vector<uint64_t> next_sequence_;         // by group
  std::vector<ObservationUnpacker> unpackers_;  // by group
  ObservationUnpacker final_unpacker_;
  // Write's, kept so that a step allocates nothing.
  std::vector<uint64_t> ids_;
  std::vector<int32_t> caption_rows_, pinned_again_;
  std::vector<float> told_rewards_;  // [rows, R]
  std::vector<int32_t> looked_up_;
  std::vector<CaptionReward> caption_rewards_;
};

}  // namespace sibyl::learner
