#include "reward_model/questions.h"

#include <algorithm>
#include <cmath>

namespace sibyl::reward_model {

google::protobuf::RepeatedPtrField<std::string> LabelSet(const v1::RewardModelConfig& config) {
  if (!Compares(config)) return config.label_set();
  google::protobuf::RepeatedPtrField<std::string> labels;
  for (const char* label : {"first", "second", "tie"}) *labels.Add() = label;
  return labels;
}

v1::Query MakeQuery(const v1::RewardModelConfig& config, const std::string& first, const std::string* second) {
  v1::Query query;
  query.set_kind(Compares(config) ? v1::QUERY_KIND_COMPARE : v1::QUERY_KIND_CLASSIFY);
  query.add_captions(first);
  if (second != nullptr) query.add_captions(*second);
  query.set_goal(config.goal());
  *query.mutable_label_set() = LabelSet(config);
  return query;
}

bool Fits(const v1::RewardModelConfig& config, const v1::Label& label) {
  const v1::Query& query = label.query();
  if (query.kind() != (Compares(config) ? v1::QUERY_KIND_COMPARE : v1::QUERY_KIND_CLASSIFY)) return false;
  if (query.captions_size() != (Compares(config) ? 2 : 1)) return false;
  for (const std::string& caption : query.captions()) {
    if (caption.empty()) return false;
  }
  const auto labels = LabelSet(config);
  if (query.goal() != config.goal() ||
      !std::equal(labels.begin(), labels.end(), query.label_set().begin(), query.label_set().end())) {
    return false;
  }
  if (label.outcome() == v1::OUTCOME_UNSPECIFIED) return false;
  if (label.outcome() != v1::OUTCOME_ANSWERED) return true;
  return label.distribution_size() == labels.size() &&
         std::all_of(label.distribution().begin(), label.distribution().end(),
                     [](float p) { return std::isfinite(p) && p >= 0; });
}

double Goodness(const v1::RewardModelConfig& config, const v1::Label& label) {
  if (Compares(config)) return label.distribution(0) + label.distribution(2) / 2;
  return label.distribution(label.distribution_size() - 1);
}

}  // namespace sibyl::reward_model
