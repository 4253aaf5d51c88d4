#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "sibyl/v1/annotator.pb.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::reward_model {

// Hands over all labels that the annotator at "host:port" has so far and that fit the reward model (Fits), of its judge
// and prompt, in the order of the log.
absl::Status ReadLabelLog(const std::string& annotator, const v1::RewardModelConfig& config,
                          const std::function<void(const v1::Label&)>& on_label);

}  // namespace sibyl::reward_model
