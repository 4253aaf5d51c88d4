#include "annotator/quality/quality.h"

#include <algorithm>

#include "absl/hash/hash.h"
#include "annotator/quality/agreement.h"
#include "annotator/questions/canonical.h"

namespace sibyl::annotator {
namespace {

// The likeliest label; empty: it is no choice.
std::string Chosen(const v1::Query& query, const v1::Answer& answer) {
  const auto& distribution = answer.choice().distribution();
  if (distribution.empty() || distribution.size() != query.grammar().choice().labels_size()) return "";
  const auto at = std::max_element(distribution.begin(), distribution.end()) - distribution.begin();
  return query.grammar().choice().labels(static_cast<int>(at));
}

uint64_t QuestionOf(const v1::Query& query) {
  return absl::HashOf(query.kind(), TextsJson(query.texts()), query.goal(), GrammarJson(query.grammar()));
}

std::map<std::pair<std::string, std::string>, bool> ByQuestion(const std::vector<GoldItem>& items) {
  std::map<std::pair<std::string, std::string>, bool> gold;
  for (const GoldItem& item : items) gold[{item.goal, item.caption}] = item.is == GoldItem::kGood;
  return gold;
}

}  // namespace

struct Quality::Gauges {
  explicit Gauges(Metrics& metrics)
      : right(Count(metrics, "yes")),
        wrong(Count(metrics, "no")),
        auc(metrics.Gauge("sibyl_annotator_gold_auc",
                          "Area under the ROC curve of the gold captions' probabilities of the good label.")),
        calibration_error(metrics.Gauge("sibyl_annotator_gold_calibration_error",
                                        "Expected calibration error of the gold captions' probabilities.")) {
    for (const char* with : {"itself", "earlier_model", "order", "votes"}) {
      for (const bool agrees : {false, true}) {
        comparisons[{with, agrees}] =
            &metrics.Counter("sibyl_annotator_comparisons_total", "Answers that were held against another answer.",
                             {{"with", with}, {"agrees", agrees ? "yes" : "no"}});
      }
    }
  }
  static prometheus::Gauge& Count(Metrics& metrics, const char* right) {
    return metrics.Gauge("sibyl_annotator_gold_captions", "Captions of the gold file that have an answer.",
                         {{"right", right}});
  }

  std::map<std::pair<absl::string_view, bool>, prometheus::Counter*> comparisons;
  prometheus::Gauge& right;
  prometheus::Gauge& wrong;
  prometheus::Gauge& auc;
  prometheus::Gauge& calibration_error;
};

Quality::Quality(const std::vector<GoldItem>& gold, Metrics& metrics)
    : gold_(ByQuestion(gold)), gauges_(std::make_unique<Gauges>(metrics)) {}

Quality::~Quality() = default;

void Quality::Compare(const char* with, bool agrees) { gauges_->comparisons.at({with, agrees})->Increment(); }

void Quality::OnLabel(const v1::Label& label, const std::string& served) {
  const v1::Query& query = label.query();
  const std::string chosen = label.outcome() == v1::OUTCOME_ANSWERED ? Chosen(query, label.answer()) : "";
  if (chosen.empty()) return;
  const auto& votes = label.answer().choice().votes();
  for (int i = 0; i < votes.size(); ++i) {
    for (uint32_t vote = 0; vote < votes[i]; ++vote) {
      Compare("votes", query.grammar().choice().labels(i) == chosen);
    }
  }

  MutexLock lock(mutex_);
  HoldAgainstGold(query, label.answer());
  const uint64_t question = QuestionOf(query), model = absl::HashOf(served);
  if (const auto first = query.texts().find("first"), second = query.texts().find("second");
      first != query.texts().end() && second != query.texts().end()) {
    v1::Query reversed = query;
    (*reversed.mutable_texts())["first"] = second->second;
    (*reversed.mutable_texts())["second"] = first->second;
    if (const auto other = answers_.find(QuestionOf(reversed)); other != answers_.end()) {
      const std::string& label_there = other->second.label;
      Compare("order", chosen == (label_there == "first" ? "second" : label_there == "second" ? "first" : label_there));
    }
  }
  const auto [answer, added] = answers_.try_emplace(question);
  if (!added) Compare(answer->second.served == model ? "itself" : "earlier_model", answer->second.label == chosen);
  answer->second = {chosen, model};
  if (!added) return;
  order_.push_back(question);
  if (order_.size() > kMostAnswers) {
    answers_.erase(order_.front());
    order_.pop_front();
  }
}

void Quality::OnKnown(const v1::Query& query, const v1::Answer& answer) {
  if (Chosen(query, answer).empty()) return;
  MutexLock lock(mutex_);
  HoldAgainstGold(query, answer);
}

void Quality::HoldAgainstGold(const v1::Query& query, const v1::Answer& answer) {
  const auto caption = query.texts().find("caption");
  if (gold_.empty() || caption == query.texts().end()) return;
  const std::pair<std::string, std::string> item = {query.goal(), caption->second};
  if (!gold_.contains(item)) return;
  gold_answers_[item] = {*answer.choice().distribution().rbegin(),
                         Chosen(query, answer) == *query.grammar().choice().labels().rbegin()};
  std::vector<double> good, bad;
  size_t right = 0;
  for (const auto& [known, said] : gold_answers_) {
    const bool is_good = gold_.at(known);
    (is_good ? good : bad).push_back(said.probability);
    right += is_good == said.is_good;
  }
  gauges_->right.Set(static_cast<double>(right));
  gauges_->wrong.Set(static_cast<double>(gold_answers_.size() - right));
  gauges_->auc.Set(AreaUnderCurve(good, bad));
  gauges_->calibration_error.Set(CalibrationError(good, bad));
}

}  // namespace sibyl::annotator
