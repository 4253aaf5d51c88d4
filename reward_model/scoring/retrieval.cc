#include "reward_model/scoring/retrieval.h"

namespace sibyl::reward_model {

Retrieval::Retrieval(const v1::RewardModelConfig& config) {
  transform_.set_mean(0);
  transform_.set_deviation(1);
  transform_.set_binary(config.binary());
}

void Retrieval::Observe(const Caption& caption, const Tally& tally, uint32_t new_answers) {
  answers_ += new_answers;
  if (tally.answers > 0) {
    scores_[caption.id] = static_cast<float>(tally.good_sum / tally.answers);
  } else {
    scores_.erase(caption.id);
  }
}

void Retrieval::Restart() {
  scores_.clear();
  answers_ = 0;
}

void Retrieval::Score(absl::Span<const Caption* const> captions, absl::Span<std::optional<float>> scores) {
  for (size_t i = 0; i < captions.size(); ++i) {
    const auto it = scores_.find(captions[i]->id);
    scores[i] = it == scores_.end() ? std::nullopt : std::optional(it->second);
  }
}

}  // namespace sibyl::reward_model
