#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "learner/training/loss.h"
#include "learner/training/vtrace.h"
#include "policy/torch.h"

// Slow references for the learner's arithmetic: the formulas as they are printed, in loops over plain numbers.

namespace sibyl::learner {

inline std::vector<double> Numbers(const torch::Tensor& x) {
  const torch::Tensor flat = x.detach().to(torch::kFloat64).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

inline std::vector<bool> Flags(const torch::Tensor& x) {
  std::vector<bool> flags;
  for (const double value : Numbers(x)) flags.push_back(value != 0);
  return flags;
}

// V-trace (Espeholt et al. 2018) of one unroll.
struct LiteralVtrace {
  std::vector<double> ratio, reward, value, final_value;
  std::vector<bool> terminated, truncated;
  double gamma, rho_bar, c_bar;

  int T() const { return static_cast<int>(reward.size()); }
  double rho(int t) const { return std::min(rho_bar, ratio[t]); }
  double c(int t) const { return std::min(c_bar, ratio[t]); }
  bool Ends(int t) const { return terminated[t] || truncated[t]; }
  // V(x_{t+1}), of the state that the step really led to.
  double ValueAfter(int t) const {
    if (terminated[t]) return 0;
    return truncated[t] ? final_value[t] : value[t + 1];
  }
  // Equation 1: v_s = V(x_s) + sum over t of gamma^(t-s) (product over i from s to t-1 of c_i) rho_t (r_t + gamma
  // V(x_{t+1}) - V(x_t)), over the steps from s to the unroll's or the episode's last.
  double Target(int s) const {
    if (s == T()) return value[s];
    int last = s;
    while (last + 1 < T() && !Ends(last)) ++last;
    double target = value[s];
    for (int t = s; t <= last; ++t) {
      double product = 1;
      for (int i = s; i < t; ++i) product *= c(i);
      double discount = 1;
      for (int i = s; i < t; ++i) discount *= gamma;
      target += discount * product * rho(t) * (reward[t] + gamma * ValueAfter(t) - value[t]);
    }
    return target;
  }
  // Section 4.2: rho_s (r_s + gamma v_{s+1} - V(x_s)).
  double Advantage(int s) const {
    const double next = Ends(s) ? ValueAfter(s) : Target(s + 1);
    return rho(s) * (reward[s] + gamma * next - value[s]);
  }
};

inline LiteralVtrace LiteralVtraceOf(const VtraceInputs& in, int64_t b) {
  const auto numbers = [b](const torch::Tensor& x) { return Numbers(x.select(1, b)); };
  const auto flags = [b](const torch::Tensor& x) { return Flags(x.select(1, b)); };
  return {numbers(in.ratio),
          numbers(in.reward),
          numbers(in.value),
          numbers(in.final_value),
          flags(in.terminated),
          flags(in.truncated),
          in.gamma,
          in.rho_bar,
          in.c_bar};
}

struct LiteralLosses {
  double policy = 0, value = 0, entropy = 0, clip_fraction = 0;
};

// Cross-entropy of a distribution over bins with what HL-Gauss wants it to be for `target`, from the normal
// distribution's integral over each bin.
inline double LiteralBinLoss(const std::vector<double>& bins, const double* logits, double target) {
  const double width = bins[1] - bins[0], deviation = 0.75 * width;
  const double centre = std::clamp(target, bins.front(), bins.back());
  const auto below = [&](double x) { return 0.5 * (1 + std::erf((x - centre) / deviation / std::sqrt(2.0))); };
  const double all = below(bins.back() + width / 2) - below(bins.front() - width / 2);
  double partition = 0, loss = 0;
  for (size_t k = 0; k < bins.size(); ++k) partition += std::exp(logits[k]);
  for (size_t k = 0; k < bins.size(); ++k) {
    const double wanted = (below(bins[k] + width / 2) - below(bins[k] - width / 2)) / all;
    loss -= wanted * std::log(std::exp(logits[k]) / partition);
  }
  return loss;
}

// loss.h's formulas, step by step over the valid ones.
inline LiteralLosses LiteralLossesOf(const LossInputs& in, const v1::LearnerConfig& config) {
  const auto log_prob = Numbers(in.log_prob), old_log_prob = Numbers(in.proximal_log_prob), critic = Numbers(in.critic),
             old_value = Numbers(in.behaviour_value), target = Numbers(in.target), advantage = Numbers(in.advantage),
             entropy = Numbers(in.entropy), valid = Numbers(in.valid);
  const size_t heads = in.critic.size(-2), numbers = in.critic.size(-1);
  std::vector<double> bins, centre(heads, 0), spread(heads, 1);
  if (in.code.bins.defined()) bins = Numbers(in.code.bins);
  if (!in.code.statistics.is_empty()) {
    centre = Numbers(in.code.statistics->mean());
    spread = Numbers(in.code.statistics->deviation());
  }
  double count = 0, mean = 0, variance = 0;
  for (size_t i = 0; i < valid.size(); ++i) {
    if (valid[i] == 0) continue;
    ++count;
    mean += advantage[i];
  }
  mean /= count;
  for (size_t i = 0; i < valid.size(); ++i) {
    if (valid[i] != 0) variance += (advantage[i] - mean) * (advantage[i] - mean) / count;
  }
  const double deviation = std::max(std::sqrt(variance), 1e-3);
  const double high = 1 + config.ppo_clip(), low = 1 / (1 + config.ppo_clip());
  LiteralLosses out;
  for (size_t i = 0; i < valid.size(); ++i) {
    if (valid[i] == 0) continue;
    const double normal = (advantage[i] - mean) / deviation, ratio = std::exp(log_prob[i] - old_log_prob[i]);
    out.policy -= std::min(ratio * normal, std::clamp(ratio, low, high) * normal) / count;
    for (size_t head = 0; head < heads; ++head) {
      const size_t at = i * heads + head;
      const auto encode = [&](double x) { return (x - centre[head]) / spread[head]; };
      const double wanted = encode(target[at]);
      if (!bins.empty()) {
        out.value += LiteralBinLoss(bins, &critic[at * numbers], wanted) / count;
        continue;
      }
      const double value = critic[at], before = encode(old_value[at]);
      const double clipped = std::clamp(value, before - config.value_clip(), before + config.value_clip());
      out.value += std::max((value - wanted) * (value - wanted), (clipped - wanted) * (clipped - wanted)) / count;
    }
    out.entropy += entropy[i] / count;
    out.clip_fraction += (ratio < low || ratio > high) / count;
  }
  return out;
}

}  // namespace sibyl::learner
