#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "policy/torch.h"

namespace sibyl::learner {

// One learner's connection to the learners that train the same policy. All learners make the same calls in the same
// order, with tensors of the same shapes. A call returns when all learners have made it. One thread.
//
// Every call may fail with Unavailable: another learner is gone, or did not make the call within the limit. That is
// final.
class Collective {
 public:
  // Connects to the other ranks. Rank 0 listens on `rendezvous`, host:port. `limit` holds for this call and each later
  // one. AlreadyExists: rank 0's port is in use.
  static absl::StatusOr<std::unique_ptr<Collective>> Join(int rank, int ranks, const std::string& rendezvous,
                                                          absl::Duration limit);
  ~Collective();

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }

  // Sums each tensor over all ranks, in place. The tensors have one dtype and may be on any device. The result is equal
  // on all ranks, bit for bit.
  absl::Status Sum(const std::vector<torch::Tensor>& tensors);
  // Copies rank 0's tensors to all ranks, in place. The tensors are as in Sum.
  absl::Status Broadcast(const std::vector<torch::Tensor>& tensors);
  // Sends `mine` to all ranks. Returns what each rank has sent, by rank.
  absl::StatusOr<std::vector<std::string>> Gather(const std::string& mine);

 private:
  struct Gloo;
  Collective(int rank, int ranks, std::unique_ptr<Gloo> gloo);
  // Calls `call` on one contiguous tensor on the CPU that holds them all, and puts the result back.
  template <typename Call>
  absl::Status Flat(const std::vector<torch::Tensor>& tensors, const Call& call);

  const int rank_, ranks_;
  const std::unique_ptr<Gloo> gloo_;
};

}  // namespace sibyl::learner
