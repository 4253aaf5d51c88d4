#include "cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace sibyl::cli {
namespace {

constexpr absl::Duration kRateWindow = absl::Seconds(15);
constexpr absl::Duration kLineEvery = absl::Seconds(10);

// "-" for what is not known.
std::string Count(const std::optional<double>& value) { return value ? ShortCount(*value) : "-"; }

// Up to two decimals, without trailing zeros.
std::string Trimmed(double value, int decimals) {
  std::string text = absl::StrFormat("%.*f", decimals, value);
  if (text.find('.') == std::string::npos) return text;
  text.erase(text.find_last_not_of('0') + 1);
  return std::string(absl::StripSuffix(text, "."));
}

}  // namespace

void UpdateFigures(const Samples& samples, RunFigures* figures) {
  const auto take = [&](const char* name, std::optional<double>* figure) {
    const auto found = samples.find(name);
    if (found != samples.end() && !std::isnan(found->second)) *figure = found->second;
  };
  take("sibyl_learner_steps_total", &figures->steps);
  take("sibyl_learner_episodes_total", &figures->episodes);
  take("sibyl_learner_abandoned_episodes_total", &figures->abandoned_episodes);
  take("sibyl_learner_success_rate", &figures->success_rate);
  take("sibyl_learner_mean_return", &figures->mean_return);
  take("sibyl_learner_captions", &figures->captions_seen);
  take("sibyl_learner_policy_lag_steps", &figures->policy_lag);
  take("sibyl_learner_reward_age_steps", &figures->reward_age_steps);
  take("sibyl_reward_model_captions_asked", &figures->captions_asked);
  take("sibyl_reward_model_captions_labelled", &figures->captions_labelled);
  take("sibyl_annotator_waiting_queries", &figures->waiting);
  // A series for each reason; one of them is 1 at most.
  const absl::string_view paused = "sibyl_annotator_asking_paused{reason=\"";
  for (auto it = samples.lower_bound(std::string(paused)); it != samples.end(); ++it) {
    absl::string_view reason = it->first;
    if (!absl::ConsumePrefix(&reason, paused) || !absl::ConsumeSuffix(&reason, "\"}")) break;
    if (it->second == 1) {
      figures->asking_paused = std::string(reason);
    } else if (figures->asking_paused == reason) {
      figures->asking_paused.clear();
    }
  }
}

void StepRate::Add(absl::Time now, double steps) {
  if (!seen_.empty() && steps < seen_.back().second) seen_.clear();
  seen_.emplace_back(now, steps);
  // The oldest one that is kept is just outside the window.
  while (seen_.size() > 2 && now - seen_[1].first >= kRateWindow) seen_.pop_front();
}

std::optional<double> StepRate::PerSecond() const {
  if (seen_.size() < 2) return std::nullopt;
  const double seconds = absl::ToDoubleSeconds(seen_.back().first - seen_.front().first);
  if (seconds <= 0) return std::nullopt;
  return (seen_.back().second - seen_.front().second) / seconds;
}

std::string ShortCount(double value) {
  static constexpr const char* kUnits[] = {"", "k", "M", "G", "T"};
  size_t unit = 0;
  // 999.5k would be shown as 1000k.
  while (std::abs(value) >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0) return Trimmed(value, 0);
  const double size = std::abs(value);
  return absl::StrCat(Trimmed(value, size < 9.995 ? 2 : size < 99.95 ? 1 : 0), kUnits[unit]);
}

std::string ShortDuration(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
  if (s < 60) return absl::StrCat(s, "s");
  if (s < 3600) return absl::StrFormat("%dm%02ds", s / 60, s % 60);
  if (s < 86400) return absl::StrFormat("%dh%02dm", s / 3600, s / 60 % 60);
  return absl::StrFormat("%dd%02dh", s / 86400, s / 3600 % 24);
}

std::string ProgressLine(const RunFigures& f, int width) {
  struct Field {
    int rank;  // the highest one is left out first
    std::string text;
  };
  std::vector<Field> fields;
  const double steps = f.steps.value_or(0);
  fields.push_back(
      {0, absl::StrCat("step ", Count(f.steps), "/", ShortCount(f.total_steps), " ",
                       // 100% only when it is.
                       f.total_steps > 0 ? std::floor(100 * std::min(1.0, steps / f.total_steps)) : 0, "%")});
  fields.push_back({2, absl::StrCat(Count(f.steps_per_second), "/s")});
  fields.push_back({4, absl::StrCat(Count(f.episodes), " ep")});
  if (f.success_rate.value_or(0) == 0 && f.mean_return.value_or(0) != 0) {
    fields.push_back({1, absl::StrCat("return ", Trimmed(*f.mean_return, 2))});
  } else {
    fields.push_back({1, f.success_rate ? absl::StrFormat("success %.2f", *f.success_rate) : "success -"});
  }
  fields.push_back({5, absl::StrCat(Count(f.captions_seen), " captions ", Count(f.captions_labelled), " labels ",
                                    Count(f.waiting), " waiting",
                                    f.asking_paused.empty() ? "" : absl::StrCat(", asking paused: ", f.asking_paused))});
  fields.push_back({6, absl::StrCat("lag ", f.policy_lag ? absl::StrFormat("%.1f", *f.policy_lag) : "-")});
  const bool known = f.steps && f.steps_per_second.value_or(0) > 0;
  fields.push_back(
      {3, absl::StrCat(known ? ShortDuration((f.total_steps - steps) / *f.steps_per_second) : "-", " left")});

  for (int last = static_cast<int>(fields.size()) - 1;; --last) {
    std::string line;
    for (const Field& field : fields) {
      if (field.rank <= last) absl::StrAppend(&line, line.empty() ? "" : " | ", field.text);
    }
    if (static_cast<int>(line.size()) <= width || last == 0) return line.substr(0, std::max(0, width));
  }
}

Screen Screen::StandardOutput() { return Screen(stdout, isatty(STDOUT_FILENO) == 1); }

int Screen::Width() const {
  winsize size{};
  if (ioctl(fileno(out_), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

void Screen::Event(const std::string& text) {
  const std::string time = absl::FormatTime("%H:%M:%S", absl::Now(), absl::LocalTimeZone());
  if (!terminal_) {
    std::fprintf(out_, "%s %s\n", time.c_str(), text.c_str());
  } else {
    std::fprintf(out_, "\r\x1b[K%s %s\n%s", time.c_str(), text.c_str(), shown_.c_str());
  }
  std::fflush(out_);
}

void Screen::Progress(absl::Time now, const std::function<std::string(int width)>& line) {
  if (terminal_) {
    // A line as wide as the terminal would make some of them wrap.
    shown_ = line(Width() - 1);
    std::fprintf(out_, "\r%s\x1b[K", shown_.c_str());
  } else {
    if (next_ == absl::InfinitePast()) next_ = now + kLineEvery;
    if (now < next_) return;
    next_ = now + kLineEvery;
    std::fprintf(out_, "%s\n", line(1000).c_str());
  }
  std::fflush(out_);
}

void Screen::Close() {
  if (!shown_.empty()) std::fputc('\n', out_);
  shown_.clear();
  std::fflush(out_);
}

}  // namespace sibyl::cli
