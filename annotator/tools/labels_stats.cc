#include "annotator/tools/labels_stats.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "annotator/questions/canonical.h"
#include "annotator/tools/labels_format.h"

namespace sibyl::annotator {
namespace {

std::string ShareText(uint64_t count, uint64_t of) {
  const Interval share = Share(count, of);
  return absl::StrFormat("%.3f of %d (95 %%: %.3f to %.3f)", share.value, of, share.low, share.high);
}

std::string TextOf(const v1::Query& query, const std::string& name) {
  const auto it = query.texts().find(name);
  return it == query.texts().end() ? "" : it->second;
}

}  // namespace

void LabelStats::Add(const v1::Label& label) {
  Judged& judged = judges_[label.prompt().empty() ? label.judge() : absl::StrCat(label.judge(), ", ", label.prompt())];
  Query& query = judged.queries[label.query_id()];
  judged.cost += label.cost();
  query.last = label;
  const std::string name = LikeliestLabel(label);
  if (name.empty()) return;
  if (!label.overridden_by().empty()) {
    if (!query.answered.empty()) judged.with_persons.Add(query.answered, name);
    return;
  }
  // A reparsed answer is no second answer.
  if (!query.answered.empty()) judged.with_itself.Add(query.answered, name);
  query.answered = name;
  const auto& votes = label.answer().choice().votes();
  const auto& labels = label.query().grammar().choice().labels();
  for (int i = 0; i < votes.size() && i < labels.size(); ++i) {
    judged.votes += votes[i];
    judged.agreeing_votes += labels[i] == name ? votes[i] : 0;
  }
  query.good = *label.answer().choice().distribution().rbegin();
}

std::string LabelStats::Text(const v1::SpendingResponse& spending) const {
  std::string text;
  // By question: what each judge answered.
  std::map<std::string, std::map<std::string, std::string>> by_question;
  for (const auto& [name, judged] : judges_) {
    std::map<v1::Outcome, uint64_t> outcomes;
    uint64_t overridden = 0, flips = 0, both_orders = 0, right = 0;
    std::map<std::pair<std::string, std::string>, std::string> compared;
    std::vector<double> good, bad;
    Agreement over_models;
    std::map<std::string, std::string> by_question_here;
    for (const auto& [id, query] : judged.queries) {
      ++outcomes[query.last.outcome()];
      overridden += !query.last.overridden_by().empty();
      if (query.answered.empty()) continue;
      const v1::Query& asked = query.last.query();
      const std::string question = absl::StrCat(asked.kind(), TextsJson(asked.texts()), asked.goal());
      by_question[question][name] = query.answered;
      // The same question is another query where the server said something else of its model.
      const auto [before, first_time] = by_question_here.try_emplace(question, query.answered);
      if (!first_time) over_models.Add(before->second, query.answered);
      before->second = query.answered;
      const std::string first = TextOf(asked, "first"), second = TextOf(asked, "second");
      if (!first.empty()) {
        const auto reversed = compared.find({second, first});
        if (reversed != compared.end()) {
          ++both_orders;
          const std::string swapped = query.answered == "first"    ? "second"
                                      : query.answered == "second" ? "first"
                                                                   : "tie";
          flips += swapped != reversed->second;
        }
        compared[{first, second}] = query.answered;
      }
      auto gold = gold_.find({asked.goal(), TextOf(asked, "caption")});
      if (gold == gold_.end()) gold = gold_.find({"", TextOf(asked, "caption")});
      if (gold == gold_.end()) continue;
      right += gold->second == query.answered;
      const auto& labels = asked.grammar().choice().labels();
      (gold->second == *labels.rbegin() ? good : bad).push_back(query.good);
    }
    absl::StrAppend(&text, name, "\n  ended                 ");
    for (const auto& [outcome, count] : outcomes) absl::StrAppend(&text, count, " ", OutcomeName(outcome), "  ");
    absl::StrAppend(&text, "\n");
    if (judged.cost > 0) absl::StrAppend(&text, "  cost                  ", absl::StrFormat("%.4f", judged.cost), "\n");
    if (overridden > 0) absl::StrAppend(&text, "  overridden            ", overridden, "\n");
    const auto agreement = [&](const char* what, const Agreement& with) {
      if (with.pairs() == 0) return;
      absl::StrAppend(&text, "  ", what, ShareText(with.same(), with.pairs()),
                      absl::StrFormat(", kappa %.2f\n", with.Kappa()));
    };
    agreement("agrees with itself    ", judged.with_itself);
    agreement("after a model changed ", over_models);
    agreement("agrees with persons   ", judged.with_persons);
    if (judged.votes > 0) {
      absl::StrAppend(&text, "  votes for the label   ", ShareText(judged.agreeing_votes, judged.votes), "\n");
    }
    if (both_orders > 0) absl::StrAppend(&text, "  flips with the order  ", ShareText(flips, both_orders), "\n");
    if (const uint64_t of = good.size() + bad.size(); of > 0) {
      absl::StrAppend(&text, "  right by gold         ", ShareText(right, of), "\n");
      if (const Interval area = Auc(good, bad); !std::isnan(area.value)) {
        absl::StrAppend(&text, "  AUC by gold           ",
                        absl::StrFormat("%.3f (95 %%: %.3f to %.3f)\n", area.value, area.low, area.high));
      }
      absl::StrAppend(&text, "  calibration error     ", absl::StrFormat("%.3f\n", CalibrationError(good, bad)));
    }
  }
  std::map<std::pair<std::string, std::string>, Agreement> between;
  for (const auto& [question, answers] : by_question) {
    for (auto a = answers.begin(); a != answers.end(); ++a) {
      for (auto b = std::next(a); b != answers.end(); ++b) between[{a->first, b->first}].Add(a->second, b->second);
    }
  }
  for (const auto& [judges, with] : between) {
    absl::StrAppend(&text, judges.first, "  and  ", judges.second, "\n  agree                 ",
                    ShareText(with.same(), with.pairs()), absl::StrFormat(", kappa %.2f\n", with.Kappa()));
  }
  if (spending.rows_size() > 0) absl::StrAppend(&text, "spent\n");
  for (const v1::SpendingResponse::Row& row : spending.rows()) {
    absl::StrAppend(
        &text, "  ", absl::FormatTime("%Y-%m-%d", absl::FromUnixSeconds(row.day() * 86'400), absl::UTCTimeZone()), "  ",
        row.model(), row.endpoint().empty() ? "" : absl::StrCat(" at ", row.endpoint()), "  run ", row.run(),
        row.goal().empty() ? "  probes" : absl::StrCat("  goal `", row.goal().substr(0, 40), "`"), "  ", row.requests(),
        " requests (", row.failed_requests(), " failed), ", row.prompt_tokens(), " + ", row.completion_tokens(),
        " tokens", row.cost() > 0 ? absl::StrFormat(", %.4f", row.cost()) : "", "\n");
  }
  return text;
}

}  // namespace sibyl::annotator
