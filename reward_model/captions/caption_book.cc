#include "reward_model/captions/caption_book.h"

#include <algorithm>

#include "common/caption.h"

namespace sibyl::reward_model {

Caption* CaptionBook::Find(uint64_t id) {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : it->second;
}

const Caption* CaptionBook::Find(uint64_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : it->second;
}

Caption& CaptionBook::FindOrAdd(uint64_t id) {
  Caption*& caption = by_id_[id];
  if (caption == nullptr) {
    uint32_t place = static_cast<uint32_t>(captions_.size());
    if (free_places_.empty()) {
      captions_.emplace_back();
    } else {
      place = free_places_.back();
      free_places_.pop_back();
    }
    caption = &captions_[place];
    caption->id = id;
    caption->place = place;
    LinkNewest(*caption);
  }
  return *caption;
}

CaptionBook::TextOutcome CaptionBook::SetText(uint64_t id, absl::string_view text, absl::string_view context) {
  if (text.empty() || CaptionId(text) != id) return TextOutcome::kMismatch;
  Caption& caption = FindOrAdd(id);
  if (caption.shared_text != nullptr) return caption.text() == text ? TextOutcome::kSame : TextOutcome::kCollision;
  caption.shared_text = std::make_shared<const std::string>(text);
  caption.context = std::string(context);
  lists_[caption.labelled].bytes += TextBytes(caption);
  Touch(caption);
  return TextOutcome::kNew;
}

bool CaptionBook::SetLearnerCount(Caption& caption, uint64_t count, uint64_t last_step) {
  const uint64_t before = LearnerCount(caption);
  const bool offered_anew = count > 0 && (before == 0 || count < before);
  caption.count += count >= before ? count - before : count;
  caption.learner_count = count;
  caption.learner = learner_;
  caption.last_step = std::max(caption.last_step, last_step);
  Unlink(caption);
  LinkNewest(caption);
  Touch(caption);
  return offered_anew;
}

uint64_t CaptionBook::LearnerCount(const Caption& caption) const {
  return caption.learner == learner_ ? caption.learner_count : 0;
}

void CaptionBook::RestoreCounts(Caption& caption, uint64_t count, uint64_t learner_count, uint32_t learner,
                                uint64_t last_step) {
  caption.count = count;
  caption.learner_count = learner_count;
  caption.learner = learner;
  caption.last_step = last_step;
}

void CaptionBook::Touch(Caption& caption) {
  if (caption.unsaved_at != 0) return;
  unsaved_.push_back(caption.place);
  caption.unsaved_at = static_cast<uint32_t>(unsaved_.size());
}

void CaptionBook::Untouch(Caption& caption) {
  if (caption.unsaved_at == 0) return;
  // The last one takes its place.
  Caption& last = captions_[unsaved_.back()];
  unsaved_[caption.unsaved_at - 1] = last.place;
  last.unsaved_at = caption.unsaved_at;
  unsaved_.pop_back();
  caption.unsaved_at = 0;
}

void CaptionBook::BeginFile() {
  ++file_;
  forgotten_unsaved_.clear();
  next_place_ = 0;
}

std::vector<uint64_t> CaptionBook::TakeForgotten(size_t limit) {
  const size_t count = std::min(limit, forgotten_unsaved_.size());
  std::vector<uint64_t> taken(forgotten_unsaved_.end() - static_cast<ptrdiff_t>(count), forgotten_unsaved_.end());
  forgotten_unsaved_.resize(forgotten_unsaved_.size() - count);
  return taken;
}

const Caption* CaptionBook::TakeUnsaved(bool* with_text) {
  Caption* caption = nullptr;
  while (next_place_ < captions_.size() && caption == nullptr) caption = At(next_place_++);
  if (caption == nullptr) {
    next_place_ = std::numeric_limits<size_t>::max();
    if (unsaved_.empty()) return nullptr;
    caption = &captions_[unsaved_.back()];
  }
  Untouch(*caption);
  *with_text = caption->text_file != file_ && caption->shared_text != nullptr;
  caption->row_file = file_;
  if (*with_text) caption->text_file = file_;
  return caption;
}

void CaptionBook::SetLabelled(Caption& caption, bool labelled) {
  if (caption.labelled == labelled) return;
  Unlink(caption);
  caption.labelled = labelled;
  LinkNewest(caption);
}

Caption* CaptionBook::Excess(absl::FunctionRef<bool(const Caption&)> held) {
  if (size() <= bounds_.rows && text_bytes() <= bounds_.bytes) return nullptr;
  const List& unlabelled = lists_[false];
  const bool labelled_first = unlabelled.rows <= bounds_.rows / 4 && unlabelled.bytes <= bounds_.bytes / 4;
  for (const bool labelled : {labelled_first, !labelled_first}) {
    for (Caption* caption = lists_[labelled].oldest; caption != nullptr; caption = caption->newer) {
      if (!held(*caption)) return caption;
    }
  }
  return nullptr;
}

void CaptionBook::Forget(Caption& caption) {
  Unlink(caption);
  Untouch(caption);
  if (caption.row_file == file_) forgotten_unsaved_.push_back(caption.id);
  by_id_.erase(caption.id);
  free_places_.push_back(caption.place);
  caption = Caption();
  ++forgotten_;
}

void CaptionBook::OrderByLastStep() {
  std::vector<Caption*> captions;
  for (const auto& [id, caption] : by_id_) captions.push_back(caption);
  std::sort(captions.begin(), captions.end(), [](const Caption* a, const Caption* b) {
    return a->last_step != b->last_step ? a->last_step < b->last_step : a->place < b->place;
  });
  for (Caption* caption : captions) {
    Unlink(*caption);
    LinkNewest(*caption);
  }
}

size_t CaptionBook::bytes() const {
  return captions_.size() * sizeof(Caption) + text_bytes() +
         by_id_.capacity() * (sizeof(uint64_t) + sizeof(void*) + 1) +
         (free_places_.capacity() + unsaved_.capacity()) * sizeof(uint32_t) +
         forgotten_unsaved_.capacity() * sizeof(uint64_t);
}

void CaptionBook::Unlink(Caption& caption) {
  List& list = lists_[caption.labelled];
  (caption.older != nullptr ? caption.older->newer : list.oldest) = caption.newer;
  (caption.newer != nullptr ? caption.newer->older : list.newest) = caption.older;
  caption.older = caption.newer = nullptr;
  --list.rows;
  list.bytes -= TextBytes(caption);
}

void CaptionBook::LinkNewest(Caption& caption) {
  List& list = lists_[caption.labelled];
  caption.older = list.newest;
  (list.newest != nullptr ? list.newest->newer : list.oldest) = &caption;
  list.newest = &caption;
  ++list.rows;
  list.bytes += TextBytes(caption);
}

}  // namespace sibyl::reward_model
