#include "learner/serving/shared_weights.h"

#include "common/status_macros.h"
#include "policy/weights.h"

namespace sibyl::learner {

absl::StatusOr<SharedWeights::Encoded> SharedWeights::Newest() {
  MutexLock lock(mutex_);
  const PolicyStore::Published published = policies_->Get();
  if (encoded_.bytes == nullptr || encoded_.policy_version != published.policy_version) {
    SIBYL_ASSIGN_OR_RETURN(std::string bytes, EncodePolicy(*published.policy));
    encoded_ = {published.policy_version, std::make_shared<const std::string>(std::move(bytes))};
  }
  return encoded_;
}

}  // namespace sibyl::learner
