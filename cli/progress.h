#pragma once

#include <cstdio>
#include <deque>
#include <functional>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "cli/scrape.h"

namespace sibyl::cli {

// What is known of a run while it goes on; nothing where no process has said it yet.
struct RunFigures {
  double total_steps = 0;
  std::optional<double> steps, steps_per_second, episodes, abandoned_episodes, success_rate, mean_return, captions_seen,
      captions_asked, captions_labelled, waiting, policy_lag, reward_age_steps;
  std::string asking_paused;  // why the annotator asks nothing now; empty: it asks
};

// Takes over what a process' metrics say; what they do not say stays as it was.
void UpdateFigures(const Samples& samples, RunFigures* figures);

// Steps a second over the last quarter of a minute.
class StepRate {
 public:
  // A step counter that went back (the learner was replaced and goes on from its checkpoint) starts it anew.
  void Add(absl::Time now, double steps);
  // Nothing before two different moments are known.
  std::optional<double> PerSecond() const;

 private:
  std::deque<std::pair<absl::Time, double>> seen_;
};

// One line, at most `width` characters; fields that do not fit are left out, the least important first:
//   step 412k/1M 41% | 5.2k/s | 3.1k ep | success 0.35 | 12 captions 12 labels 0 waiting | lag 1.8 | 1m53s left
// Where episodes earn something and none succeeds (NetHack's score), the return is shown instead of the success.
std::string ProgressLine(const RunFigures& figures, int width);

// 999, 5.2k, 412k, 1M, 1.25M.
std::string ShortCount(double value);
// 53s, 1m53s, 2h05m, 3d04h.
std::string ShortDuration(double seconds);

// Where progress is shown. On a terminal one line is rewritten in place, and events scroll by above it; elsewhere a
// progress line is printed every 10 s.
class Screen {
 public:
  Screen(std::FILE* out, bool terminal) : out_(out), terminal_(terminal) {}
  // The standard output, as it is.
  static Screen StandardOutput();

  void Event(const std::string& text);
  void Progress(absl::Time now, const std::function<std::string(int width)>& line);
  // Leaves the last progress line standing.
  void Close();

 private:
  int Width() const;

  std::FILE* out_;
  bool terminal_;
  std::string shown_;  // the line that stands on the terminal
  absl::Time next_ = absl::InfinitePast();
};

}  // namespace sibyl::cli
