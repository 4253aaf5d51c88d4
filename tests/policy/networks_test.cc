#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>

#include "common/action_spec.h"
#include "common/feedback.h"
#include "policy/nethack_oni.h"
#include "policy/policy.h"
#include "policy/tile_convolution.h"
#include "policy/tiles.h"
#include "random_observations.h"

namespace sibyl {
namespace {

std::shared_ptr<Policy> Make(v1::PolicyKind kind, const v1::EnvironmentSpec& spec, uint64_t seed = 1) {
  torch::manual_seed(seed);
  auto policy = MakePolicy(PolicyOf(kind), spec);
  EXPECT_TRUE(policy.ok()) << policy.status();
  return *policy;
}

int64_t Parameters(const Policy& policy) {
  int64_t count = 0;
  for (const torch::Tensor& parameter : policy.parameters()) count += parameter.numel();
  return count;
}

Observations Step(const Observations& observations, int64_t t) {
  Observations step;
  for (const torch::Tensor& array : observations) step.push_back(array.slice(0, t, t + 1));
  return step;
}

class NetworkTest : public testing::TestWithParam<v1::PolicyKind> {
 protected:
  v1::EnvironmentSpec Spec() const {
    return GetParam() == v1::POLICY_KIND_NETHACK_ONI ? NetHackSpec() : MinigridSpec();
  }
};

TEST_P(NetworkTest, GivesTheSameForAnUnrollAndStepByStep) {
  const auto policy = Make(GetParam(), Spec());
  constexpr int64_t T = 6, B = 3;
  const Observations observations = RandomObservations(Spec(), T, B);
  const torch::Tensor first = RandomFlags(T, B, 3);
  torch::Tensor state = torch::randn({B, policy->state_size()});
  const PolicyOutput whole = policy->Forward(observations, first, state);
  const int64_t actions = AllChoices(Spec().action());
  EXPECT_EQ(whole.action.sizes(), (std::vector<int64_t>{T, B, actions}));
  EXPECT_EQ(whole.critic.sizes(), (std::vector<int64_t>{T, B, 1, 1}));
  EXPECT_EQ(whole.value.sizes(), (std::vector<int64_t>{T, B, 1}));
  EXPECT_EQ(whole.states.sizes(), (std::vector<int64_t>{T, B, policy->state_size()}));
  torch::NoGradGuard no_grad;
  for (int64_t t = 0; t < T; ++t) {
    const PolicyOutput step = policy->Forward(Step(observations, t), first.slice(0, t, t + 1), state);
    EXPECT_TRUE(torch::allclose(step.action[0], whole.action[t], 1e-4, 1e-5)) << "step " << t;
    EXPECT_TRUE(torch::allclose(step.value[0], whole.value[t], 1e-4, 1e-5)) << "step " << t;
    EXPECT_TRUE(torch::allclose(step.states[0], whole.states[t], 1e-4, 1e-5)) << "step " << t;
    state = step.states[0];
  }
}

TEST_P(NetworkTest, TrainsEveryParameter) {
  const auto policy = Make(GetParam(), Spec());
  const PolicyOutput output =
      policy->Forward(RandomObservations(Spec(), 3, 4), RandomFlags(3, 4, 5), torch::randn({4, policy->state_size()}));
  (output.action.square().sum() + output.critic.square().sum()).backward();
  for (const auto& parameter : policy->named_parameters()) {
    if (!parameter.value().requires_grad()) continue;  // statistics
    ASSERT_TRUE(parameter.value().grad().defined()) << parameter.key();
    EXPECT_GT(parameter.value().grad().abs().sum().item<float>(), 0) << parameter.key();
  }
}

TEST_P(NetworkTest, IsNearlyTheSameInBfloat16AndSoAreItsGradients) {
  const auto exact = Make(GetParam(), Spec()), policy = Make(GetParam(), Spec());
  policy->UseBfloat16();
  constexpr int64_t T = 6, B = 16;
  const Observations observations = RandomObservations(Spec(), T, B);
  const torch::Tensor first = RandomFlags(T, B, 3), state = torch::randn({B, policy->state_size()});
  const torch::Tensor by_logits = torch::randn({T, B, AllChoices(Spec().action())}),
                      by_value = torch::randn({T, B, 1, 1});
  const auto run = [&](Policy& network) {
    PolicyOutput output = network.Forward(observations, first, state);
    ((output.action * by_logits).sum() + (output.critic * by_value).sum()).backward();
    return output;
  };
  const PolicyOutput expected = run(*exact), output = run(*policy);
  for (const auto& [got, wanted] : {std::pair(output.action, expected.action), {output.value, expected.value}}) {
    EXPECT_EQ(got.scalar_type(), torch::kFloat32);
    EXPECT_LT((got - wanted).norm().item<float>(), 0.02 * wanted.norm().item<float>());
  }
  EXPECT_EQ(output.states.scalar_type(), torch::kFloat32);
  const auto expected_parameters = exact->parameters(), parameters = policy->parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!parameters[i].requires_grad()) continue;  // statistics
    const torch::Tensor got = parameters[i].grad(), wanted = expected_parameters[i].grad();
    ASSERT_EQ(got.scalar_type(), torch::kFloat32);
    // A unit that rounding switches on or off changes what comes before it: up to 0.15 over a dozen seeds.
    EXPECT_LT((got - wanted).norm().item<float>(), 0.2 * wanted.norm().item<float>()) << i;
  }
  EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU)) << "nothing is left switched on";
}

TEST_P(NetworkTest, FollowsItsWeightsInBfloat16) {
  const auto policy = Make(GetParam(), Spec());
  policy->UseBfloat16();
  const Observations observations = RandomObservations(Spec(), 1, 4);
  const torch::Tensor first = RandomFlags(1, 4, 3), state = torch::randn({4, policy->state_size()});
  const torch::Tensor before = policy->Forward(observations, first, state).action.detach();
  {
    torch::NoGradGuard no_grad;
    for (torch::Tensor& parameter : policy->parameters()) {
      if (parameter.requires_grad()) parameter.mul_(0);
    }
  }
  EXPECT_EQ(policy->Forward(observations, first, state).action.abs().max().item<float>(), 0);
  EXPECT_GT(before.abs().max().item<float>(), 0);
}

TEST_P(NetworkTest, StartsNearlyUniform) {
  const auto policy = Make(GetParam(), Spec());
  const PolicyOutput output =
      policy->Forward(RandomObservations(Spec(), 4, 8), RandomFlags(4, 8, 5), torch::zeros({8, policy->state_size()}));
  const torch::Tensor probabilities = output.action.softmax(-1);
  EXPECT_TRUE(probabilities.isfinite().all().item<bool>());
  EXPECT_LT((probabilities * AllChoices(Spec().action()) - 1).abs().max().item<float>(), 0.5);
}

TEST_P(NetworkTest, TakesAnyBytes) {
  const auto policy = Make(GetParam(), Spec());
  Observations observations = RandomObservations(Spec(), 2, 2);
  for (const int64_t value : {std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min(), int64_t{-1}}) {
    for (torch::Tensor& array : observations) {
      array.fill_(array.scalar_type() == torch::kUInt8 ? int64_t{255} : value);
    }
    const PolicyOutput output =
        policy->Forward(observations, RandomFlags(2, 2, 2), torch::zeros({2, policy->state_size()}));
    EXPECT_TRUE(output.action.isfinite().all().item<bool>());
    EXPECT_TRUE(output.value.isfinite().all().item<bool>());
  }
}

TEST_P(NetworkTest, IsTheSameForTheSameSeed) {
  const auto a = Make(GetParam(), Spec(), 7), b = Make(GetParam(), Spec(), 7), c = Make(GetParam(), Spec(), 8);
  EXPECT_TRUE(torch::equal(a->parameters()[0], b->parameters()[0]));
  EXPECT_FALSE(torch::equal(a->parameters()[0], c->parameters()[0]));
}

INSTANTIATE_TEST_SUITE_P(AllNetworks, NetworkTest,
                         testing::Values(v1::POLICY_KIND_MLP, v1::POLICY_KIND_MINIGRID_CONV_GRU,
                                         v1::POLICY_KIND_NETHACK_ONI),
                         [](const auto& info) { return v1::PolicyKind_Name(info.param).substr(12); });

TEST(MakePolicy, ChoosesByTheEnvironmentsName) {
  EXPECT_EQ(Make(v1::POLICY_KIND_AUTO, MinigridSpec())->state_size(), 128);
  EXPECT_EQ(Make(v1::POLICY_KIND_AUTO, NetHackSpec())->state_size(), 512);
  v1::EnvironmentSpec other = MinigridSpec();
  other.set_name("debug/Test");
  EXPECT_EQ(Make(v1::POLICY_KIND_AUTO, other)->state_size(), 0);
}

TEST(MakePolicy, NamesTheArrayThatDoesNotFit) {
  const auto missing = MakePolicy(PolicyOf(v1::POLICY_KIND_NETHACK_ONI), MinigridSpec());
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(missing.status().message().find("`chars` uint8 [21, 79]"), std::string::npos) << missing.status();
  v1::EnvironmentSpec spec = MinigridSpec();
  *spec.mutable_observation(0) = MakeTensorSpec("image", v1::DTYPE_UINT8, {9, 9, 3});
  const auto other = MakePolicy({}, spec);
  EXPECT_EQ(other.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(other.status().message().find("`image` uint8 [7, 7, 3]"), std::string::npos) << other.status();
  EXPECT_NE(other.status().message().find("`image` uint8 [9, 9, 3]"), std::string::npos) << other.status();
}

TEST(MakePolicy, NormalisesTheNumbersThatTheNetworkReads) {
  for (const auto& [kind, spec] : {std::pair(v1::POLICY_KIND_MLP, MinigridSpec()),
                                   {v1::POLICY_KIND_MINIGRID_CONV_GRU, MinigridSpec()},
                                   {v1::POLICY_KIND_NETHACK_ONI, NetHackSpec()}}) {
    v1::PolicyConfig config = PolicyOf(kind);
    config.set_normalise_observations(true);
    torch::manual_seed(1);
    const auto policy = *MakePolicy(config, spec);
    const Observations observations = RandomObservations(spec, 3, 4);
    const auto logits = [&] {
      return policy->Forward(observations, RandomFlags(3, 4, 100), torch::zeros({4, policy->state_size()}))
          .action.detach();
    };
    const torch::Tensor before = logits(), numbers = policy->InputNumbers(observations);
    EXPECT_EQ(numbers.size(0), 12);
    policy->input_statistics()->Follow(numbers.mean(0), numbers.square().mean(0), 12);
    EXPECT_FALSE(torch::allclose(logits(), before));
  }
}

TEST(MakePolicy, ReadsWhatThePolicyIsToldOfItsLastStep) {
  for (const auto& [kind, spec] : {std::pair(v1::POLICY_KIND_MLP, MinigridSpec()),
                                   {v1::POLICY_KIND_MINIGRID_CONV_GRU, MinigridSpec()},
                                   {v1::POLICY_KIND_NETHACK_ONI, NetHackSpec()}}) {
    v1::Experiment experiment;
    *experiment.mutable_policy() = PolicyOf(kind);
    experiment.mutable_policy()->set_last_action(true);
    experiment.mutable_policy()->set_last_rewards(true);
    experiment.mutable_reward()->set_intrinsic_coefficient(0.1);
    const Feedback feedback(experiment, spec);
    ASSERT_EQ(feedback.numbers(), static_cast<size_t>(AllChoices(spec.action()) + 2));
    torch::manual_seed(1);
    const auto policy = *MakePolicy(experiment.policy(), feedback.PolicySpec(), experiment.reward());
    Observations observations = RandomObservations(spec, 2, 3);
    observations.push_back(torch::zeros({2, 3, static_cast<int64_t>(feedback.numbers())}));
    const auto output = [&] {
      torch::NoGradGuard no_grad;
      return policy->Forward(observations, RandomFlags(2, 3, 100), torch::zeros({3, policy->state_size()})).action;
    };
    const torch::Tensor before = output();
    for (size_t i = 0; i < feedback.numbers(); ++i) {
      observations.back().zero_();
      observations.back().select(-1, static_cast<int64_t>(i)).fill_(1);
      EXPECT_FALSE(torch::allclose(output(), before, 0, 1e-7)) << "number " << i;
    }
    const auto plain = Make(kind, spec);
    EXPECT_GT(Parameters(*policy), Parameters(*plain));
  }
}

TEST(Mlp, StaysFiniteOverWholeRangesOfIntegers) {
  v1::EnvironmentSpec spec;
  spec.set_name("debug/Test");
  *spec.add_observation() = MakeTensorSpec("seed", v1::DTYPE_INT64, {1});
  *spec.add_observation() = MakeTensorSpec("step", v1::DTYPE_INT32, {2});
  *spec.add_observation() = MakeTensorSpec("figure", v1::DTYPE_FLOAT32, {});
  *spec.mutable_action() = OneOf({"a", "b"});
  const auto policy = Make(v1::POLICY_KIND_AUTO, spec);
  const Observations observations = {
      torch::tensor({std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()}).view({1, 2, 1}),
      torch::tensor({std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min(), 0, -1}).view({1, 2, 2}),
      torch::tensor({1.0f, -1.0f}).view({1, 2})};
  const PolicyOutput output = policy->Forward(observations, RandomFlags(1, 2, 2), torch::zeros({2, 0}));
  EXPECT_TRUE(output.action.isfinite().all().item<bool>());
  EXPECT_LT(output.value.abs().max().item<float>(), 1000);
}

TEST(NetHackOni, HasThePublishedNumberOfParameters) {
  EXPECT_EQ(Parameters(*Make(v1::POLICY_KIND_NETHACK_ONI, NetHackSpec(28))), 2798205);
  EXPECT_EQ(Parameters(*Make(v1::POLICY_KIND_NETHACK_ONI, NetHackSpec(23))), 2798205 - 5 * 513);
}

struct Map {
  torch::Tensor chars = torch::full({1, 21, 79}, ' ', torch::kUInt8);
  torch::Tensor colours = torch::full({1, 21, 79}, 7, torch::kUInt8);
  torch::Tensor blstats = torch::zeros({1, 27}, torch::kInt64);
  torch::Tensor Crop(int64_t x, int64_t y) {
    chars[0][y][x] = '@';
    blstats[0][0] = x;
    blstats[0][1] = y;
    return CropAroundHero(chars, colours, blstats)[0];
  }
};

int64_t Tile(char c, int64_t colour) { return (c - 32) * kTileColours + colour; }

TEST(NetHackCrop, HasTheHeroInItsMiddleWhereverHeStands) {
  for (const auto& [x, y] : {std::pair(0, 0), {78, 20}, {0, 20}, {78, 0}, {40, 10}, {5, 3}}) {
    Map map;
    EXPECT_EQ(map.Crop(x, y)[6][6].item<int64_t>(), Tile('@', 7)) << x << ", " << y;
  }
}

TEST(NetHackCrop, IsBlankBeyondTheMap) {
  Map map;
  map.chars.fill_('.');
  const torch::Tensor corner = map.Crop(0, 0);
  EXPECT_EQ(corner.eq(0).sum().item<int64_t>(), 144 - 36);
  EXPECT_TRUE(corner.slice(0, 0, 6).eq(0).all().item<bool>());
  EXPECT_TRUE(corner.slice(1, 0, 6).eq(0).all().item<bool>());
  EXPECT_EQ(corner[11][11].item<int64_t>(), Tile('.', 7));
  Map other;
  other.chars.fill_('.');
  const torch::Tensor opposite = other.Crop(78, 20);
  EXPECT_EQ(opposite.eq(0).sum().item<int64_t>(), 144 - 49);
  EXPECT_EQ(opposite[0][0].item<int64_t>(), Tile('.', 7));
}

TEST(NetHackCrop, ShowsEachCellWhereItIs) {
  Map map;
  map.chars[0][8][37] = 'd';
  map.colours[0][8][37] = 1;
  const torch::Tensor crop = map.Crop(40, 10);
  EXPECT_EQ(crop[6 - 2][6 - 3].item<int64_t>(), Tile('d', 1));
}

TEST(NetHackOni, SeesWhatIsNearAndNothingFarAway) {
  const auto policy = Make(v1::POLICY_KIND_NETHACK_ONI, NetHackSpec());
  Map map;
  map.Crop(40, 10);
  const auto value = [&](const Map& shown) {
    const Observations observations = {shown.chars.unsqueeze(0), shown.colours.unsqueeze(0), shown.blstats.unsqueeze(0),
                                       torch::zeros({1, 1, 256}, torch::kUInt8)};
    torch::NoGradGuard no_grad;
    return policy->Forward(observations, torch::ones({1, 1}, torch::kBool), torch::zeros({1, 512})).value.item<float>();
  };
  const float before = value(map);
  map.chars[0][10][50] = 'D';
  EXPECT_EQ(value(map), before);
  map.chars[0][10][42] = 'D';
  EXPECT_NE(value(map), before);
}

TEST(Tiles, AreAllDifferentButForTheBlankOnes) {
  const torch::Tensor tiles = TileTable().view({kTiles, -1});
  const torch::Tensor different = std::get<0>(torch::unique_dim(tiles, 0));
  EXPECT_EQ(different.size(0), (kGlyphs - 1) * kTileColours + 1);  // a space has no colour
}

TEST(Tiles, ShowTheirCharacterInTheirColour) {
  const torch::Tensor tile = TileTable()[Tile('-', 15)];
  EXPECT_EQ(tile.sum().item<float>(), 15);  // one white stroke of five pixels
  EXPECT_TRUE(TileTable()[Tile('@', 1)].select(-1, 2).eq(0).all().item<bool>());
}

TEST(Tiles, GiveOneGlyphToAllUnprintableBytes) {
  const torch::Tensor bytes = torch::tensor({0, 31, 127, 128, 255}).to(torch::kUInt8);
  const torch::Tensor index = TileIndex(bytes, torch::zeros({5}, torch::kUInt8));
  EXPECT_TRUE(index.eq((kGlyphs - 1) * kTileColours).all().item<bool>());
}

TEST(Tiles, LieWhereTheirCellsAre) {
  torch::manual_seed(1);
  const torch::Tensor index = torch::randint(kTiles, {2, 12, 12});
  const torch::Tensor table = TileTable(), picture = DrawTiles(table, index);
  ASSERT_EQ(picture.sizes(), (std::vector<int64_t>{2, 3, 72, 72}));
  EXPECT_TRUE(picture.is_contiguous(torch::MemoryFormat::ChannelsLast));
  for (int64_t row = 0; row < 12; ++row) {
    for (int64_t column = 0; column < 12; ++column) {
      const torch::Tensor cell = picture[1].slice(1, 6 * row, 6 * row + 6).slice(2, 6 * column, 6 * column + 6);
      ASSERT_TRUE(torch::equal(cell.permute({1, 2, 0}), table[index[1][row][column].item<int64_t>()]));
    }
  }
}

TEST(TileConvolution, IsTheConvolutionOverThePicture) {
  torch::manual_seed(2);
  const torch::Tensor weight = torch::randn({32, 3, 8, 8}).requires_grad_(), bias = torch::randn({32}).requires_grad_();
  const torch::Tensor index = torch::randint(kTiles, {5, 12, 12}), scale = torch::randn({5, 32, 17, 17});
  const torch::Tensor expected = torch::conv2d(DrawTiles(TileTable(), index), weight, bias, 4);
  TileConvolution convolution;
  const torch::Tensor actual = convolution.Apply(weight, bias, index);
  EXPECT_TRUE(torch::allclose(actual, expected, 1e-4, 1e-4));
  const auto gradient = torch::autograd::grad({(actual * scale).sum()}, {weight, bias});
  const auto expected_gradient = torch::autograd::grad({(expected * scale).sum()}, {weight, bias});
  EXPECT_TRUE(torch::allclose(gradient[0], expected_gradient[0], 1e-3, 1e-2));
  EXPECT_TRUE(torch::allclose(gradient[1], expected_gradient[1], 1e-3, 1e-2));
}

TEST(TileConvolution, FollowsItsWeights) {
  torch::manual_seed(3);
  torch::NoGradGuard no_grad;
  torch::Tensor weight = torch::randn({32, 3, 8, 8});
  const torch::Tensor bias = torch::zeros({32}), index = torch::randint(kTiles, {2, 12, 12});
  TileConvolution convolution;
  const torch::Tensor before = convolution.Apply(weight, bias, index);
  EXPECT_TRUE(torch::equal(convolution.Apply(weight, bias, index), before));
  weight.mul_(2);
  EXPECT_TRUE(torch::allclose(convolution.Apply(weight, bias, index), before * 2, 1e-4, 1e-4));
}

}  // namespace
}  // namespace sibyl
