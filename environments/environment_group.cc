#include "environments/environment_group.h"

#include <cstring>
#include <utility>

#include "common/status_macros.h"
#include "common/tensor_spec.h"

namespace sibyl {
namespace {

class InProcessGroup : public EnvironmentGroup {
 public:
  InProcessGroup(std::vector<std::unique_ptr<Environment>> environments, bool contexts)
      : environments_(std::move(environments)),
        contexts_(contexts),
        results_(environments_.size()),
        captions_(environments_.size()),
        figures_(environments_.size()) {
    for (const v1::TensorSpec& array : spec().observation()) {
      array_offsets_.push_back(observation_bytes_);
      observation_bytes_ += Bytes(array);
    }
    arrays_.resize(array_offsets_.size());
  }

  const v1::EnvironmentSpec& spec() const override { return environments_.front()->spec(); }
  int rows() const override { return static_cast<int>(environments_.size()); }

  absl::Status Start(absl::Span<const RowOrder> orders, char* observations, char* finals) override {
    orders_ = orders;
    observations_ = observations;
    finals_ = finals;
    return absl::OkStatus();
  }

  absl::StatusOr<absl::Span<const RowResult>> Finish() override {
    for (size_t row = 0; row < environments_.size(); ++row) SIBYL_RETURN_IF_ERROR(Play(row));
    return results_;
  }

 private:
  // Where an observation that starts at `observation` holds each array.
  ObservationBuffers Arrays(char* observation) {
    for (size_t i = 0; i < arrays_.size(); ++i) arrays_[i] = observation + array_offsets_[i];
    return arrays_;
  }

  absl::Status Play(size_t row) {
    Environment& environment = *environments_[row];
    const RowOrder& order = orders_[row];
    RowResult& result = results_[row];
    char* observation = observations_ + row * observation_bytes_;
    result = {};
    if (order.action != nullptr) {
      SIBYL_ASSIGN_OR_RETURN(result.step, environment.Step(ActionView(order.action), Arrays(observation)));
      result.caption = environment.Caption();
      if (contexts_ && !result.caption.empty()) result.context = environment.Context();
      result.cut_off = order.cut_off && !result.step.terminated && !result.step.truncated;
      if (result.cut_off) result.step.truncated = true;
      if (!result.step.terminated && !result.step.truncated) return absl::OkStatus();
      // A reset overwrites all that the environment said of the end.
      captions_[row].assign(result.caption.data(), result.caption.size());
      result.caption = captions_[row];
      result.success = environment.Success();
      figures_[row].assign(environment.Figures().begin(), environment.Figures().end());
      result.figures = figures_[row];
      std::memcpy(finals_ + row * observation_bytes_, observation, observation_bytes_);
    }
    SIBYL_RETURN_IF_ERROR(environment.Reset(order.seed, Arrays(observation)));
    result.started = true;
    result.first_caption = environment.Caption();
    if (contexts_ && !result.first_caption.empty()) result.first_context = environment.Context();
    return absl::OkStatus();
  }

  const std::vector<std::unique_ptr<Environment>> environments_;
  const bool contexts_;
  std::vector<size_t> array_offsets_;
  size_t observation_bytes_ = 0;
  std::vector<void*> arrays_;
  std::vector<RowResult> results_;
  std::vector<std::string> captions_;         // of the ends, by row
  std::vector<std::vector<double>> figures_;  // of the ends, by row
  absl::Span<const RowOrder> orders_;
  char *observations_ = nullptr, *finals_ = nullptr;
};

}  // namespace

std::unique_ptr<EnvironmentGroup> MakeInProcessGroup(std::vector<std::unique_ptr<Environment>> environments,
                                                     bool contexts) {
  return std::make_unique<InProcessGroup>(std::move(environments), contexts);
}

}  // namespace sibyl
