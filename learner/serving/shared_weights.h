#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "learner/serving/policy_store.h"

namespace sibyl::learner {

// The newest weights as bytes (EncodePolicy). Each version is encoded once, when it is first asked for. Any thread.
class SharedWeights {
 public:
  // `policies` outlives this.
  explicit SharedWeights(const PolicyStore* policies) : policies_(policies) {}

  struct Encoded {
    uint64_t policy_version = 0;  // optimiser steps behind them
    std::shared_ptr<const std::string> bytes;
  };
  // An error is final: the weights cannot be read.
  absl::StatusOr<Encoded> Newest();

 private:
  const PolicyStore* const policies_;
  Mutex mutex_;
  Encoded encoded_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sibyl::learner
