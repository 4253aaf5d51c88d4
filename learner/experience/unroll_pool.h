#pragma once

#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <vector>

#include "common/mutex.h"

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
  std::vector<uint16_t> action;       // [T]
  std::vector<float> log_prob;        // [T] of the action under the behaviour policy
  std::vector<float> value;           // [T, V] of o_t under the behaviour policy
  std::vector<uint64_t> version;      // [T] optimiser steps behind the behaviour policy
  std::vector<float> reward;          // [T] extrinsic r_{t+1}
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

// All unrolls there will ever be, and the queue of finished ones. Bounded by its size: those that fill unrolls wait for
// a free one, training for a finished one. Indices name unrolls. Any thread; a taken or popped unroll belongs to who
// has it.
class UnrollPool {
 public:
  UnrollPool(int size, int unroll_length, size_t observation_bytes, int64_t state_size, int value_heads = 1);

  Unroll& operator[](int index) { return unrolls_[index]; }
  int size() const { return static_cast<int>(unrolls_.size()); }

  // A place in the queue for free unrolls; 0: in none. One for each thread that takes.
  using Claim = uint64_t;
  // Takes `count` free unrolls. When there are fewer, or another claim is older, it takes none, keeps a place in the
  // queue and returns false: who asked first is served first, whatever the next one wants.
  bool Take(int count, Claim* claim, std::vector<int>* indices);
  // Leaves the queue: what was claimed is not wanted any more.
  void Withdraw(Claim* claim);
  // Hands finished unrolls to training.
  void Finish(const std::vector<int>& indices);
  // Gives unrolls back, finished or not.
  void Release(const std::vector<int>& indices);

  // Waits until `count` finished unrolls are there and takes the oldest. False once Close was called.
  bool PopFinished(int count, std::vector<int>* indices);
  // As PopFinished; false also when `limit` has passed.
  bool PopFinishedWithin(std::chrono::nanoseconds limit, int count, std::vector<int>* indices);
  bool closed() const;
  // Waits until unrolls may have been released, or at most 50 ms.
  void WaitForRelease();
  // Lets every waiter go.
  void Close();

  int free() const;
  int finished() const;

 private:
  void Leave(Claim* claim) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::vector<Unroll> unrolls_;
  mutable Mutex mutex_;
  CondVar released_, finished_or_closed_;
  std::vector<int> free_ ABSL_GUARDED_BY(mutex_);
  std::set<Claim> claims_ ABSL_GUARDED_BY(mutex_);  // oldest first
  Claim last_claim_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<int> finished_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sibyl::learner
