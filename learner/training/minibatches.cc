#include "learner/training/minibatches.h"

#include <numeric>
#include <utility>

#include "common/random.h"

namespace sibyl::learner {
namespace {

// The unrolls of a batch at `unrolls` [b] int64, on the batch's device.
TrainingBatch Select(const TrainingBatch& batch, const torch::Tensor& unrolls) {
  TrainingBatch part;
  for (const torch::Tensor& array : batch.observation) part.observation.push_back(array.index_select(1, unrolls));
  for (auto member : {&TrainingBatch::first, &TrainingBatch::action, &TrainingBatch::behaviour_log_prob,
                      &TrainingBatch::behaviour_value, &TrainingBatch::reward, &TrainingBatch::terminated,
                      &TrainingBatch::truncated, &TrainingBatch::valid}) {
    part.*member = (batch.*member).index_select(1, unrolls);
  }
  part.state = batch.state.index_select(0, unrolls);
  // Where each unroll has gone; -1: into another part.
  torch::Tensor place = torch::full({batch.reward.size(1)}, -1, unrolls.options());
  place.index_put_({unrolls}, torch::arange(unrolls.size(0), unrolls.options()));
  const torch::Tensor places = place.index_select(0, batch.final_unroll), mine = places.ge(0).nonzero().squeeze(1);
  part.final_unroll = places.index_select(0, mine);
  part.final_step = batch.final_step.index_select(0, mine);
  for (const torch::Tensor& array : batch.final_observation) {
    part.final_observation.push_back(array.index_select(0, mine));
  }
  return part;
}

}  // namespace

std::vector<TrainingBatch> Split(const TrainingBatch& batch, int parts, uint64_t seed) {
  std::vector<int64_t> order(batch.reward.size(1));
  std::iota(order.begin(), order.end(), 0);
  Random random(seed);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
  const torch::Tensor drawn = torch::tensor(order).to(batch.reward.device());
  std::vector<TrainingBatch> split;
  for (const torch::Tensor& unrolls : drawn.chunk(parts)) split.push_back(Select(batch, unrolls));
  return split;
}

}  // namespace sibyl::learner
