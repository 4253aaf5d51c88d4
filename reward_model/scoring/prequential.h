#pragma once

#include <cstddef>
#include <deque>

namespace sibyl::reward_model {

// How good predictions are that were made before their label was learned from ("test then train": no label is kept from
// training, and none is tested that was trained on). Over the last `window` labels. One thread at a time.
class Prequential {
 public:
  explicit Prequential(size_t window) : window_(window) {}

  // `predicted` probability, `target` probability, both 0 to 1. A target of exactly 1/2 (a tie) is left out.
  void Add(double predicted, double target);

  size_t size() const { return pairs_.size(); }
  // Share of predictions on the target's side of 1/2; 0 where there are none.
  double Accuracy() const;
  // Expected calibration error (Guo et al. 2017, equation 3) over ten bins of the predicted probability: the mean over
  // predictions of |mean predicted - mean target| of their bin.
  double CalibrationError() const;
  // Mean target.
  double GoodShare() const;

 private:
  struct Pair {
    double predicted, target;
  };
  size_t window_;
  std::deque<Pair> pairs_;
};

}  // namespace sibyl::reward_model
