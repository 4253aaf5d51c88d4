// Actors come and go while the real learner trains. Nothing is restarted or reconfigured: an actor needs the learner's
// address and nothing else.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/process.h"
#include "tests/served_metrics.h"

namespace sibyl {
namespace {

namespace fs = std::filesystem;

class ElasticTest : public testing::Test {
 protected:
  ElasticTest() {
    std::string folder = testing::TempDir() + "/elastic.XXXXXX";
    folder_ = mkdtemp(folder.data());
    std::ofstream(folder_ + "/config.textproto") << R"(environment { name: "debug/Alignment" }
        actor { environments: 8 } learner { unroll_length: 8 batch_size: 64 max_actors: 16 }
        total_steps: 1000000000 reward { intrinsic_coefficient: 0 })";
    learner_ = std::make_unique<Process>(
        std::vector<std::string>{SIBYL_BIN_DIR "/sibyl-learner", "--config=" + folder_ + "/config.textproto",
                                 "--run_dir=" + folder_, "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0"});
    port_ = learner_->NumberAfter("(port ");
    metrics_port_ = learner_->NumberAfter("metrics on port ");
  }
  ~ElasticTest() override {
    actors_.clear();
    learner_.reset();
    fs::remove_all(folder_);
  }

  void StartActors(int count, const std::string& program = "sibyl-actor") {
    for (int i = 0; i < count; ++i) {
      actors_.push_back(std::make_unique<Process>(std::vector<std::string>{
          SIBYL_BIN_DIR "/" + program, absl::StrCat("--learner=127.0.0.1:", port_), "--metrics_listen=127.0.0.1:0"}));
    }
  }
  double Metric(const std::string& name) const { return ServedMetric(metrics_port_, name); }
  // So many actors hold a slot, and training goes on.
  void ExpectTrainingWith(int actors) {
    ASSERT_TRUE(Eventually([&] { return Metric("sibyl_learner_actors_connected") == actors; })) << learner_->log();
    const double before = Metric("sibyl_learner_steps_total");
    EXPECT_TRUE(Eventually([&] { return Metric("sibyl_learner_steps_total") > before + 10'000; })) << learner_->log();
  }

  std::string folder_;
  std::unique_ptr<Process> learner_;
  std::vector<std::unique_ptr<Process>> actors_;
  int port_ = 0, metrics_port_ = 0;
};

TEST_F(ElasticTest, GoesFromOneActorToSixteenToTwoAndGivesMemoryBack) {
  ASSERT_GT(port_, 0) << learner_->log();
  StartActors(1);
  ExpectTrainingWith(1);
  const double small = Metric("sibyl_learner_unrolls_bytes");
  StartActors(11);
  StartActors(4, "sibyl-actor-local");
  ExpectTrainingWith(16);
  // 16 x 8 environments and a batch of 8 unrolls, instead of 8 and 8.
  EXPECT_TRUE(Eventually([&] { return Metric("sibyl_learner_unrolls_bytes") > 5 * small; }));
  // One more finds no slot, says why, and comes in when one is free.
  StartActors(1);
  EXPECT_TRUE(actors_.back()->Says("learner.max_actors")) << actors_.back()->log();
  actors_.erase(actors_.begin());
  ExpectTrainingWith(16);
  const double large = Metric("sibyl_learner_unrolls_bytes");
  actors_.erase(actors_.begin(), actors_.begin() + 14);
  ExpectTrainingWith(2);
  // 2 x 8 environments and a batch of 8: 24 unrolls instead of 136.
  EXPECT_TRUE(Eventually([&] { return Metric("sibyl_learner_unrolls_bytes") < large / 4; }));
  EXPECT_EQ(learner_->log().find("error"), std::string::npos) << learner_->log();
}

}  // namespace
}  // namespace sibyl
