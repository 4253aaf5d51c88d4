#include "policy/nethack_oni.h"

#include <array>

#include "common/feedback.h"
#include "common/status_macros.h"
#include "policy/array_index.h"
#include "policy/autocast.h"
#include "policy/gru.h"
#include "policy/tile_convolution.h"
#include "policy/tiles.h"

namespace sibyl {
namespace {

constexpr int64_t kMapRows = 21, kMapColumns = 79, kCrop = 12, kBefore = 6;
constexpr int64_t kStatus = 27, kMessage = 256, kHidden = 128, kPicture = 512, kState = 512;
constexpr int64_t kPictureOutputs = 128 * 3 * 3;

// What each of blstats is divided by, so that a usual value is about 1.
constexpr std::array<float, kStatus> kStatusUnits = {
    79,   21,                    // x, y
    100,                         // strength percentage
    20,   20, 20,   20, 20, 20,  // strength, dexterity, constitution, intelligence, wisdom, charisma
    1000,                        // score
    20,   20,                    // hit points, their maximum
    10,                          // depth
    500,                         // gold
    20,   20,                    // energy, its maximum
    10,                          // armour class
    10,   10, 1000,              // monster level, experience level, experience points
    2000,                        // turns
    2,    2,                     // hunger, burden
    4,    10,                    // dungeon, level in it
    100,                         // condition, a set of bits
    1,                           // alignment
};
constexpr float kMessageUnit = 128;
constexpr double kStatusClip = 5;

class NetHackOni : public Policy {
 public:
  NetHackOni(const v1::PolicyConfig& config, const v1::EnvironmentSpec& spec, int64_t values, int chars, int colours,
             int status, int message)
      : Policy(spec), chars_(chars), colours_(colours), status_(status), message_(message) {
    conv1_ = register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 32, 8).stride(4)));
    conv2_ = register_module("conv2", torch::nn::Conv2d(torch::nn::Conv2dOptions(32, 64, 4).stride(2)));
    conv3_ = register_module("conv3", torch::nn::Conv2d(torch::nn::Conv2dOptions(64, 128, 3).stride(2)));
    picture_ = register_module("picture", torch::nn::Linear(kPictureOutputs, kPicture));
    status1_ = register_module("status1", torch::nn::Linear(kStatus, kHidden));
    status2_ = register_module("status2", torch::nn::Linear(kHidden, kHidden));
    message1_ = register_module("message1", torch::nn::Linear(kMessage, kHidden));
    message2_ = register_module("message2", torch::nn::Linear(kHidden, kHidden));
    gru_ = register_module("gru", Gru(kPicture + 2 * kHidden + kStatus + FeedbackNumbers(spec), kState));
    actor_ = register_module("actor", ActionHead(kState, distribution_));
    critic_ = register_module("critic", Critic(kState, config, values));
    for (torch::nn::Conv2d layer : {conv1_, conv2_, conv3_}) InitOrthogonal(*layer, std::sqrt(2));
    for (torch::nn::Linear layer : {picture_, status1_, status2_, message1_, message2_}) {
      InitOrthogonal(*layer, std::sqrt(2));
    }
    InitOrthogonal(*actor_, 0.01);
    if (config.normalise_observations()) {
      input_statistics_ = register_module("inputs", RunningStatistics(kStatus, 0));
    }
    tiles_ = register_buffer("tiles", TileTable());
    status_scale_ = register_buffer("status_scale", torch::tensor(at::ArrayRef<float>(kStatusUnits)).reciprocal());
  }

  PolicyOutput Forward(const Observations& observations, const torch::Tensor& first,
                       const torch::Tensor& state) override {
    const int64_t T = first.size(0), B = first.size(1), N = T * B;
    const torch::Tensor blstats = observations[status_].reshape({N, kStatus});
    const torch::Tensor cells = CropAroundHero(observations[chars_].reshape({N, kMapRows, kMapColumns}),
                                               observations[colours_].reshape({N, kMapRows, kMapColumns}), blstats);
    const auto device = cells.device().type();
    torch::Tensor states;
    {
      const Autocast autocast(device, bfloat16_);
      torch::Tensor picture = torch::elu(cells.is_cpu() ? tile_convolution_.Apply(conv1_->weight, conv1_->bias, cells)
                                                        : conv1_(DrawTiles(tiles_, cells)));
      picture = torch::elu(conv2_(picture));
      // Channels last already, so that this view is free; the weights' columns are in that order.
      picture = torch::elu(conv3_(picture)).permute({0, 2, 3, 1}).reshape({N, kPictureOutputs});
      picture = torch::elu(picture_(picture));
      const torch::Tensor scaled = NormalisedNumbers(observations);
      const torch::Tensor status = torch::elu(status2_(torch::elu(status1_(scaled))));
      torch::Tensor message = observations[message_].reshape({N, kMessage}).to(torch::kFloat32) / kMessageUnit;
      message = torch::elu(message2_(torch::elu(message1_(message))));
      states = gru_(WithFeedback(torch::cat({picture, status, message, scaled}, 1), observations).view({T, B, -1}),
                    first, state);
    }
    return Output(states, states, observations);
  }

  torch::Tensor InputNumbers(const Observations& observations) const override {
    const torch::Tensor blstats = observations[status_].reshape({-1, kStatus});
    return (blstats.to(torch::kFloat32) * status_scale_).clamp(-kStatusClip, kStatusClip);
  }

  int64_t state_size() const override { return kState; }

 private:
  const int chars_, colours_, status_, message_;  // where the arrays are
  torch::nn::Conv2d conv1_{nullptr}, conv2_{nullptr}, conv3_{nullptr};
  torch::nn::Linear picture_{nullptr}, status1_{nullptr}, status2_{nullptr}, message1_{nullptr}, message2_{nullptr};
  Gru gru_{nullptr};
  torch::Tensor tiles_, status_scale_;  // constants
  TileConvolution tile_convolution_;
};

}  // namespace

torch::Tensor CropAroundHero(const torch::Tensor& chars, const torch::Tensor& colours, const torch::Tensor& blstats) {
  const int64_t N = chars.size(0), rows = chars.size(1), columns = chars.size(2);
  const torch::Tensor offset = torch::arange(-kBefore, kCrop - kBefore, blstats.options());
  const torch::Tensor x = blstats.select(1, 0).clamp(0, columns - 1).unsqueeze(1) + offset;  // [N, 12]
  const torch::Tensor y = blstats.select(1, 1).clamp(0, rows - 1).unsqueeze(1) + offset;
  const torch::Tensor outside =
      (x.lt(0).logical_or(x.ge(columns))).unsqueeze(1).logical_or((y.lt(0).logical_or(y.ge(rows))).unsqueeze(2));
  const torch::Tensor cell = (y.clamp(0, rows - 1) * columns).unsqueeze(2) + x.clamp(0, columns - 1).unsqueeze(1);
  const torch::Tensor place = cell.view({N, kCrop * kCrop});
  const auto take = [&](const torch::Tensor& map) {
    return map.reshape({N, -1}).gather(1, place).view({N, kCrop, kCrop});
  };
  return TileIndex(take(chars), take(colours)).masked_fill_(outside, 0);  // the first tile is blank
}

absl::StatusOr<std::shared_ptr<Policy>> MakeNetHackOni(const v1::PolicyConfig& config, const v1::EnvironmentSpec& spec,
                                                       int64_t values) {
  constexpr v1::PolicyKind kKind = v1::POLICY_KIND_NETHACK_ONI;
  SIBYL_ASSIGN_OR_RETURN(const int chars, ArrayIndex(kKind, spec, "chars", v1::DTYPE_UINT8, {kMapRows, kMapColumns}));
  SIBYL_ASSIGN_OR_RETURN(const int colours,
                         ArrayIndex(kKind, spec, "colors", v1::DTYPE_UINT8, {kMapRows, kMapColumns}));
  SIBYL_ASSIGN_OR_RETURN(const int status, ArrayIndex(kKind, spec, "blstats", v1::DTYPE_INT64, {kStatus}));
  SIBYL_ASSIGN_OR_RETURN(const int message, ArrayIndex(kKind, spec, "message", v1::DTYPE_UINT8, {kMessage}));
  return std::make_shared<NetHackOni>(config, spec, values, chars, colours, status, message);
}

}  // namespace sibyl
