#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "sibyl/v1/act.pb.h"
#include "sibyl/v1/state.pb.h"

namespace sibyl::learner {

// Episode numbers are reserved this many at a time.
inline constexpr uint64_t kEpisodeBlock = uint64_t{1} << 16;

// The places that actors fill, and the episode numbers of each. Any thread.
//
// Every episode number belongs to one process at a time and is handed out once: a reservation is on disk (`path`,
// EpisodeReservations) before it is granted, and what a lost actor or an earlier learner left of its block is skipped.
class Slots {
 public:
  // At most `limit` actors at a time. Reads `path` if it is there. DataLoss when it is damaged.
  static absl::StatusOr<std::unique_ptr<Slots>> Open(int limit, std::string path);

  struct Grant {
    v1::SlotLease lease;
    v1::EpisodeBlock episodes;
  };
  // With `lease`: the same slot again, with a new token. FailedPrecondition when that lease is stale.
  // Without: the first free slot. ResourceExhausted when `limit` are taken. Errors of writing the file. No error says a
  // token: it is what lets an actor take a slot.
  absl::StatusOr<Grant> Acquire(const v1::SlotLease* lease);

  // Frees the slot; nothing happens when the lease is stale.
  void Release(const v1::SlotLease& lease);

  // The next block of the slot, which goes on from its last one.
  absl::StatusOr<v1::EpisodeBlock> Extend(uint32_t slot);

  int taken() const;

 private:
  struct Slot {
    uint64_t token = 0;  // of the last lease
    bool taken = false;
  };
  Slots(int limit, std::string path) : limit_(limit), path_(std::move(path)) {}
  absl::StatusOr<v1::EpisodeBlock> Reserve(uint32_t slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t limit_;
  const std::string path_;
  mutable Mutex mutex_;
  std::vector<Slot> slots_ ABSL_GUARDED_BY(mutex_);
  v1::EpisodeReservations reservations_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sibyl::learner
