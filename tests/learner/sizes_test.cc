#include "learner/sizes.h"

#include <gtest/gtest.h>

#include "common/config.h"
#include "common/cores.h"

namespace sibyl::learner {
namespace {

v1::LearnerConfig Config(uint32_t unrolls, uint32_t minibatches, uint32_t threads) {
  v1::LearnerConfig learner;
  learner.set_unroll_length(32);
  learner.set_batch_size(32 * unrolls);
  learner.set_minibatches(minibatches);
  learner.set_training_threads(threads);
  return learner;
}

TEST(TrainingThreads, AreWhatIsAskedFor) { EXPECT_EQ(TrainingThreads(Config(7, 1, 5)), 5); }

TEST(TrainingThreads, AreOtherwiseAsManyAsHaveCoresAndWork) {
  EXPECT_EQ(TrainingThreads(Config(7, 1, 0)), 1);
  EXPECT_EQ(TrainingThreads(Config(4096, 1024, 0)), 1);
  EXPECT_EQ(TrainingThreads(Config(4096, 1, 0)), std::min(AvailableCores(), 8));
}

v1::Experiment Playing(uint32_t processes, uint32_t environments, uint32_t groups, uint32_t unrolls) {
  v1::Experiment experiment;
  experiment.mutable_actor()->set_processes(processes);
  experiment.mutable_actor()->set_environments(environments);
  experiment.mutable_actor()->set_groups(groups);
  *experiment.mutable_learner() = Config(unrolls, 1, 0);
  return experiment;
}

TEST(UnrollsNeeded, AddTheLargerOfBatchAndGroupToTheEnvironments) {
  EXPECT_EQ(UnrollsNeeded(64, 32, 32), 64 + 32);
  EXPECT_EQ(UnrollsNeeded(64, 8, 32), 64 + 32);
  EXPECT_EQ(UnrollsNeeded(64, 24, 32), 64 + 32);
  EXPECT_EQ(UnrollsNeeded(3 * 64, 64, 32), 3 * 64 + 64);
}

TEST(UnrollsNeeded, HoldALargeBatchTwice) { EXPECT_EQ(UnrollsNeeded(64, 128, 32), 128 + 128); }

TEST(ExperimentOfRank, DividesActorsAndBatchAndGivesEachRankASeed) {
  v1::Experiment experiment = Playing(4, 64, 2, 32);
  experiment.set_seed(7);
  experiment.mutable_learner()->set_ranks(2);
  const v1::Experiment first = ExperimentOfRank(experiment, 0), second = ExperimentOfRank(experiment, 1);
  EXPECT_EQ(first.actor().processes(), 2u);
  EXPECT_EQ(first.learner().batch_size(), experiment.learner().batch_size() / 2);
  EXPECT_EQ(first.seed(), 7u);
  EXPECT_NE(second.seed(), 7u);
  EXPECT_EQ(second.learner().batch_size(), first.learner().batch_size());
}

}  // namespace
}  // namespace sibyl::learner
