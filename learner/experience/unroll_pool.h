#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/runtime/clock.h"

namespace sibyl::learner {

// T consecutive transitions of one environment. Step t is (o_t, a_t, r_{t+1}, terminated, truncated, o_{t+1}).
struct Unroll {
  uint32_t slot = 0;
  uint32_t environment = 0;           // within the slot
  std::string observation;            // [T+1, bytes of one observation]; o_T is the next unroll's o_0
  std::vector<uint8_t> first;         // [T+1] o_t starts an episode: the recurrent state is zero before it
  std::vector<uint64_t> episode;      // [T+1] number of the episode o_t belongs to
  std::vector<int32_t> seen_caption;  // [T+1] caption row of o_t
  std::vector<uint32_t> seen_count;   // [T+1] how often it had occurred in its episode, o_t included
  std::vector<int32_t> paid_caption;  // [T] caption row of o_{t+1}, the final observation's where the episode ended
  std::vector<uint32_t> paid_count;   // [T] how often it had occurred in that episode, this time included
  std::vector<uint32_t> observation_count;     // [T] how often o_{t+1} had occurred in its episode; [0]: not counted
  std::string action;                          // [T] a_t, as ActionSpec lays it out
  std::vector<float> log_prob;                 // [T] of the action under the behaviour policy
  std::vector<float> value;                    // [T, V] of o_t under the behaviour policy
  std::vector<uint64_t> policy_version;        // [T] optimiser steps behind the behaviour policy
  std::vector<float> reward;                   // [T] extrinsic r_{t+1}
  std::vector<uint8_t> terminated, truncated;  // [T]
  std::vector<float> state;                    // [H] recurrent state before o_0 (before `first` zeroes it)
  struct Final {
    int step;                 // t: o_{t+1} was final, and the episode truncated there
    std::string observation;  // o_{t+1}
  };
  std::vector<Final> finals;

  // Every caption row that the unroll names, for pinning.
  std::vector<int32_t> CaptionRows(int filled_steps) const;
};
using Unrolls = std::vector<std::unique_ptr<Unroll>>;

// The sizes of every unroll of a run.
struct UnrollShape {
  int length = 0;  // T
  size_t observation_bytes = 0, action_bytes = 0;
  int64_t state_size = 0;  // H
  int value_heads = 1;     // V
  bool counts_observations = false;

  // Memory of one unroll, without its final observations.
  size_t Bytes() const;
};

// Hands out unrolls to be filled, and queues finished unrolls for training. At most `capacity` unrolls exist. Whoever
// fills unrolls waits for free ones; training waits for finished ones. The pool allocates an unroll when it is first
// needed, and frees unrolls when more exist than the capacity allows. Any thread.
//
// An unroll belongs to its holder until Finish or Release.
class UnrollPool {
 public:
  // `clock` outlives the pool.
  UnrollPool(const UnrollShape& shape, int capacity, Clock* clock);

  // Sets the number of unrolls that may exist. Unrolls above it are freed as soon as they are released.
  void SetCapacity(int capacity);

  using Granted = std::function<void(Unrolls unrolls)>;
  // Asks for `count` unrolls, all or none. Returns them when they are free and no earlier request waits. Otherwise
  // returns nothing, and calls `granted` when they are free and every earlier request has been served. The thread that
  // releases unrolls or raises the capacity makes that call; it must not block. After Close nothing is granted.
  Unrolls Request(uint64_t owner, int count, Granted granted);
  // Forgets the owner's requests. A grant that is under way still arrives.
  void Withdraw(uint64_t owner);

  // Queues finished unrolls for training.
  void Finish(Unrolls unrolls);
  // Takes unrolls back, finished or not.
  void Release(Unrolls unrolls);

  // Waits for `count` finished unrolls and appends the oldest ones to `unrolls`. False after Close.
  bool PopFinished(int count, Unrolls* unrolls) { return PopFinishedWithin(absl::InfiniteDuration(), count, unrolls); }
  // As PopFinished. False also when `limit` has passed.
  bool PopFinishedWithin(absl::Duration limit, int count, Unrolls* unrolls);
  bool closed() const;
  // Ends every wait for finished unrolls and drops every request.
  void Close();

  const UnrollShape& shape() const { return shape_; }
  int capacity() const;
  // Unrolls that nobody holds, those included whose memory has not been taken.
  int free() const;
  int finished() const;
  // Memory of all unrolls that exist.
  size_t bytes() const;

 private:
  struct Waiting {
    uint64_t owner;
    int count;
    Granted granted;
  };
  struct Grant {
    Granted granted;
    Unrolls unrolls;  // those that existed
    int missing;      // those to make
  };

  std::unique_ptr<Unroll> Make() const;
  // `count` unrolls, as far as they exist; the caller makes the rest.
  Grant Allot(int count, Granted granted) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The requests that can be served now, oldest first.
  std::vector<Grant> Serve() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes what is missing and calls `granted`. Without the lock.
  void Deliver(std::vector<Grant> grants) ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes unrolls above the capacity out of free_, and gives their memory back, which takes long.
  Unrolls TakeSurplus() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Free(Unrolls surplus);

  const UnrollShape shape_;
  Clock* const clock_;
  mutable Mutex mutex_;
  CondVar enough_finished_;
  int capacity_ ABSL_GUARDED_BY(mutex_);
  int existing_ ABSL_GUARDED_BY(mutex_) = 0;
  Unrolls free_ ABSL_GUARDED_BY(mutex_);
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mutex_);  // oldest first
  std::deque<std::unique_ptr<Unroll>> finished_ ABSL_GUARDED_BY(mutex_);
  int wanted_ ABSL_GUARDED_BY(mutex_) = 0;  // finished unrolls that training waits for
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sibyl::learner
