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

// The actors' places in the run, and the episode numbers of each place. Any thread.
//
// Every episode number is handed out once. A reservation is on disk (`path`, EpisodeReservations) before it is granted.
// What a lost actor or an earlier learner left of its block is skipped.
class Slots {
 public:
  // `limit`: actors at a time. Reads `path` if the file exists. DataLoss: the file is damaged. FailedPrecondition: the
  // file has another format.
  static absl::StatusOr<std::unique_ptr<Slots>> Open(int limit, std::string path);

  struct Grant {
    v1::SlotLease lease;
    v1::EpisodeBlock episodes;
  };
  // With `lease`: the same slot again under a new token. FailedPrecondition: the lease is stale.
  // Without (nullptr): the first free slot. ResourceExhausted: `limit` slots are taken.
  // Otherwise errors of writing the file. No error contains a token, because a token lets an actor take a slot.
  absl::StatusOr<Grant> Acquire(const v1::SlotLease* lease);

  // Frees the slot. Does nothing when the lease is stale.
  void Release(const v1::SlotLease& lease);

  // The next block of episode numbers of the slot. It starts where the last one ended. Errors of writing the file.
  absl::StatusOr<v1::EpisodeBlock> Extend(uint32_t slot);

  // Slots that an actor holds.
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
