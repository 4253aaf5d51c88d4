#pragma once

#include <ATen/autocast_mode.h>

namespace sibyl {

// While an object lives, the calling thread computes matrix products and convolutions on devices of this type in
// bfloat16, converting weights and results as needed (`on`), or in the precision of its inputs (not `on`).
class Autocast {
 public:
  Autocast(at::DeviceType device, bool on)
      : device_(device),
        was_on_(at::autocast::is_autocast_enabled(device)),
        was_(at::autocast::get_autocast_dtype(device)) {
    at::autocast::set_autocast_enabled(device, on);
    if (on) at::autocast::set_autocast_dtype(device, at::kBFloat16);
  }
  ~Autocast() {
    at::autocast::set_autocast_dtype(device_, was_);
    at::autocast::set_autocast_enabled(device_, was_on_);
    // LibTorch keeps converted weights until the cache is cleared, and the weights are about to change.
    if (!was_on_) at::autocast::clear_cache();
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  const at::DeviceType device_;
  const bool was_on_;
  const at::ScalarType was_;
};

}  // namespace sibyl
