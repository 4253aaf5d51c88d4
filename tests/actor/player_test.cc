#include "actor/player.h"

#include <gtest/gtest.h>

#include <set>

#include "common/caption.h"
#include "common/columns.h"
#include "common/random.h"
#include "common/step_flags.h"
#include "environments/debug/alignment.h"

namespace sibyl::actor {
namespace {

v1::ActorWelcome Welcome(int environments = 4, int groups = 2) {
  v1::ActorWelcome welcome;
  welcome.set_environment("debug/Alignment");
  welcome.set_environments(environments);
  welcome.set_groups(groups);
  welcome.set_run_seed(5);
  welcome.mutable_lease()->set_slot(3);
  welcome.mutable_episodes()->set_begin(100);
  welcome.mutable_episodes()->set_end(200);
  welcome.set_codec(v1::PACKING_CODEC_RAW);
  welcome.set_caption_rule(v1::CAPTION_RULE_EXACT);
  welcome.set_max_caption_length(1000);
  welcome.set_text_memory(1000);
  return welcome;
}

v1::ActionBatch Actions(int group, uint64_t sequence, std::vector<uint16_t> actions) {
  v1::ActionBatch batch;
  batch.set_group(group);
  batch.set_sequence(sequence);
  for (uint16_t action : actions) AppendTo(batch.mutable_action(), action);
  return batch;
}

TEST(Player, StartsEveryEnvironmentAtTheFirstEpisodeItMayUse) {
  const auto environments = *MakeEnvironments(Welcome());
  Player player(Welcome(), &environments);
  v1::StepBatch batch;
  ASSERT_TRUE(player.Start(1, &batch).ok());
  EXPECT_EQ(batch.group(), 1u);
  for (int row = 0; row < 2; ++row) {
    const uint64_t seed = EpisodeSeed(5, 3, 2 + row, 100);
    EXPECT_EQ(EntryOf<uint64_t>(batch.first_episode(), row), 100u);
    EXPECT_EQ(batch.flags()[row], static_cast<char>(kStepFirst));
    EXPECT_EQ(EntryOf<uint64_t>(batch.first_caption_id(), row), CaptionId(AlignmentCaption(seed, 0)));
  }
}

TEST(Player, PaysTheFinalCaptionAndStartsTheNextEpisodeInOneStep) {
  const v1::ActorWelcome welcome = Welcome(1, 1);
  const auto environments = *MakeEnvironments(welcome);
  Player player(welcome, &environments);
  const uint64_t seed = EpisodeSeed(5, 3, 0, 100);
  const int length = AlignmentLength(seed);
  v1::StepBatch batch;
  ASSERT_TRUE(player.Start(0, &batch).ok());
  for (int step = 1; step <= length; ++step) {
    batch.Clear();
    ASSERT_TRUE(player.Step(Actions(0, step - 1, {1}), &batch).ok());
    EXPECT_EQ(EntryOf<uint64_t>(batch.caption_id(), 0), CaptionId(AlignmentCaption(seed, step)));
    EXPECT_EQ(EntryOf<float>(batch.reward(), 0), AlignmentReward(seed, step));
    EXPECT_EQ(batch.episodes_size(), step == length ? 1 : 0);
  }
  EXPECT_NE(batch.flags()[0] & (kStepTerminated | kStepTruncated), 0);
  EXPECT_NE(batch.flags()[0] & kStepFirst, 0);
  EXPECT_EQ(batch.episodes(0).length(), static_cast<uint32_t>(length));
  EXPECT_EQ(EntryOf<uint64_t>(batch.first_episode(), 0), 101u);
  EXPECT_EQ(EntryOf<uint64_t>(batch.first_caption_id(), 0), CaptionId(AlignmentCaption(EpisodeSeed(5, 3, 0, 101), 0)));
  EXPECT_FALSE(player.final_observations().empty());
  EXPECT_EQ(player.final_observations().size(), player.observations().size());
  StepPacker(v1::PACKING_CODEC_RAW).Pack(player, &batch);
  EXPECT_EQ(batch.observation().rows(), 1u);
  EXPECT_EQ(batch.observation().data(), std::string(player.observations()));
  EXPECT_EQ(batch.final_observation().rows(), 1u);
}

TEST(Player, CutsOffTheFirstEpisodesOnlyAndEachAtAStepOfItsOwn) {
  constexpr int kEnvironments = 16, kLongest = 30;
  v1::ActorWelcome welcome = Welcome(kEnvironments, 1);
  welcome.set_environment("minigrid/DoorKey-8x8");  // whose episodes never end when nothing but turning is done
  welcome.set_max_episode_steps(kLongest);
  for (const bool stagger : {false, true}) {
    welcome.set_stagger(stagger);
    const auto environments = *MakeEnvironments(welcome);
    Player player(welcome, &environments);
    v1::StepBatch batch;
    ASSERT_TRUE(player.Start(0, &batch).ok());
    std::vector<std::vector<v1::EpisodeEnd>> ends(kEnvironments);
    for (int step = 0; step < 3 * kLongest; ++step) {
      batch.Clear();
      ASSERT_TRUE(player.Step(Actions(0, step, std::vector<uint16_t>(kEnvironments, 0)), &batch).ok());
      for (const v1::EpisodeEnd& end : batch.episodes()) {
        EXPECT_EQ(batch.flags()[end.row()], static_cast<char>(kStepTruncated | kStepFirst));
        ends[end.row()].push_back(end);
      }
    }
    std::set<uint32_t> firsts;
    for (const auto& of_environment : ends) {
      ASSERT_GE(of_environment.size(), 2u);
      firsts.insert(of_environment[0].length());
      EXPECT_GE(of_environment[0].length(), 1u);
      EXPECT_LE(of_environment[0].length(), static_cast<uint32_t>(kLongest));
      EXPECT_EQ(of_environment[0].cut_off(), of_environment[0].length() != kLongest);
      EXPECT_EQ(of_environment[1].length(), static_cast<uint32_t>(kLongest));
      EXPECT_FALSE(of_environment[1].cut_off());
    }
    if (stagger) {
      EXPECT_GT(firsts.size(), 6u);
    } else {
      EXPECT_EQ(firsts, std::set<uint32_t>{kLongest});
    }
  }
}

TEST(Player, SendsATextOnceAndAnswersWhenItIsAskedAgain) {
  const v1::ActorWelcome welcome = Welcome(1, 1);
  const auto environments = *MakeEnvironments(welcome);
  Player player(welcome, &environments);
  v1::StepBatch batch;
  ASSERT_TRUE(player.Start(0, &batch).ok());
  ASSERT_EQ(batch.texts_size(), 1);
  const v1::CaptionText sent = batch.texts(0);
  for (int step = 0; step < 2; ++step) {
    batch.Clear();
    ASSERT_TRUE(player.Step(Actions(0, step, {0}), &batch).ok());
    for (const auto& text : batch.texts()) EXPECT_NE(text.id(), sent.id());
  }
  v1::CaptionTextRequest request;
  request.add_ids(sent.id());
  request.add_ids(12345);
  const v1::CaptionTexts texts = player.Texts(request);
  ASSERT_EQ(texts.texts_size(), 1);
  EXPECT_EQ(texts.texts(0).text(), sent.text());
}

TEST(Player, CutsAndCountsLongCaptions) {
  v1::ActorWelcome welcome = Welcome(1, 1);
  welcome.set_max_caption_length(16);
  const auto environments = *MakeEnvironments(welcome);
  Player player(welcome, &environments);
  v1::StepBatch batch;
  ASSERT_TRUE(player.Start(0, &batch).ok());
  ASSERT_EQ(batch.texts_size(), 1);
  const std::string whole = AlignmentCaption(EpisodeSeed(5, 3, 0, 100), 0);
  ASSERT_GT(whole.size(), 16u);
  EXPECT_EQ(batch.texts(0).text(), whole.substr(0, 16));
  EXPECT_EQ(batch.texts(0).id(), CaptionId(whole.substr(0, 16)));
  EXPECT_EQ(player.cut_captions(), 1u);
}

TEST(Player, RefusesActionsThatDoNotFit) {
  const auto environments = *MakeEnvironments(Welcome());
  Player player(Welcome(), &environments);
  v1::StepBatch batch;
  ASSERT_TRUE(player.Start(0, &batch).ok());
  EXPECT_EQ(player.Step(Actions(0, 0, {0}), &batch).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(player.Step(Actions(7, 0, {0, 0}), &batch).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(player.Step(Actions(0, 0, {0, 99}), &batch).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Player, GroupsAreUnderWaySideBySide) {
  const auto environments = *MakeEnvironments(Welcome()), same = *MakeEnvironments(Welcome());
  Player together(Welcome(), &environments), in_turn(Welcome(), &same);
  std::vector<v1::StepBatch> ours(2), theirs(2);
  for (int group = 0; group < 2; ++group) ASSERT_TRUE(together.StartEpisodes(group).ok());
  for (int group = 1; group >= 0; --group) {
    ASSERT_TRUE(together.Finish(group, &ours[group]).ok());
    ASSERT_TRUE(in_turn.Start(group, &theirs[group]).ok());
  }
  for (int step = 0; step < 100; ++step) {
    for (int group = 0; group < 2; ++group) {
      EXPECT_EQ(ours[group].SerializeAsString(), theirs[group].SerializeAsString()) << "step " << step;
      ours[group].Clear();
      theirs[group].Clear();
    }
    for (int group = 0; group < 2; ++group) ASSERT_TRUE(together.StartStep(Actions(group, step, {1, 2})).ok());
    for (int group = 1; group >= 0; --group) {
      ASSERT_TRUE(together.Finish(group, &ours[group]).ok());
      const std::string shown(together.observations()), finals(together.final_observations());
      ASSERT_TRUE(in_turn.Step(Actions(group, step, {1, 2}), &theirs[group]).ok());
      EXPECT_EQ(shown, in_turn.observations());
      EXPECT_EQ(finals, in_turn.final_observations());
    }
  }
}

TEST(Player, CountsObservationsInTheirEpisodes) {
  v1::ActorWelcome welcome = Welcome(1, 1);
  welcome.set_environment("minigrid/Empty-5x5");
  welcome.set_count_observations(true);
  const auto environments = *MakeEnvironments(welcome);
  Player player(welcome, &environments);
  v1::StepBatch batch;
  ASSERT_TRUE(player.Start(0, &batch).ok());
  EXPECT_EQ(EntryOf<uint32_t>(batch.observation_count(), 0), 0u);
  // Turning to the left, every fourth observation is the same; the first one counts.
  for (uint32_t step = 0; step < 12; ++step) {
    batch.Clear();
    ASSERT_TRUE(player.Step(Actions(0, step, {0}), &batch).ok());
    EXPECT_EQ(EntryOf<uint32_t>(batch.observation_count(), 0), step / 4 + 1 + (step % 4 == 3));
  }
}

TEST(Player, NeverPlaysAnEpisodeItWasNotGranted) {
  v1::ActorWelcome welcome = Welcome(1, 1);
  welcome.mutable_episodes()->set_end(101);
  const auto environments = *MakeEnvironments(welcome);
  const auto play = [&](Player& player) {
    v1::StepBatch batch;
    absl::Status status = player.Start(0, &batch);
    for (uint64_t i = 0; i < 200 && status.ok(); ++i) {
      batch.Clear();
      status = player.Step(Actions(0, i, {0}), &batch);
    }
    return status;
  };
  Player without(welcome, &environments);
  EXPECT_EQ(play(without).code(), absl::StatusCode::kResourceExhausted);
  Player with(welcome, &environments);
  v1::EpisodeBlock more;
  more.set_begin(101);
  more.set_end(400);
  with.AddEpisodes(more);
  EXPECT_TRUE(play(with).ok());
}

TEST(TextMemory, ForgetsTheLeastRecentlySeen) {
  TextMemory memory(2);
  EXPECT_TRUE(memory.Remember(1, "one"));
  EXPECT_TRUE(memory.Remember(2, "two"));
  EXPECT_FALSE(memory.Remember(1, "one"));
  EXPECT_TRUE(memory.Remember(3, "three"));
  EXPECT_EQ(memory.Find(2), nullptr);
  EXPECT_TRUE(memory.Remember(2, "two"));
}

}  // namespace
}  // namespace sibyl::actor
