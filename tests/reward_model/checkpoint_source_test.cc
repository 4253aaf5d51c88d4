#include "reward_model/checkpoint_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/reward_model/fakes.h"

namespace sibyl::reward_model {
namespace {

using testing::HasSubstr;

// The parts of a reward model, without the coordinator.
struct World {
  explicit World(const v1::Experiment& e = TestExperiment()) : experiment(e) {}

  void See(const std::string& text, uint64_t count) {
    captions.SetText(CaptionId(text), text, "");
    captions.SetLearnerCount(captions.FindOrAdd(CaptionId(text)), count, 10 * count);
  }
  // Takes a checkpoint, in pieces of so many rows.
  std::vector<v1::RewardModelPiece> Take(bool whole, size_t rows = 4096) {
    std::vector<v1::RewardModelPiece> pieces;
    source.Begin(whole);
    do {
      pieces.push_back(source.Next(rows));
    } while (!pieces.back().has_head());
    return pieces;
  }
  absl::Status Restore(const std::vector<v1::RewardModelPiece>& pieces) {
    for (const v1::RewardModelPiece& piece : pieces) source.Restore(piece);
    return source.FinishRestore(pieces.back().head());
  }

  const v1::Experiment experiment;
  FakeClock clock;
  CaptionBook captions;
  Tallies tallies;
  Comparisons comparisons;
  Retrieval model{experiment.reward_model()};
  Asker asker{experiment.reward_model(), {captions, tallies, comparisons, model}, 1, clock};
  LearnerSession learner{experiment.reward_model().goal(), 42, "retrieval"};
  CheckpointSource source{experiment, {captions, tallies, comparisons, asker, learner}};
};

TEST(CheckpointSource, WhatIsRestoredIsWhatWasTakenInPiecesOfAnySize) {
  World world;
  for (int i = 0; i < 20; ++i) world.See(absl::StrCat("caption ", i), i + 1);
  for (int i = 0; i < 7; ++i) {
    const uint64_t id = CaptionId(absl::StrCat("caption ", i));
    world.tallies.Add(id, {true, 0.25 * (i % 4)});
    world.asker.SetAsked(id);
    world.comparisons.Add({id, id + 1}, {true, 0.5});
  }
  world.learner.Restore("run", 9);
  for (const size_t rows : {1, 3, 26, 27, 28, 4096}) {
    const auto pieces = world.Take(/*whole=*/true, rows);
    for (const v1::RewardModelPiece& piece : pieces) {
      EXPECT_LE(static_cast<size_t>(piece.captions_size() + piece.comparisons_size()), rows);
    }
    World again;
    ASSERT_EQ(again.Restore(pieces), absl::OkStatus());
    EXPECT_EQ(again.captions.size(), 20u) << rows;
    EXPECT_EQ(again.captions.Find(CaptionId("caption 6"))->count, 7u);
    EXPECT_EQ(again.tallies.Of(CaptionId("caption 3")).good_sum, 0.75);
    EXPECT_TRUE(again.asker.IsAsked(CaptionId("caption 3")));
    EXPECT_FALSE(again.asker.IsAsked(CaptionId("caption 8")));
    EXPECT_EQ(again.comparisons.size(), 7u);
    EXPECT_EQ(again.learner.run_id(), "run");
    EXPECT_EQ(again.learner.learner_incarnation(), 9u);
  }
}

TEST(CheckpointSource, ALaterOneHasWhatHasChangedAndWhatWasForgotten) {
  World world;
  for (const char* caption : {"a", "b", "c"}) world.See(caption, 1);
  auto pieces = world.Take(/*whole=*/true);
  EXPECT_EQ(pieces[0].captions_size(), 3);
  world.See("b", 5);
  world.captions.Forget(*world.captions.Find(CaptionId("c")));
  const auto later = world.Take(/*whole=*/false);
  ASSERT_EQ(later.size(), 1u);
  ASSERT_EQ(later[0].captions_size(), 1);
  EXPECT_EQ(later[0].captions(0).text(), "") << "the file has it already";
  EXPECT_EQ(later[0].forgotten_size(), 1);
  EXPECT_EQ(world.Take(/*whole=*/false)[0].captions_size(), 0) << "nothing has changed since";

  pieces.insert(pieces.end(), later.begin(), later.end());
  World again;
  ASSERT_EQ(again.Restore(pieces), absl::OkStatus());
  EXPECT_EQ(again.captions.size(), 2u);
  EXPECT_EQ(again.captions.Find(CaptionId("b"))->text(), "b");
  EXPECT_EQ(again.captions.Find(CaptionId("b"))->count, 5u);
}

TEST(CheckpointSource, VoidLabelsAreDroppedFromTheFileOnce) {
  World world;
  world.See("a", 1);
  world.tallies.Add(CaptionId("a"), {true, 1});
  auto pieces = world.Take(/*whole=*/true);
  world.tallies.Clear();
  world.asker.ForgetAll();
  world.source.VoidLabels();
  const auto later = world.Take(/*whole=*/false);
  EXPECT_TRUE(later[0].labels_void());
  EXPECT_FALSE(world.Take(/*whole=*/false)[0].labels_void());
  pieces.insert(pieces.end(), later.begin(), later.end());
  World again;
  ASSERT_EQ(again.Restore(pieces), absl::OkStatus());
  EXPECT_FALSE(again.tallies.IsLabelled(CaptionId("a")));
  // A new file has nothing to drop.
  world.source.VoidLabels();
  EXPECT_FALSE(world.Take(/*whole=*/true)[0].labels_void());
}

TEST(CheckpointSource, RefusesOneOfAnotherGoalOrLabelSet) {
  World world;
  v1::RewardModelHead head = world.Take(/*whole=*/true)[0].head();
  head.set_goal("close doors");
  EXPECT_THAT(std::string(World().source.FinishRestore(head).message()), HasSubstr("close doors"));
  head.set_goal("open doors");
  head.add_label_set("wonderful");  // longer than the run's
  const absl::Status status = World().source.FinishRestore(head);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("wonderful"));
  head.clear_label_set();  // shorter
  EXPECT_FALSE(World().source.FinishRestore(head).ok());
}

TEST(CheckpointSource, ATextThatIsNotItsIdsIsLeftOut) {
  World world;
  world.See("a", 1);
  auto pieces = world.Take(/*whole=*/true);
  pieces[0].mutable_captions(0)->set_text("another");
  World again;
  ASSERT_EQ(again.Restore(pieces), absl::OkStatus());
  EXPECT_EQ(again.captions.Find(CaptionId("a"))->text(), "") << "the learner is asked for it";
}

}  // namespace
}  // namespace sibyl::reward_model
