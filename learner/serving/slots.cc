#include "learner/serving/slots.h"

#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"

namespace sibyl::learner {
namespace {
constexpr uint32_t kFormatVersion = 1;
}  // namespace

absl::StatusOr<std::unique_ptr<Slots>> Slots::Open(int limit, std::string path) {
  std::unique_ptr<Slots> slots(new Slots(limit, path));
  MutexLock lock(slots->mutex_);
  const absl::Status read = ReadProto(path, &slots->reservations_);
  if (!read.ok() && !absl::IsNotFound(read)) return read;
  if (read.ok() && slots->reservations_.format_version() != kFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat(path, " has format ", slots->reservations_.format_version(),
                                                      ", this learner reads ", kFormatVersion));
  }
  slots->reservations_.set_format_version(kFormatVersion);
  return slots;
}

absl::StatusOr<v1::EpisodeBlock> Slots::Reserve(uint32_t slot) {
  v1::EpisodeReservations next = reservations_;
  while (next.next_size() <= static_cast<int>(slot)) next.add_next(0);
  v1::EpisodeBlock block;
  block.set_begin(next.next(slot));
  block.set_end(block.begin() + kEpisodeBlock);
  next.set_next(slot, block.end());
  SIBYL_RETURN_IF_ERROR(WriteProtoDurably(path_, next));
  reservations_ = std::move(next);
  return block;
}

absl::StatusOr<Slots::Grant> Slots::Acquire(const v1::SlotLease* lease) {
  MutexLock lock(mutex_);
  uint32_t slot = 0;
  if (lease != nullptr) {
    slot = lease->slot();
    if (slot >= slots_.size() || slots_[slot].token != lease->token()) {
      return absl::FailedPreconditionError(
          absl::StrCat("the lease of slot ", slot, " is stale; connect without a lease to get a slot"));
    }
  } else {
    while (slot < slots_.size() && slots_[slot].taken) ++slot;
    if (slot == limit_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("all ", limit_,
                       " actor slots are taken; raise learner.max_actors to allow more (actor.processes "
                       "only says how many `sibyl train` starts)"));
    }
    if (slot == slots_.size()) slots_.emplace_back();
  }
  SIBYL_ASSIGN_OR_RETURN(v1::EpisodeBlock block, Reserve(slot));
  slots_[slot].taken = true;
  slots_[slot].token = FreshRandom64();
  Grant grant;
  grant.lease.set_slot(slot);
  grant.lease.set_token(slots_[slot].token);
  grant.episodes = std::move(block);
  return grant;
}

void Slots::Release(const v1::SlotLease& lease) {
  MutexLock lock(mutex_);
  if (lease.slot() >= slots_.size() || slots_[lease.slot()].token != lease.token()) return;
  slots_[lease.slot()].taken = false;
}

absl::StatusOr<v1::EpisodeBlock> Slots::Extend(uint32_t slot) {
  MutexLock lock(mutex_);
  return Reserve(slot);
}

int Slots::taken() const {
  MutexLock lock(mutex_);
  int taken = 0;
  for (const Slot& slot : slots_) taken += slot.taken;
  return taken;
}

}  // namespace sibyl::learner
