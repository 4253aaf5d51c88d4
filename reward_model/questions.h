#pragma once

#include <string>

#include "sibyl/v1/annotator.pb.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::reward_model {

// Asks which of two captions is better, not what one is.
inline bool Compares(const v1::RewardModelConfig& config) { return config.kind() == v1::REWARD_MODEL_KIND_RANKING; }

// The labels of its queries: config.label_set, or of comparisons "first", "second" and "tie".
google::protobuf::RepeatedPtrField<std::string> LabelSet(const v1::RewardModelConfig& config);

// A query about a caption, or about two where the kind compares.
v1::Query MakeQuery(const v1::RewardModelConfig& config, const std::string& first, const std::string* second);

// Whether a label answers such a query, under this goal, and says what it should; its judge is not looked at.
bool Fits(const v1::RewardModelConfig& config, const v1::Label& label);

// Probability of the good label, or that the first of two is better, a tie counting half; of an answered label.
double Goodness(const v1::RewardModelConfig& config, const v1::Label& label);

}  // namespace sibyl::reward_model
