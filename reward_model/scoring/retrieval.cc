#include "reward_model/scoring/retrieval.h"

namespace sibyl::reward_model {

Retrieval::Retrieval(const v1::RewardModelConfig& config) {
  transform_.set_mean(0);
  transform_.set_deviation(1);
  transform_.set_threshold(static_cast<float>(config.threshold()));
  transform_.set_binary(config.binary());
}

void Retrieval::Observe(const Caption& caption, const v1::Label& label) {
  if (label.outcome() == v1::OUTCOME_ANSWERED) ++answers_;
}

void Retrieval::Restart(const CaptionBook& book, const Comparisons& comparisons) {
  answers_ = 0;
  for (const Caption& caption : book.captions()) answers_ += caption.answers;
}

void Retrieval::Score(absl::Span<const Caption* const> captions, absl::Span<std::optional<float>> scores) {
  for (size_t i = 0; i < captions.size(); ++i) {
    const Caption& caption = *captions[i];
    scores[i] = std::nullopt;
    if (caption.answers > 0) scores[i] = static_cast<float>(caption.good_sum / caption.answers);
  }
}

}  // namespace sibyl::reward_model
