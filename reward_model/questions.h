#pragma once

#include <string>
#include <vector>

#include "sibyl/v1/annotator.pb.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::reward_model {

// Whether the reward model asks which of two captions is better, instead of which label fits a caption.
inline bool Compares(const v1::RewardModelConfig& config) { return config.kind() == v1::REWARD_MODEL_KIND_RANKING; }

// The labels of the reward model's queries: config.label_set, or for comparisons "first", "second" and "tie".
google::protobuf::RepeatedPtrField<std::string> LabelSet(const v1::RewardModelConfig& config);

// Makes a query about one caption, or about two where the kind compares (`second` is nullptr otherwise). `context`:
// what was in view; empty: unknown.
v1::Query MakeQuery(const v1::RewardModelConfig& config, const std::string& first, const std::string* second,
                    const std::string& context = "");

// The captions of a query that MakeQuery made: one, or two in the order in which they are compared.
std::vector<std::string> Captions(const v1::Query& query);

// The context of a query that MakeQuery made; empty: it has none.
std::string ContextOf(const v1::Query& query);

// The request for the labels of such queries under this goal, from the annotator's judge and prompt.
v1::LabelsRequest LabelsOf(const v1::RewardModelConfig& config, const v1::DescribeResponse& annotator);

// Whether a label answers such a query under this goal, and has a distribution over the labels. The judge is not
// checked.
bool Fits(const v1::RewardModelConfig& config, const v1::Label& label);

// For an answered label: the probability of the good label, or the probability that the first caption is better, where
// a tie counts half.
double Goodness(const v1::RewardModelConfig& config, const v1::Label& label);

}  // namespace sibyl::reward_model
