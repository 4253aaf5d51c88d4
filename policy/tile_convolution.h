#pragma once

#include "common/mutex.h"
#include "policy/torch.h"

namespace sibyl {

// NetHack's first convolution, 8x8 with stride 4 over a picture of 12x12 tiles of 6x6 pixels, without drawing the
// picture (on a CPU a third of the whole network's time). Each of the 17x17 places looks at exactly 2x2 tiles, in one
// of nine alignments, so that it is the sum of four rows of a table: what each of the 1,536 tiles adds, in each of the
// 36 places that it can have under the kernel. The table is computed from the weights, once a version of them where no
// gradient is wanted, and differentiably otherwise.
class TileConvolution {
 public:
  TileConvolution();

  // weight [32, 3, 8, 8], bias [32], index int64 [N, 12, 12] (TileIndex), all on the CPU. Returns [N, 32, 17, 17] in
  // channels-last memory: conv2d(DrawTiles(TileTable(), index), weight, bias, 4), up to rounding.
  // Several threads may call this as long as nobody writes the weights.
  torch::Tensor Apply(const torch::Tensor& weight, const torch::Tensor& bias, const torch::Tensor& index);

 private:
  torch::Tensor MakeTable(const torch::Tensor& weight) const;

  const torch::Tensor kernel_places_, ink_, colours_;  // constants
  Mutex mutex_;
  torch::Tensor table_ ABSL_GUARDED_BY(mutex_);  // of the weights below
  const void* table_of_ ABSL_GUARDED_BY(mutex_) = nullptr;
  uint32_t table_version_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace sibyl
