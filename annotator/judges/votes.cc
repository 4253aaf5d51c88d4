#include "annotator/judges/votes.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "annotator/questions/canonical.h"

namespace sibyl::annotator {
namespace {

v1::Answer MeanChoice(const std::vector<const Verdict*>& answered) {
  const int labels = answered[0]->answer.choice().distribution_size();
  v1::Answer mean;
  auto& choice = *mean.mutable_choice();
  choice.mutable_distribution()->Resize(labels, 0);
  choice.mutable_votes()->Resize(labels, 0);
  const float share = 1.0f / static_cast<float>(answered.size());
  for (const Verdict* vote : answered) {
    const auto& distribution = vote->answer.choice().distribution();
    for (int i = 0; i < labels; ++i) choice.mutable_distribution()->at(i) += share * distribution[i];
    choice.set_outside(choice.outside() + share * vote->answer.choice().outside());
    const auto likeliest = std::max_element(distribution.begin(), distribution.end()) - distribution.begin();
    ++choice.mutable_votes()->at(static_cast<int>(likeliest));
  }
  return mean;
}

// The index of the text that occurs most often, the earliest of several.
size_t MostFrequent(const std::vector<std::string>& texts) {
  std::map<std::string, int> counts;
  for (const std::string& text : texts) ++counts[text];
  const auto most = std::max_element(texts.begin(), texts.end(),
                                     [&](const std::string& a, const std::string& b) { return counts[a] < counts[b]; });
  return static_cast<size_t>(most - texts.begin());
}

}  // namespace

Verdict MergeVotes(const std::vector<Verdict>& votes) {
  Verdict merged;
  merged.prompt_tokens = votes.back().prompt_tokens;
  merged.completion_tokens = votes.back().completion_tokens;
  std::vector<const Verdict*> answered;
  for (size_t i = 0; i < votes.size(); ++i) {
    absl::StrAppend(&merged.raw, i > 0 ? "\n" : "", "[vote ", i + 1, "]\n", votes[i].raw);
    if (votes[i].outcome == v1::OUTCOME_ANSWERED) answered.push_back(&votes[i]);
  }
  if (2 * answered.size() <= votes.size()) {
    std::vector<std::string> endings;
    std::vector<const Verdict*> others;
    for (const Verdict& vote : votes) {
      if (vote.outcome == v1::OUTCOME_ANSWERED) continue;
      endings.push_back(v1::Outcome_Name(vote.outcome));
      others.push_back(&vote);
    }
    const Verdict& other = *others[MostFrequent(endings)];
    merged.outcome = other.outcome;
    merged.reason = absl::StrCat(answered.size(), " of ", votes.size(), " votes name an answer",
                                 other.reason.empty() ? "" : absl::StrCat("; ", other.reason));
    return merged;
  }
  merged.outcome = v1::OUTCOME_ANSWERED;
  if (answered[0]->answer.has_choice()) {
    merged.answer = MeanChoice(answered);
    return merged;
  }
  std::vector<std::string> answers;
  for (const Verdict* vote : answered) answers.push_back(AnswerJson(vote->answer));
  merged.answer = answered[MostFrequent(answers)]->answer;
  return merged;
}

}  // namespace sibyl::annotator
