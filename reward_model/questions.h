#pragma once

#include <string>
#include <vector>

#include "sibyl/v1/annotator.pb.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::reward_model {

// Asks which of two captions is better, instead of which label fits one.
inline bool Compares(const v1::RewardModelConfig& config) { return config.kind() == v1::REWARD_MODEL_KIND_RANKING; }

// The labels of its queries: config.label_set, or of comparisons "first", "second" and "tie".
google::protobuf::RepeatedPtrField<std::string> LabelSet(const v1::RewardModelConfig& config);

// A query about a caption, or about two where the kind compares. `context`: what was in view; empty: nothing is known.
v1::Query MakeQuery(const v1::RewardModelConfig& config, const std::string& first, const std::string* second,
                    const std::string& context = "");

// The captions of a query that MakeQuery made: one, or two in the order in which they are compared.
std::vector<std::string> Captions(const v1::Query& query);

// What was in view; empty: the query does not say.
std::string ContextOf(const v1::Query& query);

// Asks the label log for the labels of such queries under this goal, by this judge with this prompt.
v1::LabelsRequest LabelsOf(const v1::RewardModelConfig& config, const v1::DescribeResponse& annotator);

// Whether a label answers such a query, under this goal, and says what it should; its judge is not looked at.
bool Fits(const v1::RewardModelConfig& config, const v1::Label& label);

// Probability of the good label, or that the first of two is better, a tie counting half; of an answered label.
double Goodness(const v1::RewardModelConfig& config, const v1::Label& label);

}  // namespace sibyl::reward_model
