#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "policy/torch.h"

namespace sibyl::learner {

// The learners that train one policy together, as one of them sees them. All call the same things in the same order,
// with tensors of the same shapes; each call returns when all have called it. One thread.
//
// Every call may fail with Unavailable: another learner is gone, or did not come within the limit. That is final.
class Collective {
 public:
  // Meets the others at rank 0's `rendezvous`, host:port, which rank 0 listens on. `limit` is for this and for each
  // later call. AlreadyExists: rank 0's port is in use.
  static absl::StatusOr<std::unique_ptr<Collective>> Join(int rank, int ranks, const std::string& rendezvous,
                                                          absl::Duration limit);
  ~Collective();

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }

  // Adds up each tensor over all ranks, in place; they have one dtype and may be on any device. The result is the same
  // on all ranks to the last bit.
  absl::Status Sum(const std::vector<torch::Tensor>& tensors);
  // Gives all ranks rank 0's tensors, in place; as Sum.
  absl::Status Broadcast(const std::vector<torch::Tensor>& tensors);
  // What each rank says, by rank.
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
