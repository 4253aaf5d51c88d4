#pragma once

#include "policy/policy.h"

namespace sibyl {

// ONI's network for NetHack (arXiv 2410.23022), 2,798,205 parameters with 28 actions:
//   the 12x12 cells around the hero, "chars" and "colors" uint8 [21, 79], drawn as tiles of 6x6 pixels (3x72x72), blank
//     beyond the map's border -> convolutions 32 (8x8, stride 4), 64 (4x4, 2), 128 (3x3, 2), ELU -> 512;
//   "blstats" int64 [27], scaled and clipped to +-5 -> 128 -> 128;
//   "message" uint8 [256], scaled -> 128 -> 128;
//   all three and the scaled blstats themselves -> GRU 512 -> policy, value.
// The hero stands at column blstats[0], row blstats[1]. InvalidArgument: one of these arrays is missing or has another
// shape.
absl::StatusOr<std::shared_ptr<Policy>> MakeNetHackOni(const v1::PolicyConfig& config, const v1::EnvironmentSpec& spec,
                                                       int64_t values);

// The 12x12 cells around the hero, 6 before and 5 behind it each way: chars and colours uint8 [N, 21, 79], blstats
// int64 [N, 27] to rows of the tile table, int64 [N, 12, 12].
torch::Tensor CropAroundHero(const torch::Tensor& chars, const torch::Tensor& colours, const torch::Tensor& blstats);

}  // namespace sibyl
