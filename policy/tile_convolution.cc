#include "policy/tile_convolution.h"

#include <cstring>

#include "policy/autocast.h"
#include "policy/tiles.h"

namespace sibyl {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kKernel = 8, kStride = 4, kCells = 12, kOutputs = 17, kChannels = 32;
static_assert(kOutputs == (kCells * kTileSize - kKernel) / kStride + 1);
// Along one axis: the kernel begins at pixel 0, 4 or 2 of a tile (place modulo 3), and reaches into the tile behind it.
constexpr int64_t kPhases = 3, kSides = kPhases * 2, kPieces = kSides * kSides;
constexpr int64_t Begin(int64_t phase) { return phase * kStride % kTileSize; }
// The kernel's pixel that lies on a tile's pixel, where the tile is on that side (2 * phase + 0 or 1); kKernel or more,
// or less than 0: none does.
constexpr int64_t KernelPixel(int64_t side, int64_t pixel) { return pixel - Begin(side / 2) + side % 2 * kTileSize; }

// [kPieces * 36]: which pixel of the kernel each pixel of a tile meets; 64 where none.
Tensor KernelPlaces() {
  Tensor places = torch::full({kPieces, kTileSize, kTileSize}, kKernel * kKernel, torch::kInt64);
  auto place = places.accessor<int64_t, 3>();
  for (int64_t piece = 0; piece < kPieces; ++piece) {
    for (int64_t y = 0; y < kTileSize; ++y) {
      for (int64_t x = 0; x < kTileSize; ++x) {
        const int64_t ky = KernelPixel(piece / kSides, y), kx = KernelPixel(piece % kSides, x);
        if (ky >= 0 && ky < kKernel && kx >= 0 && kx < kKernel) place[piece][y][x] = ky * kKernel + kx;
      }
    }
  }
  return places.view(-1);
}

// Calls visit(place, row, row, row, row) for each of the 17x17 places of one observation: the table's rows that add up
// to it.
template <typename Visit>
void ForEachPiece(const int64_t* index, const Visit& visit) {
  for (int64_t y = 0; y < kOutputs; ++y) {
    for (int64_t x = 0; x < kOutputs; ++x) {
      const int64_t* const cell = index + y * kStride / kTileSize * kCells + x * kStride / kTileSize;
      const int64_t piece = (y % kPhases * 2) * kSides + x % kPhases * 2;
      visit(y * kOutputs + x, piece * kTiles + cell[0], (piece + 1) * kTiles + cell[1],
            (piece + kSides) * kTiles + cell[kCells], (piece + kSides + 1) * kTiles + cell[kCells + 1]);
    }
  }
}

Tensor SumRows(const Tensor& table, const Tensor& bias, const Tensor& index) {
  const int64_t N = index.size(0);
  Tensor output = torch::empty({N, kOutputs, kOutputs, kChannels}, table.options().requires_grad(false));
  const float* const rows = table.data_ptr<float>();
  float first[kChannels];
  std::memcpy(first, bias.data_ptr<float>(), sizeof first);
  for (int64_t n = 0; n < N; ++n) {
    float* const picture = output.data_ptr<float>() + n * kOutputs * kOutputs * kChannels;
    ForEachPiece(index.data_ptr<int64_t>() + n * kCells * kCells,
                 [&](int64_t place, int64_t a, int64_t b, int64_t c, int64_t d) {
                   float* __restrict const out = picture + place * kChannels;
                   const float* __restrict const ra = rows + a * kChannels;
                   const float* __restrict const rb = rows + b * kChannels;
                   const float* __restrict const rc = rows + c * kChannels;
                   const float* __restrict const rd = rows + d * kChannels;
                   for (int64_t o = 0; o < kChannels; ++o) out[o] = first[o] + ra[o] + rb[o] + rc[o] + rd[o];
                 });
  }
  return output;
}

class SumRowsFunction : public torch::autograd::Function<SumRowsFunction> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& table, const Tensor& bias, const Tensor& index) {
    context->save_for_backward({index});
    context->saved_data["rows"] = table.size(0);
    return SumRows(table, bias, index);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Tensor index = context->get_saved_variables()[0];
    const Tensor by_output = gradients[0].contiguous();
    Tensor by_table = torch::zeros({context->saved_data["rows"].toInt(), kChannels}, by_output.options());
    float* const rows = by_table.data_ptr<float>();
    for (int64_t n = 0; n < index.size(0); ++n) {
      const float* const picture = by_output.data_ptr<float>() + n * kOutputs * kOutputs * kChannels;
      ForEachPiece(index.data_ptr<int64_t>() + n * kCells * kCells,
                   [&](int64_t place, int64_t a, int64_t b, int64_t c, int64_t d) {
                     const float* __restrict const in = picture + place * kChannels;
                     for (const int64_t row : {a, b, c, d}) {
                       float* __restrict const sum = rows + row * kChannels;
                       for (int64_t o = 0; o < kChannels; ++o) sum[o] += in[o];
                     }
                   });
    }
    return {by_table, by_output.sum({0, 1, 2}), Tensor()};
  }
};

}  // namespace

TileConvolution::TileConvolution()
    : kernel_places_(KernelPlaces()),
      ink_(GlyphTable().view({kGlyphs, kTileSize * kTileSize})),
      colours_(ColourTable()) {}

// [kPieces * kTiles, kChannels], differentiable. A tile is a glyph's ink times a colour, so that the sums over pixels
// are made for glyphs, sixteen times fewer.
Tensor TileConvolution::MakeTable(const Tensor& weight) const {
  const Autocast full_precision(weight.device().type(), false);
  const Tensor by_pixel = weight.permute({2, 3, 1, 0}).reshape({kKernel * kKernel, 3 * kChannels});
  const Tensor padded = torch::cat({by_pixel, torch::zeros({1, 3 * kChannels}, weight.options().requires_grad(false))});
  const Tensor kernel = padded.index_select(0, kernel_places_).view({kPieces, kTileSize * kTileSize, 3 * kChannels});
  const Tensor glyphs = torch::matmul(ink_, kernel).view({kPieces * kGlyphs, 3, kChannels});
  return torch::matmul(colours_, glyphs).view({kPieces * kTiles, kChannels});
}

Tensor TileConvolution::Apply(const Tensor& weight, const Tensor& bias, const Tensor& index) {
  Tensor output;
  if (torch::GradMode::is_enabled()) {
    output = SumRowsFunction::apply(MakeTable(weight), bias, index.contiguous());
  } else {
    Tensor table;
    {
      MutexLock lock(mutex_);
      if (table_of_ != weight.data_ptr() || table_version_ != weight._version()) {
        table_ = MakeTable(weight).contiguous();
        table_of_ = weight.data_ptr();
        table_version_ = weight._version();
      }
      table = table_;
    }
    output = SumRows(table, bias, index.contiguous());
  }
  return output.permute({0, 3, 1, 2});
}

}  // namespace sibyl
