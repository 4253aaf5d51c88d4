// What learns from labels: the arithmetic against literal references, then the model that is made of it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "common/runtime/files.h"
#include "reward_model/scoring/learned_model.h"
#include "reward_model/scoring/prequential.h"
#include "reward_model/scoring/text_model.h"
#include "tests/reward_model/fakes.h"

namespace sibyl::reward_model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<float> Values(const torch::Tensor& tensor) {
  const torch::Tensor flat = tensor.to(torch::kFloat32).contiguous().view(-1);
  return {flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel()};
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

v1::RewardTrainingConfig SmallTraining() {
  v1::RewardTrainingConfig config = TestExperiment().reward_model().training();
  config.set_text_length(27);
  config.set_dropout(0);
  config.set_learning_rate(1e-3);
  config.set_version_seconds(0);
  return config;
}

TEST(Texts, AreCutOffAndFilledUp) {
  const torch::Tensor encoded = EncodeTexts({"ab", "\xff xyz", ""}, 3);
  EXPECT_EQ(encoded.dtype(), torch::kUInt8);
  EXPECT_THAT(Values(encoded), ElementsAre('a', 'b', 0, 255, ' ', 'x', 0, 0, 0));
}

// The network by loops: what text_network.h says.
double LiteralScore(TextNetwork& network, const std::string& text, int64_t length) {
  std::map<std::string, torch::Tensor> weights;
  for (const auto& parameter : network.named_parameters()) weights[parameter.key()] = parameter.value().detach();
  // x[channel][position]
  std::vector<std::vector<double>> x(32, std::vector<double>(length));
  for (int64_t c = 0; c < 32; ++c) {
    for (int64_t t = 0; t < length; ++t) {
      const int64_t byte = t < static_cast<int64_t>(text.size()) ? static_cast<uint8_t>(text[t]) : 0;
      x[c][t] = weights["embedding.weight"][byte][c].item<double>();
    }
  }
  const std::vector<int64_t> kernels = {7, 7, 3, 3, 3, 3};
  for (size_t layer = 0; layer < 6; ++layer) {
    const auto weight = weights[absl::StrCat("convolution", layer + 1, ".weight")].accessor<float, 3>();
    const auto bias = weights[absl::StrCat("convolution", layer + 1, ".bias")].accessor<float, 1>();
    const int64_t positions = x[0].size(), kernel = kernels[layer];
    std::vector<std::vector<double>> y(64, std::vector<double>(positions));
    for (int64_t o = 0; o < 64; ++o) {
      for (int64_t t = 0; t < positions; ++t) {
        double sum = bias[o];
        for (size_t i = 0; i < x.size(); ++i) {
          for (int64_t k = 0; k < kernel; ++k) {
            const int64_t from = t + k - kernel / 2;
            if (from >= 0 && from < positions) sum += weight[o][i][k] * x[i][from];
          }
        }
        y[o][t] = std::max(0.0, sum);
      }
    }
    if (layer == 0 || layer == 1 || layer == 5) {
      for (auto& row : y) {
        std::vector<double> thinned;
        for (int64_t t = 0; t + 3 <= positions; t += 3) {
          thinned.push_back(std::max({row[t], row[t + 1], row[t + 2]}));
        }
        row = thinned;
      }
    }
    x = y;
  }
  std::vector<double> h;
  for (const auto& row : x) h.insert(h.end(), row.begin(), row.end());
  for (int layer = 1;; ++layer) {
    const auto found = weights.find(absl::StrCat("layer", layer, ".weight"));
    if (found == weights.end()) return h[0];
    const auto weight = found->second.accessor<float, 2>();
    const auto bias = weights[absl::StrCat("layer", layer, ".bias")].accessor<float, 1>();
    const bool last = !weights.contains(absl::StrCat("layer", layer + 1, ".weight"));
    std::vector<double> next;
    for (int64_t o = 0; o < weight.size(0); ++o) {
      double sum = bias[o];
      for (size_t i = 0; i < h.size(); ++i) sum += weight[o][i] * h[i];
      next.push_back(last ? sum : std::max(0.0, sum));
    }
    h = next;
  }
}

TEST(Network, ScoresAsTheLoopsDo) {
  torch::manual_seed(1);
  for (const int64_t length : {27, 32, 60}) {
    TextNetwork network({length, {16, 8, 8}, 0.5});
    network.eval();
    const std::vector<absl::string_view> texts = {"You open the red door.", "", "\x80\xff"};
    const std::vector<float> scores = Values(network.Forward(EncodeTexts(texts, length)));
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_NEAR(scores[i], LiteralScore(network, std::string(texts[i]), length), 1e-5) << texts[i];
    }
  }
}

TEST(Network, HasTheReferencesSize) {
  // Embedding 256 x 32; convolutions; 256 bytes thinned to 9 positions.
  const int64_t trunk = 256 * 32 + (32 * 7 + 1) * 64 + (64 * 7 + 1) * 64 + 4 * (64 * 3 + 1) * 64 + (64 * 9 + 1) * 128;
  const auto size = [](const TextNetwork& network) {
    int64_t total = 0;
    for (const torch::Tensor& parameter : network.parameters()) total += parameter.numel();
    return total;
  };
  EXPECT_EQ(size(TextNetwork({256, {128, 512, 512}, 0.1})), trunk + 129 * 512 + 513 * 512 + 513);
  EXPECT_EQ(size(TextNetwork({256, {128, 256, 512}, 0.1})), trunk + 129 * 256 + 257 * 512 + 513);
}

TEST(Loss, IsTheWeightedCrossEntropyOfTheLabels) {
  const std::vector<float> score = {2, -1, 0.5, -3}, target = {1, 0, 0.25, 0.5}, weight = {1, 3, 1, 2};
  double expected = 0;
  for (size_t i = 0; i < score.size(); ++i) {
    const double p = Sigmoid(score[i]);
    expected -= weight[i] * (target[i] * std::log(p) + (1 - target[i]) * std::log(1 - p)) / 4;
  }
  const torch::Tensor loss = LabelLoss(torch::tensor(score), torch::tensor(target), torch::tensor(weight));
  EXPECT_NEAR(loss.item<double>(), expected, 1e-6);
}

TEST(Loss, OfAComparisonIsBradleyAndTerrys) {
  // P(first beats second) = e^a / (e^a + e^b); a tie counts as half a win of each.
  const double a = 1.3, b = -0.4;
  const double first = std::exp(a) / (std::exp(a) + std::exp(b));
  const auto loss = [&](float target) {
    return LabelLoss(torch::tensor({static_cast<float>(a - b)}), torch::tensor({target}), torch::ones({1}))
        .item<double>();
  };
  EXPECT_NEAR(loss(1), -std::log(first), 1e-6);
  EXPECT_NEAR(loss(0), -std::log(1 - first), 1e-6);
  EXPECT_NEAR(loss(0.5), -(std::log(first) + std::log(1 - first)) / 2, 1e-6);
}

TEST(Weights, MakeGoodAndBadLabelsWeighTheSameUpToTheLimit) {
  const torch::Tensor target = torch::tensor({1.0f, 0.0f, 0.0f, 0.0f, 0.0f});
  EXPECT_THAT(Values(BalancingWeights(target, 0.2, 10)), ElementsAre(2.5f, 0.625f, 0.625f, 0.625f, 0.625f));
  EXPECT_THAT(Values(BalancingWeights(target, 0.2, 2)), ElementsAre(2, 0.625f, 0.625f, 0.625f, 0.625f));
  EXPECT_THAT(Values(BalancingWeights(torch::zeros({2}), 0, 10)), ElementsAre(0.5f, 0.5f)) << "all bad";
  EXPECT_THAT(Values(BalancingWeights(torch::tensor({0.5f}), 0.2, 10)), ElementsAre((2.5f + 0.625f) / 2));
}

TEST(Ensemble, ScoresAreMeanMinimumOrLowerBound) {
  const torch::Tensor scores = torch::tensor({1.0f, 2.0f, 3.0f, 2.0f, 5.0f, 2.0f}).view({3, 2});
  EXPECT_THAT(Values(EnsembleOf(scores, v1::ENSEMBLE_SCORE_MEAN, 1)), ElementsAre(3, 2));
  EXPECT_THAT(Values(EnsembleOf(scores, v1::ENSEMBLE_SCORE_MINIMUM, 1)), ElementsAre(1, 2));
  const float deviation = std::sqrt(8.0f / 3);
  EXPECT_THAT(Values(Disagreement(scores)), ElementsAre(::testing::FloatEq(deviation), 0));
  EXPECT_THAT(Values(EnsembleOf(scores, v1::ENSEMBLE_SCORE_LOWER_BOUND, 0.5)),
              ElementsAre(::testing::FloatEq(3 - deviation / 2), 2));
  EXPECT_THAT(Values(Disagreement(scores.slice(0, 0, 1))), ElementsAre(0, 0)) << "one network";
}

TEST(Moments, WeighEachScoreByHowOftenItWasSeen) {
  // 1, and 4 three times.
  const Moments moments = WeightedMoments(torch::tensor({{1.0f, 4.0f}}), torch::tensor({1.0, 3.0}, torch::kFloat64));
  EXPECT_FLOAT_EQ(moments.mean.item<float>(), 13.0f / 4);
  EXPECT_FLOAT_EQ(moments.deviation.item<float>(), std::sqrt((2.25f * 2.25f + 3 * 0.75f * 0.75f) / 4));
  EXPECT_FLOAT_EQ(WeightedMoments(torch::tensor({{2.0f}}), torch::ones({1})).deviation.item<float>(), 1e-6f);
}

TEST(Prequential, AccuracyCalibrationAndBalanceOfTheLastOnes) {
  Prequential prequential(4);
  EXPECT_EQ(prequential.Accuracy(), 0);
  prequential.Add(0.9, 0);  // pushed out
  for (const auto& [predicted, target] : {std::pair(0.95, 1.0), {0.92, 0.0}, {0.15, 0.0}, {0.6, 0.5}, {0.55, 0.25}}) {
    prequential.Add(predicted, target);
  }
  EXPECT_EQ(prequential.size(), 4u) << "a tie is left out";
  EXPECT_DOUBLE_EQ(prequential.Accuracy(), 0.5);
  EXPECT_DOUBLE_EQ(prequential.GoodShare(), 1.25 / 4);
  // Bins: {0.95, 0.92} against {1, 0}; {0.15} against {0}; {0.55} against {0.25}.
  EXPECT_NEAR(prequential.CalibrationError(), (std::abs(1.87 - 1) + 0.15 + 0.3) / 4, 1e-12);
  prequential.Add(1, 1);
  EXPECT_DOUBLE_EQ(prequential.Accuracy(), 0.5);
}

TEST(TextModel, TakesAdamsSteps) {
  const v1::RewardTrainingConfig config = SmallTraining();
  TextModel model(v1::REWARD_MODEL_KIND_RANKING, config, 7);
  // The same network, and LibTorch's own optimiser.
  torch::manual_seed(7);
  TextNetwork network({27, {128, 256, 512}, 0});
  torch::optim::Adam adam(network.parameters(), torch::optim::AdamOptions(1e-3).eps(1e-8));
  const torch::Tensor texts = EncodeTexts({"a door", "a wall", "a key"}, 27);
  const torch::Tensor first = torch::tensor({0, 2}, torch::kInt64), second = torch::tensor({1, 1}, torch::kInt64);
  const torch::Tensor target = torch::tensor({1.0f, 0.5f}), weight = torch::ones({2});
  for (int step = 0; step < 3; ++step) {
    const double loss = model.Train(0, texts, first, second, target, weight);
    const torch::Tensor scores = network.Forward(texts);
    const torch::Tensor expected =
        LabelLoss(scores.index_select(0, first) - scores.index_select(0, second), target, weight);
    EXPECT_NEAR(loss, expected.item<double>(), 1e-6) << step;
    adam.zero_grad();
    expected.backward();
    adam.step();
  }
  network.eval();
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::allclose(model.Score(texts)[0], network.Forward(texts), 1e-4, 1e-5));
  EXPECT_EQ(model.steps(), 3);
}

// --- The model ---

class LearnedModelTest : public ::testing::Test {
 protected:
  std::unique_ptr<LearnedModel> Make(v1::RewardModelKind kind, v1::RewardTrainingConfig training = SmallTraining(),
                                     const std::string& weights_file = "") {
    v1::RewardModelConfig config = TestExperiment().reward_model();
    config.set_weights_file(weights_file);
    config.set_kind(kind);
    *config.mutable_training() = training;
    metrics_ = std::make_unique<Metrics>();
    return std::make_unique<LearnedModel>(config, 1, clock_, *metrics_);
  }
  Caption& See(const std::string& text, uint64_t count = 1, uint64_t last_step = 0) {
    book_->SetText(CaptionId(text), text, "");
    Caption& caption = book_->FindOrAdd(CaptionId(text));
    caption.count += count;
    caption.last_step = std::max(caption.last_step, last_step);
    return caption;
  }
  void Label(LearnedModel& model, const std::string& text, double good) {
    const Caption& caption = See(text, 0);
    Tally& tally = tallies_[caption.id];
    ++tally.answers;
    tally.good_sum += good;
    model.Observe(caption, tally, 1);
  }
  void Compare(LearnedModel& model, const std::string& first, const std::string& second, double first_better) {
    comparisons_.Add({CaptionId(first), CaptionId(second)}, {true, first_better});
    model.ObserveComparison(See(first, 0), See(second, 0), first_better);
  }
  std::vector<const Caption*> AllCaptions() const {
    std::vector<const Caption*> captions;
    for (size_t place = 0; place < book_->places(); ++place) captions.push_back(book_->At(place));
    return captions;
  }
  // What a restart does: all labels so far, anew.
  void ObserveAll(LearnedModel& model) {
    model.Restart();
    for (const Caption* caption : AllCaptions()) {
      const Tally tally = tallies_[caption->id];
      model.Observe(*caption, tally, tally.answers);
    }
    for (const auto& [pair, comparison] : comparisons_.all()) {
      model.ObserveComparison(*book_->Find(pair.first), *book_->Find(pair.second), comparison.first_better);
    }
  }
  // Works until there is nothing more to do.
  void Settle(LearnedModel& model) {
    for (int idle = 0; idle < 3;) {
      const double before = metrics_->Counter("sibyl_reward_model_learning_cpu_seconds_total", "").Value();
      model.Work();
      if (model.WantsCaptions()) model.OfferCaptions(AllCaptions(), /*last=*/true);
      idle = metrics_->Counter("sibyl_reward_model_learning_cpu_seconds_total", "").Value() > before ? 0 : idle + 1;
    }
  }
  std::optional<float> ScoreOf(LearnedModel& model, const std::string& text) {
    const Caption* caption = book_->Find(CaptionId(text));
    std::optional<float> score;
    model.Score({&caption, 1}, {&score, 1});
    return score;
  }

  FakeClock clock_;
  std::optional<CaptionBook> book_{std::in_place};
  std::map<uint64_t, Tally> tallies_;
  Comparisons comparisons_{1000};
  std::unique_ptr<Metrics> metrics_;
};

const char* const kColours[] = {"red", "green", "blue", "grey", "purple"};

TEST_F(LearnedModelTest, AClassifierLearnsTheLabelsAndJudgesWhatItHasNotSeen) {
  auto model = Make(v1::REWARD_MODEL_KIND_CLASSIFICATION);
  EXPECT_EQ(model->kind(), "classification");
  for (const std::string colour : kColours) {
    See("You open the " + colour + " door.", 3);
    See("You drop the " + colour + " ball.", 100);
  }
  EXPECT_EQ(ScoreOf(*model, "You open the red door."), std::nullopt) << "before there is a version";
  for (const std::string colour : kColours) {
    if (colour == "purple") continue;
    Label(*model, "You open the " + colour + " door.", 1);
    Label(*model, "You drop the " + colour + " ball.", 0);
  }
  Settle(*model);
  EXPECT_GT(model->score_version(), 0u);
  EXPECT_GT(ScoreOf(*model, "You open the red door.").value_or(-1), 0.9);
  EXPECT_LT(ScoreOf(*model, "You drop the red ball.").value_or(2), 0.1);
  EXPECT_GT(ScoreOf(*model, "You open the purple door.").value_or(-1), 0.6) << "no label of its own";
  EXPECT_LT(ScoreOf(*model, "You drop the purple ball.").value_or(2), 0.4);
  const v1::RewardTransform transform = model->transform();
  EXPECT_FLOAT_EQ(transform.mean(), 0);
  EXPECT_FLOAT_EQ(transform.deviation(), 1);
  EXPECT_EQ(model->TakeChanged(1000).size(), 10u);

  // A caption that appears later is scored as it comes, and a label of it tests the networks first.
  See("You open the yellow door.");
  EXPECT_EQ(ScoreOf(*model, "You open the yellow door."), std::nullopt);
  Settle(*model);
  EXPECT_THAT(model->TakeChanged(1000), ElementsAre(CaptionId("You open the yellow door.")));
  EXPECT_GT(ScoreOf(*model, "You open the yellow door.").value_or(-1), 0.5);
  Label(*model, "You open the yellow door.", 1);
  Settle(*model);
  EXPECT_EQ(metrics_->Gauge("sibyl_reward_model_prequential_accuracy", "").Value(), 1);
}

TEST_F(LearnedModelTest, SoftLabelsGiveSoftScores) {
  auto model = Make(v1::REWARD_MODEL_KIND_CLASSIFICATION);
  for (const auto& [text, good] : {std::pair("a", 0.7), {"b", 0.2}, {"c", 0.5}}) {
    See(text);
    Label(*model, text, good);
  }
  Settle(*model);
  // Balanced: both halves of the mass weigh the same, 1.4 and 1.6 of 3 here.
  EXPECT_NEAR(ScoreOf(*model, "a").value_or(-1), 0.7, 0.08);
  EXPECT_NEAR(ScoreOf(*model, "b").value_or(-1), 0.2, 0.08);
  EXPECT_NEAR(ScoreOf(*model, "c").value_or(-1), 0.5, 0.08);
}

TEST_F(LearnedModelTest, ARankerOrdersCaptionsAndNormalisesByWhatIsSeen) {
  auto model = Make(v1::REWARD_MODEL_KIND_RANKING);
  See("nothing happens", 1000);
  See("a key", 10);
  See("a door", 10);
  Compare(*model, "a key", "nothing happens", 1);
  Compare(*model, "a door", "a key", 1);
  Compare(*model, "nothing happens", "a door", 0);
  Settle(*model);
  const float nothing = *ScoreOf(*model, "nothing happens"), key = *ScoreOf(*model, "a key"),
              door = *ScoreOf(*model, "a door");
  EXPECT_LT(nothing, key);
  EXPECT_LT(key, door);
  const double mean = (1000 * nothing + 10 * key + 10 * door) / 1020;
  const auto square = [&](double x) { return (x - mean) * (x - mean); };
  const v1::RewardTransform transform = model->transform();
  EXPECT_NEAR(transform.mean(), mean, 1e-4);
  EXPECT_NEAR(transform.deviation(), std::sqrt((1000 * square(nothing) + 10 * square(key) + 10 * square(door)) / 1020),
              1e-4);
  EXPECT_NEAR(transform.mean(), 0, 1e-4) << "one network's scores are normalised themselves";
  EXPECT_NEAR(transform.deviation(), 1, 1e-3);
}

TEST_F(LearnedModelTest, AnEnsembleIsAsCautiousAsItIsTold) {
  v1::RewardTrainingConfig training = SmallTraining();
  training.set_ensemble(3);
  training.set_passes(10);
  std::map<v1::EnsembleScore, float> scores;
  for (const auto which : {v1::ENSEMBLE_SCORE_MEAN, v1::ENSEMBLE_SCORE_MINIMUM, v1::ENSEMBLE_SCORE_LOWER_BOUND}) {
    training.set_ensemble_score(which);
    auto model = Make(v1::REWARD_MODEL_KIND_CLASSIFICATION, training);
    book_.emplace();
    tallies_.clear();
    for (const char* text : {"a", "b", "c"}) See(text);
    Label(*model, "a", 1);
    Label(*model, "b", 0);
    Settle(*model);
    scores[which] = *ScoreOf(*model, "c");
    EXPECT_GT(model->Uncertainty(See("c", 0), nullptr), 0);
    EXPECT_GT(metrics_->Gauge("sibyl_reward_model_disagreement", "").Value(), 0);
  }
  EXPECT_LT(scores[v1::ENSEMBLE_SCORE_MINIMUM], scores[v1::ENSEMBLE_SCORE_MEAN]);
  EXPECT_LT(scores[v1::ENSEMBLE_SCORE_LOWER_BOUND], scores[v1::ENSEMBLE_SCORE_MEAN]);
}

TEST_F(LearnedModelTest, TrainingFollowsFromTheNumberOfLabels) {
  v1::RewardTrainingConfig training = SmallTraining();
  training.set_passes(6);
  training.set_batch_size(2);
  auto model = Make(v1::REWARD_MODEL_KIND_CLASSIFICATION, training);
  for (const char* text : {"a", "b", "c"}) Label(*model, text, 1);
  Settle(*model);
  // 6 passes over a batch of 1, then of 2, then of 2 again.
  EXPECT_EQ(metrics_->Counter("sibyl_reward_model_training_steps_total", "").Value(), 6 + 3 + 3);
}

TEST_F(LearnedModelTest, CaptionsNotSeenLatelyAreScoredWhenTheyComeBack) {
  v1::RewardTrainingConfig training = SmallTraining();
  training.set_rescore_steps(100);
  auto model = Make(v1::REWARD_MODEL_KIND_CLASSIFICATION, training);
  See("old", 1, 50);
  Caption& fresh = See("fresh", 1, 120);
  Label(*model, "fresh", 1);
  Settle(*model);
  EXPECT_NE(ScoreOf(*model, "old"), std::nullopt) << "both were seen lately";
  const float before = *ScoreOf(*model, "old");
  model->TakeChanged(1000);
  fresh.last_step = 1000;
  Label(*model, "fresh", 0);
  Settle(*model);
  EXPECT_THAT(model->TakeChanged(1000), ElementsAre(fresh.id));
  EXPECT_FALSE(model->IsStale(fresh));
  EXPECT_TRUE(model->IsStale(See("old", 0)));
  EXPECT_EQ(ScoreOf(*model, "old"), before) << "the old one, until there is a new one";
  Settle(*model);
  EXPECT_NE(ScoreOf(*model, "old"), before);
  EXPECT_FALSE(model->IsStale(See("old", 0)));
}

TEST_F(LearnedModelTest, VersionsComeAtMostThatOften) {
  v1::RewardTrainingConfig training = SmallTraining();
  training.set_version_seconds(2);
  auto model = Make(v1::REWARD_MODEL_KIND_CLASSIFICATION, training);
  See("a");
  Label(*model, "a", 1);
  Settle(*model);
  const uint64_t first = model->score_version();
  Label(*model, "a", 0);
  Settle(*model);
  EXPECT_EQ(model->score_version(), first);
  clock_.Advance(absl::Seconds(2));
  Settle(*model);
  EXPECT_GT(model->score_version(), first);
}

TEST_F(LearnedModelTest, ARestartForgetsWhatWasLearned) {
  auto model = Make(v1::REWARD_MODEL_KIND_RANKING);
  for (const char* text : {"a", "b"}) See(text);
  Compare(*model, "a", "b", 1);
  Settle(*model);
  EXPECT_GT(*ScoreOf(*model, "a"), *ScoreOf(*model, "b"));
  comparisons_.Clear();
  comparisons_.Add({CaptionId("a"), CaptionId("b")}, {true, 0});
  ObserveAll(*model);
  EXPECT_EQ(ScoreOf(*model, "a"), std::nullopt);
  EXPECT_EQ(model->score_version(), 0u);
  Settle(*model);
  EXPECT_LT(*ScoreOf(*model, "a"), *ScoreOf(*model, "b"));
}

TEST_F(LearnedModelTest, GoesOnFromItsFile) {
  const std::string folder = (std::filesystem::path(::testing::TempDir()) / absl::StrCat("sibyl-", FreshRandom64()));
  std::filesystem::create_directories(folder);
  auto model = Make(v1::REWARD_MODEL_KIND_RANKING);
  for (const char* text : {"a", "b", "c"}) See(text);
  Compare(*model, "a", "b", 1);
  Compare(*model, "b", "c", 1);
  Settle(*model);
  const float a = *ScoreOf(*model, "a"), c = *ScoreOf(*model, "c");
  ASSERT_TRUE(model->Save(folder).ok());
  const double trained = metrics_->Counter("sibyl_reward_model_training_steps_total", "").Value();
  EXPECT_GT(trained, 0);

  auto again = Make(v1::REWARD_MODEL_KIND_RANKING);
  ObserveAll(*again);
  ASSERT_TRUE(again->Load(folder).ok());
  Settle(*again);
  EXPECT_EQ(metrics_->Counter("sibyl_reward_model_training_steps_total", "").Value(), 0) << "nothing is due";
  EXPECT_EQ(*ScoreOf(*again, "a"), a);
  EXPECT_EQ(*ScoreOf(*again, "c"), c);

  // Killed before the first file was written: it learns from the labels.
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  auto anew = Make(v1::REWARD_MODEL_KIND_RANKING);
  ObserveAll(*anew);
  ASSERT_TRUE(anew->Load(folder).ok());
  Settle(*anew);
  EXPECT_EQ(metrics_->Counter("sibyl_reward_model_training_steps_total", "").Value(), trained);

  // Killed after labels became durable that the file is too old to know: it learns from those.
  ASSERT_TRUE(anew->Save(folder).ok());
  Compare(*anew, "a", "c", 1);
  Settle(*anew);
  const double with_one_more = metrics_->Counter("sibyl_reward_model_training_steps_total", "").Value();
  auto behind = Make(v1::REWARD_MODEL_KIND_RANKING);
  ObserveAll(*behind);
  ASSERT_TRUE(behind->Load(folder).ok());
  Settle(*behind);
  EXPECT_EQ(metrics_->Counter("sibyl_reward_model_training_steps_total", "").Value(), with_one_more - trained);

  // Of another network.
  ASSERT_TRUE(model->Save(folder).ok());
  v1::RewardTrainingConfig larger = SmallTraining();
  larger.set_text_length(60);
  const absl::Status status = Make(v1::REWARD_MODEL_KIND_RANKING, larger)->Load(folder);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer1.weight"));
  std::filesystem::remove_all(folder);
}

TEST_F(LearnedModelTest, FrozenItScoresAsItDidAndLearnsNothing) {
  const std::string folder = (std::filesystem::path(::testing::TempDir()) / absl::StrCat("sibyl-", FreshRandom64()));
  std::filesystem::create_directories(folder);
  auto model = Make(v1::REWARD_MODEL_KIND_RANKING);
  for (const char* text : {"a", "b", "c"}) See(text, 3);
  Compare(*model, "a", "b", 1);
  Compare(*model, "b", "c", 1);
  Settle(*model);
  const float a = *ScoreOf(*model, "a"), c = *ScoreOf(*model, "c");
  const v1::RewardTransform transform = model->transform();
  ASSERT_TRUE(model->Save(folder).ok());
  const std::string file = folder + "/reward_model.safetensors";

  const auto frozen = Make(v1::REWARD_MODEL_KIND_RANKING, SmallTraining(), file);
  ObserveAll(*frozen);
  ASSERT_TRUE(frozen->Load("nowhere").ok());
  EXPECT_EQ(frozen->score_version(), model->score_version());
  EXPECT_EQ(frozen->transform().SerializeAsString(), transform.SerializeAsString());
  Compare(*frozen, "c", "a", 1);
  EXPECT_EQ(ScoreOf(*frozen, "a"), std::nullopt) << "it is on its way";
  ScoreOf(*frozen, "c");
  Settle(*frozen);
  EXPECT_NEAR(ScoreOf(*frozen, "a").value_or(0), a, 1e-5);
  EXPECT_NEAR(ScoreOf(*frozen, "c").value_or(0), c, 1e-5);
  EXPECT_EQ(metrics_->Counter("sibyl_reward_model_training_steps_total", "").Value(), 0);
  // The file stays what it is.
  std::filesystem::create_directories(folder + "/run");
  ASSERT_TRUE(frozen->Save(folder + "/run").ok());
  EXPECT_TRUE(std::filesystem::is_empty(folder + "/run"));
  EXPECT_TRUE(absl::IsNotFound(Make(v1::REWARD_MODEL_KIND_RANKING, SmallTraining(), folder + "/none")->Load(folder)));
  std::filesystem::remove_all(folder);
}

TEST_F(LearnedModelTest, WeightsThatAreNotFiniteAreRefusedByName) {
  const std::string folder = (std::filesystem::path(::testing::TempDir()) / absl::StrCat("sibyl-", FreshRandom64()));
  std::filesystem::create_directories(folder);
  ASSERT_TRUE(Make(v1::REWARD_MODEL_KIND_CLASSIFICATION)->Save(folder).ok());
  const std::string path = folder + "/reward_model.safetensors";
  TensorFile file = *ReadTensors(path);
  auto damaged = std::find_if(file.tensors.begin(), file.tensors.end(),
                              [](const auto& named) { return named.second.is_floating_point(); });
  ASSERT_NE(damaged, file.tensors.end());
  damaged->second.view(-1)[0] = std::numeric_limits<float>::quiet_NaN();
  ASSERT_TRUE(WriteTensors(path, file.tensors, file.metadata).ok());
  for (const std::string& weights_file : {std::string(), path}) {  // a run's own, and a frozen model's
    const absl::Status status = Make(v1::REWARD_MODEL_KIND_CLASSIFICATION, SmallTraining(), weights_file)->Load(folder);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
    EXPECT_THAT(std::string(status.message()), HasSubstr(damaged->first));
  }
  std::filesystem::remove_all(folder);
}

TEST_F(LearnedModelTest, UncertaintyIsThatOfACoinWhereOneNetworkCannotTell) {
  auto model = Make(v1::REWARD_MODEL_KIND_RANKING);
  for (const char* text : {"a", "b", "c"}) See(text, 1);
  EXPECT_EQ(model->Uncertainty(See("a", 0), &See("b", 0)), std::numeric_limits<double>::infinity());
  Compare(*model, "a", "b", 1);
  Compare(*model, "c", "b", 1);
  Compare(*model, "a", "c", 0.5);
  Settle(*model);
  EXPECT_GT(model->Uncertainty(See("a", 0), &See("c", 0)), model->Uncertainty(See("a", 0), &See("b", 0)));
  const double p = Sigmoid(*ScoreOf(*model, "a") - *ScoreOf(*model, "b"));
  EXPECT_NEAR(model->Uncertainty(See("a", 0), &See("b", 0)), p * (1 - p), 1e-6);
}

}  // namespace
}  // namespace sibyl::reward_model
