#include "reward_model/captions/caption_book.h"

#include <algorithm>

#include "common/caption.h"

namespace sibyl::reward_model {

Caption* CaptionBook::Find(uint64_t id) {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : it->second;
}

Caption& CaptionBook::FindOrAdd(uint64_t id) {
  Caption*& caption = by_id_[id];
  if (caption == nullptr) {
    caption = &captions_.emplace_back();
    caption->id = id;
  }
  return *caption;
}

CaptionBook::TextOutcome CaptionBook::SetText(uint64_t id, absl::string_view text, absl::string_view context) {
  if (text.empty() || CaptionId(text) != id) return TextOutcome::kMismatch;
  Caption& caption = FindOrAdd(id);
  if (!caption.text.empty()) return caption.text == text ? TextOutcome::kSame : TextOutcome::kCollision;
  caption.text = std::string(text);
  caption.context = std::string(context);
  text_bytes_ += caption.text.capacity() + caption.context.capacity();
  return TextOutcome::kNew;
}

void CaptionBook::StartLearnerIncarnation() {
  for (Caption& caption : captions_) caption.learner_count = 0;
}

bool CaptionBook::SetLearnerCount(Caption& caption, uint64_t count, uint64_t last_step) {
  const bool offered_anew = count > 0 && (caption.learner_count == 0 || count < caption.learner_count);
  caption.count += count >= caption.learner_count ? count - caption.learner_count : count;
  caption.learner_count = count;
  caption.last_step = std::max(caption.last_step, last_step);
  return offered_anew;
}

size_t CaptionBook::bytes() const {
  return captions_.size() * sizeof(Caption) + text_bytes_ + by_id_.capacity() * (sizeof(uint64_t) + sizeof(void*) + 1);
}

}  // namespace sibyl::reward_model
