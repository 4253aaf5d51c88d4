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

std::string Share(uint64_t count, uint64_t of) {
  const auto [low, high] = ShareInterval(count, of);
  return absl::StrFormat("%.3f of %d (95 %%: %.3f to %.3f)", static_cast<double>(count) / static_cast<double>(of), of,
                         low, high);
}

std::string TextOf(const v1::Query& query, const std::string& name) {
  const auto it = query.texts().find(name);
  return it == query.texts().end() ? "" : it->second;
}

}  // namespace

void Agreement::Add(const std::string& first, const std::string& second) {
  ++pairs_;
  same_ += first == second;
  ++counts_[first].first;
  ++counts_[second].second;
}

double Agreement::Kappa() const {
  if (pairs_ == 0) return 0;
  const auto n = static_cast<double>(pairs_);
  double chance = 0;
  for (const auto& [label, count] : counts_)
    chance += (static_cast<double>(count.first) / n) * (static_cast<double>(count.second) / n);
  return chance >= 1 ? 0 : (static_cast<double>(same_) / n - chance) / (1 - chance);
}

std::pair<double, double> ShareInterval(uint64_t count, uint64_t of) {
  if (of == 0) return {0, 1};
  const double z = 1.959964, n = static_cast<double>(of), p = static_cast<double>(count) / n;
  const double middle = (p + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z / (1 + z * z / n) * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

double AreaUnderCurve(std::vector<double> good, std::vector<double> bad) {
  if (good.empty() || bad.empty()) return -1;
  std::sort(bad.begin(), bad.end());
  double won = 0;
  for (const double score : good) {
    const auto below = std::lower_bound(bad.begin(), bad.end(), score),
               above = std::upper_bound(below, bad.end(), score);
    won += static_cast<double>(below - bad.begin()) + static_cast<double>(above - below) / 2;
  }
  return won / (static_cast<double>(good.size()) * static_cast<double>(bad.size()));
}

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
    for (const auto& [id, query] : judged.queries) {
      ++outcomes[query.last.outcome()];
      overridden += !query.last.overridden_by().empty();
      if (query.answered.empty()) continue;
      const v1::Query& asked = query.last.query();
      by_question[absl::StrCat(asked.kind(), TextsJson(asked.texts()), asked.goal())][name] = query.answered;
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
      const auto gold = gold_.find(TextOf(asked, "caption"));
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
      absl::StrAppend(&text, "  ", what, Share(with.same(), with.pairs()),
                      absl::StrFormat(", kappa %.2f\n", with.Kappa()));
    };
    agreement("agrees with itself    ", judged.with_itself);
    agreement("agrees with persons   ", judged.with_persons);
    if (both_orders > 0) absl::StrAppend(&text, "  flips with the order  ", Share(flips, both_orders), "\n");
    if (const uint64_t of = good.size() + bad.size(); of > 0) {
      absl::StrAppend(&text, "  right by gold         ", Share(right, of), "\n");
      const double area = AreaUnderCurve(good, bad);
      if (area >= 0) absl::StrAppend(&text, "  AUC by gold           ", absl::StrFormat("%.3f\n", area));
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
                    Share(with.same(), with.pairs()), absl::StrFormat(", kappa %.2f\n", with.Kappa()));
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
