// sibyl-judge: asks a judge about captions, by several prompts, and holds the answers against a person's. `sibyl judge`
// starts it, and the judge's server where that is an embedded model.

#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "annotator/judges/embedded.h"
#include "annotator/judges/openai_judge.h"
#include "annotator/judges/rules_judge.h"
#include "annotator/quality/agreement.h"
#include "annotator/quality/gold.h"
#include "annotator/questions/question.h"
#include "common/caption.h"
#include "common/config.h"
#include "common/mutex.h"
#include "common/runtime/program.h"
#include "common/status_macros.h"
#include "reward_model/questions.h"
#include "reward_model/scoring/threshold.h"

ABSL_FLAG(std::string, config, "", "The experiment: its judge, goal, labels and neutral captions. Required.");
ABSL_FLAG(std::string, llm, "", "Where the model that runs beside training is served, host:port.");
ABSL_FLAG(std::string, gold, "", "Captions that a person has labelled; configs/gold has some.");
ABSL_FLAG(std::string, captions, "", "Captions of a run, as `sibyl captions` prints them, in place of --gold.");
ABSL_FLAG(std::string, rules, "", "A file of rules that says which of --captions are good.");
ABSL_FLAG(std::vector<std::string>, prompts, {}, "Prompt files, separated by commas; left out: the configuration's.");
ABSL_FLAG(std::string, labels, "", "File that every label is written to, a line of JSON each.");
ABSL_FLAG(bool, table, false, "Prints every caption with its probability under each prompt.");
ABSL_FLAG(double, price_in, 0, "Money for a million prompt tokens.");
ABSL_FLAG(double, price_out, 0, "Money for a million completion tokens.");

namespace sibyl::judge {
namespace {

using annotator::Auc;
using annotator::Interval;
using annotator::ReadCaptions;
using annotator::ReadGold;
using annotator::Share;
using Item = annotator::GoldItem;

using nlohmann::json;

// What a judge said of the items.
struct Result {
  std::string prompt;
  std::vector<annotator::Verdict> verdicts;    // of the items
  std::map<std::string, float> neutral_above;  // by goal: the threshold that its neutral captions give
  double seconds = 0;
  uint64_t prompt_tokens = 0, completion_tokens = 0;
};

// Probability of the good label; nullopt: there is no answer.
std::optional<double> GoodOf(const annotator::Verdict& verdict) {
  if (verdict.outcome != v1::OUTCOME_ANSWERED || verdict.answer.choice().distribution().empty()) return std::nullopt;
  return *verdict.answer.choice().distribution().rbegin();
}

// Verdicts as they come. Callbacks of a judge that is still asked when the program is stopped own it too.
struct Asked {
  Mutex mutex;
  CondVar changed;
  std::vector<annotator::Verdict> verdicts ABSL_GUARDED_BY(mutex);
  int in_flight ABSL_GUARDED_BY(mutex) = 0;
};

// Asks about all of them, as many at a time as the judge takes.
absl::StatusOr<std::vector<annotator::Verdict>> AskAll(annotator::Judge& judge, const std::vector<v1::Query>& queries,
                                                       const Program& program) {
  const auto asked = std::make_shared<Asked>();
  const auto wait_until_below = [&](int most) {
    MutexLock lock(asked->mutex);
    while (asked->in_flight >= most && !program.stop().stop_requested()) {
      program.clock.WaitFor(asked->changed, asked->mutex, absl::Milliseconds(200));
    }
  };
  {
    MutexLock lock(asked->mutex);
    asked->verdicts.resize(queries.size());
  }
  for (size_t i = 0; i < queries.size(); ++i) {
    wait_until_below(judge.capacity());
    if (program.stop().stop_requested()) return absl::CancelledError("stopped");
    {
      MutexLock lock(asked->mutex);
      ++asked->in_flight;
    }
    judge.Answer(queries[i], [asked, i](annotator::Verdict verdict) {
      MutexLock lock(asked->mutex);
      asked->verdicts[i] = std::move(verdict);
      --asked->in_flight;
      asked->changed.NotifyAll();
    });
  }
  wait_until_below(1);
  if (program.stop().stop_requested()) return absl::CancelledError("stopped");
  MutexLock lock(asked->mutex);
  return asked->verdicts;
}

v1::Query QueryOf(v1::RewardModelConfig config, const std::string& goal, const std::string& caption) {
  config.set_goal(goal);
  return reward_model::MakeQuery(config, caption, nullptr);
}

absl::StatusOr<Result> Ask(const v1::Experiment& experiment, const std::string& prompt, const std::vector<Item>& items,
                           Program& program) {
  const v1::RewardModelConfig& config = experiment.reward_model();
  const v1::AnnotatorConfig& asked = experiment.annotator();
  v1::OpenAiConfig server =
      RunsBesideTraining(asked) ? annotator::EmbeddedServer(asked, absl::GetFlag(FLAGS_llm)) : asked.openai();
  server.set_prompt_file(prompt);
  const annotator::Host host = {program.clock, program.metrics, program.heartbeats, program.fail()};
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<annotator::Judge> judge,
                         asked.judge() == v1::JUDGE_KIND_SIMILARITY ? annotator::OpenAiJudge::BySimilarity(server, host)
                                                                    : annotator::OpenAiJudge::ByPrompt(server, host));
  std::vector<v1::Query> queries;
  for (const Item& item : items) queries.push_back(QueryOf(config, item.goal, item.caption));
  std::set<std::string> goals;
  for (const Item& item : items) goals.insert(item.goal);
  for (const std::string& goal : goals) {
    for (const std::string& neutral : config.neutral_captions()) queries.push_back(QueryOf(config, goal, neutral));
  }
  for (const v1::Query& query : queries) {
    SIBYL_RETURN_IF_ERROR(annotator::CheckQuery(query));
    SIBYL_RETURN_IF_ERROR(judge->Check(query));
  }
  Result result;
  result.prompt = judge->prompt();
  const absl::Time begin = program.clock.Now();
  SIBYL_ASSIGN_OR_RETURN(result.verdicts, AskAll(*judge, queries, program));
  result.seconds = absl::ToDoubleSeconds(program.clock.Now() - begin);
  for (const annotator::Verdict& verdict : result.verdicts) {
    result.prompt_tokens += verdict.prompt_tokens;
    result.completion_tokens += verdict.completion_tokens;
  }
  v1::RewardModelConfig neutral = config;
  neutral.set_threshold_kind(v1::THRESHOLD_KIND_NEUTRAL);
  if (config.threshold_kind() != v1::THRESHOLD_KIND_NEUTRAL) neutral.set_threshold(0.2);
  size_t at = items.size();
  for (const std::string& goal : goals) {
    reward_model::Threshold threshold(neutral);
    for (const uint64_t id : threshold.neutral()) {
      const auto good = GoodOf(result.verdicts[at++]);
      threshold.Observe(id, good.has_value() ? reward_model::Tally{1, *good, 0} : reward_model::Tally{0, 0, 1});
    }
    result.neutral_above[goal] = threshold.value();
  }
  result.verdicts.resize(items.size());
  return result;
}

// Which items are paid, for each kind of threshold. An item without an answer is not.
std::vector<bool> Paid(const v1::RewardModelConfig& config, v1::ThresholdKind kind, const std::vector<Item>& items,
                       const Result& result) {
  std::map<std::string, float> above;
  for (const Item& item : items) above.emplace(item.goal, 0.5f);
  if (kind == v1::THRESHOLD_KIND_NEUTRAL) above = result.neutral_above;
  if (kind == v1::THRESHOLD_KIND_QUANTILE || kind == v1::THRESHOLD_KIND_GAP) {
    v1::RewardModelConfig own = config;
    own.set_threshold_kind(kind);
    own.set_threshold(0.5);
    for (auto& [goal, value] : above) {
      reward_model::Threshold threshold(own);
      for (size_t i = 0; i < items.size(); ++i) {
        const auto good = GoodOf(result.verdicts[i]);
        if (items[i].goal == goal && good.has_value()) threshold.Observe(CaptionId(items[i].caption), {1, *good, 0});
      }
      value = threshold.value();
    }
  }
  std::vector<bool> paid;
  for (size_t i = 0; i < items.size(); ++i) {
    const auto good = GoodOf(result.verdicts[i]);
    paid.push_back(good.has_value() && *good > above[items[i].goal]);
  }
  return paid;
}

std::string Text(const Interval& interval) {
  if (std::isnan(interval.value)) return "";
  return absl::StrFormat("%.2f (%.2f-%.2f)", interval.value, interval.low, interval.high);
}

constexpr v1::ThresholdKind kKinds[] = {v1::THRESHOLD_KIND_ABSOLUTE, v1::THRESHOLD_KIND_NEUTRAL,
                                        v1::THRESHOLD_KIND_QUANTILE, v1::THRESHOLD_KIND_GAP};

void PrintRow(const v1::Experiment& experiment, const std::vector<Item>& items, const Result& result) {
  std::vector<double> good, bad;
  uint64_t answered = 0, known = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const auto score = GoodOf(result.verdicts[i]);
    answered += score.has_value();
    known += items[i].is != Item::kUnknown;
    if (!score.has_value() || items[i].is == Item::kUnknown) continue;
    (items[i].is == Item::kGood ? good : bad).push_back(*score);
  }
  std::vector<std::string> cells = {experiment.annotator().openai().model(), result.prompt,
                                    absl::StrCat(answered, " of ", items.size()), Text(Auc(good, bad))};
  for (const v1::ThresholdKind kind : kKinds) {
    const std::vector<bool> paid = Paid(experiment.reward_model(), kind, items, result);
    uint64_t right = 0, helpful = 0;
    for (size_t i = 0; i < items.size(); ++i) {
      right += items[i].is != Item::kUnknown && paid[i] == (items[i].is == Item::kGood);
      helpful += paid[i];
    }
    cells.push_back(absl::StrCat(Text(Share(right, known)), known > 0 ? ", " : "",
                                 absl::StrFormat("%.0f %%", 100.0 * helpful / items.size())));
  }
  const auto n = static_cast<double>(items.size());
  cells.push_back(absl::StrFormat("%.0f + %.1f", result.prompt_tokens / n, result.completion_tokens / n));
  cells.push_back(absl::StrFormat("%.2f", result.seconds / n));
  const double money = 1e-6 * (absl::GetFlag(FLAGS_price_in) * result.prompt_tokens +
                               absl::GetFlag(FLAGS_price_out) * result.completion_tokens);
  if (money > 0) cells.push_back(absl::StrFormat("%.4f", 1000 * money / n));
  std::printf("| %s |\n", absl::StrJoin(cells, " | ").c_str());
}

void PrintTable(const v1::Experiment& experiment, const std::vector<Item>& items, const std::vector<Result>& results) {
  std::printf("\n| caption | gold |");
  for (const Result& result : results) std::printf(" %s |", result.prompt.c_str());
  std::printf("\n|---|---|");
  for (size_t r = 0; r < results.size(); ++r) std::printf("---|");
  std::printf("\n");
  std::vector<std::vector<bool>> paid;
  for (const Result& result : results) {
    paid.push_back(Paid(experiment.reward_model(), experiment.reward_model().threshold_kind(), items, result));
  }
  for (size_t i = 0; i < items.size(); ++i) {
    std::printf("| %s | %s |", items[i].caption.c_str(),
                items[i].is == Item::kGood  ? "good"
                : items[i].is == Item::kBad ? "bad"
                                            : "");
    for (size_t r = 0; r < results.size(); ++r) {
      const auto good = GoodOf(results[r].verdicts[i]);
      std::printf(" %s |",
                  good.has_value() ? absl::StrFormat("%.3f%s", *good, paid[r][i] ? " paid" : "").c_str() : "no answer");
    }
    std::printf("\n");
  }
}

// The share of captions that two prompts agree about: paid or not.
void PrintAgreement(const v1::Experiment& experiment, const std::vector<Item>& items,
                    const std::vector<Result>& results) {
  for (size_t a = 0; a < results.size(); ++a) {
    for (size_t b = a + 1; b < results.size(); ++b) {
      const v1::ThresholdKind kind = experiment.reward_model().threshold_kind();
      const auto first = Paid(experiment.reward_model(), kind, items, results[a]),
                 second = Paid(experiment.reward_model(), kind, items, results[b]);
      uint64_t same = 0;
      for (size_t i = 0; i < items.size(); ++i) same += first[i] == second[i];
      std::printf("%s and %s agree about %s of the captions\n", results[a].prompt.c_str(), results[b].prompt.c_str(),
                  Text(Share(same, items.size())).c_str());
    }
  }
}

absl::Status WriteLabels(const std::string& path, const std::string& model, const std::vector<Item>& items,
                         const std::vector<Result>& results) {
  std::ofstream file(path, std::ios::app);
  for (const Result& result : results) {
    for (size_t i = 0; i < items.size(); ++i) {
      json line = {{"model", model},
                   {"prompt", result.prompt},
                   {"goal", items[i].goal},
                   {"caption", items[i].caption},
                   {"raw", result.verdicts[i].raw},
                   {"outcome", v1::Outcome_Name(result.verdicts[i].outcome)},
                   {"neutral_threshold", result.neutral_above.at(items[i].goal)}};
      if (const auto good = GoodOf(result.verdicts[i])) line["good"] = *good;
      if (items[i].is != Item::kUnknown) line["gold"] = items[i].is == Item::kGood;
      file << line.dump(-1, ' ', false, json::error_handler_t::replace) << "\n";
    }
  }
  file.close();
  return file ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("cannot write ", path));
}

absl::Status Run(Program& program) {
  const std::string gold = absl::GetFlag(FLAGS_gold), captions = absl::GetFlag(FLAGS_captions);
  if (absl::GetFlag(FLAGS_config).empty() || gold.empty() == captions.empty()) {
    return UsageError(absl::InvalidArgumentError("--config and one of --gold and --captions are needed"));
  }
  absl::StatusOr<v1::Experiment> experiment = LoadExperiment(absl::GetFlag(FLAGS_config), program.overrides);
  if (!experiment.ok()) return UsageError(experiment.status());
  const v1::RewardModelConfig& config = experiment->reward_model();
  if (reward_model::Compares(config)) {
    return UsageError(absl::InvalidArgumentError("reward_model.kind is RANKING; single captions are judged here"));
  }
  const auto& labels = config.label_set();
  SIBYL_ASSIGN_OR_RETURN(std::vector<Item> items, gold.empty() ? ReadCaptions(captions, config.goal())
                                                               : ReadGold(gold, labels[0], labels[labels.size() - 1]));
  if (const std::string rules = absl::GetFlag(FLAGS_rules); !rules.empty()) {
    SIBYL_ASSIGN_OR_RETURN(const auto judge, annotator::RulesJudge::Load(rules, {labels.begin(), labels.end()}, 0));
    for (Item& item : items) {
      judge->Answer(QueryOf(config, item.goal, item.caption), [&](annotator::Verdict verdict) {
        const auto good = GoodOf(verdict);
        item.is = !good.has_value() ? Item::kUnknown : *good > 0.5 ? Item::kGood : Item::kBad;
      });
    }
  }
  std::vector<std::string> prompts = absl::GetFlag(FLAGS_prompts);
  if (prompts.empty()) prompts = {experiment->annotator().openai().prompt_file()};
  std::printf(
      "| model | prompt | answered | AUC | accuracy, share paid: absolute 0.5 | neutral | median | gap | tokens "
      "a caption | s a caption |%s\n",
      absl::GetFlag(FLAGS_price_in) + absl::GetFlag(FLAGS_price_out) > 0 ? " cost of 1,000 captions |" : "");
  std::printf("|---|---|---|---|---|---|---|---|---|---|\n");
  std::vector<Result> results;
  for (const std::string& prompt : prompts) {
    SIBYL_ASSIGN_OR_RETURN(Result result, Ask(*experiment, prompt, items, program));
    PrintRow(*experiment, items, result);
    std::fflush(stdout);
    results.push_back(std::move(result));
  }
  PrintAgreement(*experiment, items, results);
  if (absl::GetFlag(FLAGS_table)) PrintTable(*experiment, items, results);
  if (absl::GetFlag(FLAGS_labels).empty()) return absl::OkStatus();
  return WriteLabels(absl::GetFlag(FLAGS_labels), experiment->annotator().openai().model(), items, results);
}

}  // namespace
}  // namespace sibyl::judge

int main(int argc, char** argv) {
  return sibyl::RunMain(argc, argv,
                        {"judge",
                         "Holds a judge's labels against a person's: sibyl-judge --config=FILE --gold=FILE "
                         "[--prompts=FILE,...] [--set field=value ...]",
                         /*takes_overrides=*/true},
                        sibyl::judge::Run);
}
