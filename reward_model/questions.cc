#include "reward_model/questions.h"

#include <algorithm>
#include <cmath>

namespace sibyl::reward_model {
namespace {

// The kinds of its queries (annotator.proto), and the names of their texts.
constexpr char kClassify[] = "classify", kCompare[] = "compare";
constexpr char kCaption[] = "caption", kFirst[] = "first", kSecond[] = "second", kContext[] = "context";

const char* Kind(const v1::RewardModelConfig& config) { return Compares(config) ? kCompare : kClassify; }

}  // namespace

google::protobuf::RepeatedPtrField<std::string> LabelSet(const v1::RewardModelConfig& config) {
  if (!Compares(config)) return config.label_set();
  google::protobuf::RepeatedPtrField<std::string> labels;
  for (const char* label : {"first", "second", "tie"}) *labels.Add() = label;
  return labels;
}

v1::Query MakeQuery(const v1::RewardModelConfig& config, const std::string& first, const std::string* second,
                    const std::string& context) {
  v1::Query query;
  query.set_kind(Kind(config));
  auto& texts = *query.mutable_texts();
  texts[Compares(config) ? kFirst : kCaption] = first;
  if (second != nullptr) texts[kSecond] = *second;
  if (!context.empty()) texts[kContext] = context;
  query.set_goal(config.goal());
  *query.mutable_grammar()->mutable_choice()->mutable_labels() = LabelSet(config);
  return query;
}

std::vector<std::string> Captions(const v1::Query& query) {
  std::vector<std::string> captions;
  for (const char* name : {kCaption, kFirst, kSecond}) {
    if (const auto it = query.texts().find(name); it != query.texts().end()) captions.push_back(it->second);
  }
  return captions;
}

std::string ContextOf(const v1::Query& query) {
  const auto it = query.texts().find(kContext);
  return it == query.texts().end() ? "" : it->second;
}

v1::LabelsRequest LabelsOf(const v1::RewardModelConfig& config, const v1::DescribeResponse& annotator) {
  v1::LabelsRequest request;
  request.set_log_id(annotator.log_id());
  request.set_goal(config.goal());
  request.set_kind(Kind(config));
  *request.mutable_grammar()->mutable_choice()->mutable_labels() = LabelSet(config);
  request.set_judge(annotator.judge());
  request.set_prompt(annotator.prompt());
  return request;
}

bool Fits(const v1::RewardModelConfig& config, const v1::Label& label) {
  const v1::Query& query = label.query();
  if (query.kind() != Kind(config)) return false;
  const std::vector<std::string> captions = Captions(query);
  if (captions.size() != (Compares(config) ? 2 : 1)) return false;
  for (const std::string& caption : captions) {
    if (caption.empty()) return false;
  }
  const auto labels = LabelSet(config);
  const auto& asked = query.grammar().choice().labels();
  if (query.goal() != config.goal() || !std::equal(labels.begin(), labels.end(), asked.begin(), asked.end())) {
    return false;
  }
  if (label.outcome() == v1::OUTCOME_UNSPECIFIED) return false;
  if (label.outcome() != v1::OUTCOME_ANSWERED) return true;
  const auto& distribution = label.answer().choice().distribution();
  return distribution.size() == labels.size() &&
         std::all_of(distribution.begin(), distribution.end(), [](float p) { return std::isfinite(p) && p >= 0; });
}

double Goodness(const v1::RewardModelConfig& config, const v1::Label& label) {
  const auto& distribution = label.answer().choice().distribution();
  if (Compares(config)) return distribution[0] + distribution[2] / 2;
  return distribution[distribution.size() - 1];
}

}  // namespace sibyl::reward_model
