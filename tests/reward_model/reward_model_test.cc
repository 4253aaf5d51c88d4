// The stage without its wires, with an annotator and a learner in memory and a clock that stands still.

#include "reward_model/reward_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/metrics.h"
#include "common/random.h"
#include "reward_model/annotator_link.h"
#include "tests/reward_model/fakes.h"

namespace sibyl::reward_model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

class RewardModelTest : public ::testing::Test {
 protected:
  std::unique_ptr<RewardModel> Make(uint64_t incarnation = 100) {
    metrics_ = std::make_unique<Metrics>();
    return std::make_unique<RewardModel>(experiment_, std::make_unique<Retrieval>(experiment_.reward_model()),
                                         incarnation, clock_, *metrics_);
  }
  // Reads the log to its end and asks what is to be asked.
  void Work(RewardModel& model) {
    EXPECT_EQ(FollowOnce(model, annotator_).code(), absl::StatusCode::kUnavailable);
    AskNow(model);
  }
  // FollowOnce ends with the connection; asking goes on as if there still was one.
  int AskNow(RewardModel& model) {
    model.ConnectAnnotator(*annotator_.Describe());
    int asked = 0;
    while (true) {
      const int more = AskOnce(model, annotator_).value_or(0);
      if (more == 0) return asked;
      asked += more;
    }
  }
  double Metric(const std::string& name) {
    const std::string text = "\n" + metrics_->Text();
    const size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 2));
  }

  v1::Experiment experiment_ = TestExperiment();
  FakeClock clock_;
  FakeAnnotator annotator_;
  std::unique_ptr<Metrics> metrics_;
};

TEST_F(RewardModelTest, ALabelBecomesAScore) {
  auto model = Make();
  FakeLearner learner(*model);
  ASSERT_TRUE(learner.Connect().ok());
  EXPECT_EQ(learner.table.snapshots_, 1) << "an empty one";
  learner.SeeAndTell("You open the door.");
  Work(*model);
  EXPECT_THAT(annotator_.accepted_captions(), ElementsAre("You open the door."));
  const v1::Query query = annotator_.accepted().front();
  EXPECT_EQ(query.kind(), v1::QUERY_KIND_CLASSIFY);
  EXPECT_EQ(query.goal(), "open doors");
  EXPECT_THAT(query.label_set(), ElementsAre("unhelpful", "helpful"));
  EXPECT_EQ(query.context(), "") << "send_context is off";
  annotator_.Answer("You open the door.", 0.875);
  Work(*model);
  model->Tick();
  EXPECT_FLOAT_EQ(learner.table.Of("You open the door."), 0.875);
  EXPECT_EQ(learner.table.version_, 1);
  EXPECT_FLOAT_EQ(learner.table.transform_.threshold(), 0.5);
  EXPECT_FLOAT_EQ(learner.table.transform_.deviation(), 1);
  EXPECT_TRUE(learner.table.transform_.binary());
  EXPECT_FALSE(learner.table.gaps_);
}

}  // namespace
}  // namespace sibyl::reward_model
