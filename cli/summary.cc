#include "cli/summary.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/config.h"
#include "common/runtime/files.h"

namespace sibyl::cli {
namespace {

using nlohmann::json;

std::string OutcomeText(const RunOutcome& outcome) {
  switch (outcome.kind) {
    case RunOutcome::kFinished:
      return "finished";
    case RunOutcome::kStopped:
      return "stopped";
    case RunOutcome::kFailed:
      break;
  }
  return absl::StrCat("failed: ", outcome.reason);
}

std::string JudgeText(const v1::Experiment& experiment) {
  if (!RewardsCaptions(experiment)) return "";
  const std::string file = std::filesystem::path(JudgeFile(experiment)).filename().string();
  if (!AsksJudge(experiment)) return absl::StrCat("weights:", file);
  const std::string& model = experiment.annotator().openai().model();
  switch (experiment.annotator().judge()) {
    case v1::JUDGE_KIND_RULES:
      return absl::StrCat("rules:", file);
    case v1::JUDGE_KIND_SIMILARITY:
      return absl::StrCat("similarity:", model);
    case v1::JUDGE_KIND_EMBEDDED:
      return absl::StrCat("embedded:", model);
    default:
      return absl::StrCat("openai:", model);
  }
}

std::string PromptText(const v1::Experiment& experiment) {
  const v1::JudgeKind judge = experiment.annotator().judge();
  if (!AsksJudge(experiment) || (judge != v1::JUDGE_KIND_OPENAI && judge != v1::JUDGE_KIND_EMBEDDED)) return "";
  return std::filesystem::path(JudgeFile(experiment)).filename().string();
}

bool Known(const json& object, const char* key) { return object.contains(key) && !object[key].is_null(); }

// A number with its thousands apart: "1,234,567", "0.4312".
std::string NumberText(const json& value) {
  double number = value.get<double>();
  if (std::abs(number) >= 1000) number = std::round(number);
  if (number != std::floor(number) || std::abs(number) >= 1e15) return absl::StrFormat("%.4g", number);
  std::string digits = absl::StrFormat("%.0f", std::abs(number));
  for (int i = static_cast<int>(digits.size()) - 3; i > 0; i -= 3) digits.insert(i, ",");
  return absl::StrCat(number < 0 ? "-" : "", digits);
}

std::string PercentText(double share) {
  const double percent = 100 * share;
  return absl::StrFormat("%.*f %%", percent != 0 && percent < 1 ? 4 : 1, percent);
}

}  // namespace

json ReadLearnerSummary(const std::string& path) {
  const auto text = ReadFile(path);
  if (!text.ok()) return json::object();
  json summary = json::parse(*text, nullptr, false);
  return summary.is_object() ? summary : json::object();
}

json Summarise(const v1::Experiment& experiment, const RunOutcome& outcome, const json& learner) {
  // What the learner wrote stays, also what is not named here.
  json summary = learner;
  const auto fallback = [&](const char* key, const std::optional<double>& value) {
    if (Known(summary, key)) return;
    if (value && *value == std::floor(*value) && std::abs(*value) < 1e15) {
      summary[key] = static_cast<int64_t>(*value);
    } else {
      summary[key] = value ? json(*value) : json();
    }
  };
  const RunFigures& figures = outcome.figures;
  fallback("steps", figures.steps);
  fallback("steps_per_second", figures.steps_per_second);
  fallback("episodes", figures.episodes);
  fallback("abandoned_episodes", figures.abandoned_episodes);
  fallback("success_rate", figures.success_rate);
  fallback("mean_return", figures.mean_return);
  fallback("captions_seen", figures.captions_seen);
  fallback("captions_asked", figures.captions_asked);
  fallback("captions_labelled", figures.captions_labelled);
  std::optional<double> label_share;
  if (Known(summary, "captions_asked") && Known(summary, "steps") && summary["steps"].get<double>() > 0) {
    label_share = summary["captions_asked"].get<double>() / summary["steps"].get<double>();
  }
  fallback("label_share_of_steps", label_share);
  fallback("intrinsic_share_of_reward", std::nullopt);
  fallback("unlabelled_share_of_steps", std::nullopt);
  fallback("policy_lag", figures.policy_lag);
  fallback("reward_age_steps", figures.reward_age_steps);

  summary["outcome"] = OutcomeText(outcome);
  summary["name"] = experiment.name();
  summary["seed"] = experiment.seed();
  summary["environment"] = experiment.environment().name();
  summary["goal"] = experiment.reward_model().goal();
  if (!Known(summary, "judge") || summary["judge"] == "") summary["judge"] = JudgeText(experiment);
  if (!Known(summary, "prompt") || summary["prompt"] == "") summary["prompt"] = PromptText(experiment);
  summary["caption_rule"] = v1::CaptionRule_Name(experiment.environment().caption_rule());
  summary["wall_seconds"] = absl::ToDoubleSeconds(outcome.wall_time);
  summary["peak_memory_bytes"] = outcome.peak_memory_bytes;
  summary["restarts"] = outcome.restarts;
  return summary;
}

std::string SummaryText(const json& summary) {
  std::vector<std::pair<std::string, std::string>> rows;
  const auto text = [&](const char* label, const char* key) {
    if (Known(summary, key) && summary[key] != "") rows.emplace_back(label, summary[key].get<std::string>());
  };
  const auto number = [&](const char* label, const char* key) {
    rows.emplace_back(label, Known(summary, key) ? NumberText(summary[key]) : "-");
  };
  const auto share = [&](const char* label, const char* key) {
    rows.emplace_back(label, Known(summary, key) ? PercentText(summary[key].get<double>()) : "-");
  };
  text("outcome", "outcome");
  text("run", "name");
  text("environment", "environment");
  text("goal", "goal");
  text("judge", "judge");
  text("prompt", "prompt");
  text("caption rule", "caption_rule");
  number("steps", "steps");
  number("steps/s while training", "steps_per_second");
  rows.emplace_back("time", ShortDuration(summary["wall_seconds"].get<double>()));
  number("episodes", "episodes");
  number("abandoned episodes", "abandoned_episodes");
  share("success", "success_rate");
  number("mean return", "mean_return");
  number("captions seen", "captions_seen");
  number("captions asked", "captions_asked");
  number("captions labelled", "captions_labelled");
  share("labels per step", "label_share_of_steps");
  share("intrinsic part of reward", "intrinsic_share_of_reward");
  share("steps without a label", "unlabelled_share_of_steps");
  number("policy lag", "policy_lag");
  number("age of rewards in steps", "reward_age_steps");
  if (Known(summary, "figures") && summary["figures"].is_object()) {
    for (const auto& [name, value] : summary["figures"].items()) {
      if (value.is_number()) rows.emplace_back(absl::StrCat("figure ", name), NumberText(value));
    }
  }
  std::vector<std::string> memory;
  for (const auto& [name, bytes] : summary["peak_memory_bytes"].items()) {
    memory.push_back(absl::StrFormat("%s %.0f MiB", name, bytes.get<double>() / (1 << 20)));
  }
  if (!memory.empty()) rows.emplace_back("peak memory", absl::StrJoin(memory, ", "));
  std::vector<std::string> restarts;
  for (const auto& [name, count] : summary["restarts"].items()) {
    if (count != 0) restarts.push_back(absl::StrCat(name, " ", count.get<int>()));
  }
  rows.emplace_back("restarts", restarts.empty() ? "none" : absl::StrJoin(restarts, ", "));

  size_t widest = 0;
  for (const auto& [label, value] : rows) widest = std::max(widest, label.size());
  std::string out;
  for (const auto& [label, value] : rows) {
    absl::StrAppend(&out, "  ", label, std::string(widest - label.size() + 2, ' '), value, "\n");
  }
  return out;
}

}  // namespace sibyl::cli
