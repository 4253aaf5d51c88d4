#pragma once

#include "policy/torch.h"

namespace sibyl {

// A NetHack map cell, a character in a colour, as a small picture: 6x6 pixels, RGB.
inline constexpr int64_t kTileSize = 6;
// Printable ASCII, 32 to 126, and one glyph for every other byte.
inline constexpr int64_t kGlyphs = 96;
inline constexpr int64_t kTileColours = 16;
inline constexpr int64_t kTiles = kGlyphs * kTileColours;

// [kGlyphs, 6, 6] float, 0 or 1: where a glyph has ink. The font is in tiles.cc.
torch::Tensor GlyphTable();
// [16, 3] float in [0, 1]: the RGB of NetHack's colours. Its black is drawn dark grey, for the ground is black.
torch::Tensor ColourTable();
// [kTiles, 6, 6, 3] float: every tile, ground black.
torch::Tensor TileTable();

// Rows of the table for characters and colours, uint8 [...] each: int64 [...]. Colours are taken modulo 16.
torch::Tensor TileIndex(const torch::Tensor& chars, const torch::Tensor& colours);

// Lays tiles out as pictures. `table`: TileTable() on the device of `index`, int64 [N, rows, columns].
// Returns [N, 3, 6 * rows, 6 * columns] in channels-last memory: one gather, no copy.
torch::Tensor DrawTiles(const torch::Tensor& table, const torch::Tensor& index);

}  // namespace sibyl
