#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "policy/torch.h"

namespace sibyl::learner {

// The recurrent states of all environments that inference serves: one table [rows, H] float on the policy's device,
// with a block of `block_rows` rows for each actor. The table grows and shrinks with the actors. One thread.
class RecurrentStates {
 public:
  RecurrentStates(int64_t block_rows, int64_t state_size, torch::Device device)
      : block_rows_(block_rows), table_(torch::zeros({0, state_size}, torch::TensorOptions().device(device))) {}

  // Takes the lowest free block; its states are zero.
  int64_t Take() {
    const int64_t block = std::find(taken_.begin(), taken_.end(), false) - taken_.begin();
    if (block == static_cast<int64_t>(taken_.size())) {
      taken_.push_back(false);
      if (Rows() > table_.size(0)) Resize(std::max(Rows(), 2 * table_.size(0)));
    }
    taken_[block] = true;
    table_.narrow(0, FirstRow(block), block_rows_).zero_();
    return block;
  }

  void Release(int64_t block) {
    taken_[block] = false;
    while (!taken_.empty() && !taken_.back()) taken_.pop_back();
    if (4 * Rows() <= table_.size(0)) Resize(Rows());
  }

  int64_t FirstRow(int64_t block) const { return block * block_rows_; }
  // [rows, H] float.
  torch::Tensor& table() { return table_; }

 private:
  int64_t Rows() const { return block_rows_ * static_cast<int64_t>(taken_.size()); }
  void Resize(int64_t rows) {
    torch::Tensor resized = torch::zeros({rows, table_.size(1)}, table_.options());
    const int64_t kept = std::min(rows, table_.size(0));
    resized.narrow(0, 0, kept).copy_(table_.narrow(0, 0, kept));
    table_ = resized;
  }

  const int64_t block_rows_;
  torch::Tensor table_;
  std::vector<bool> taken_;  // by block; the last one is taken
};

}  // namespace sibyl::learner
