#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "environments/environment.h"

namespace sibyl {

// What one environment of a group is to do next.
struct RowOrder {
  // Bytes of the action to play, in the environment's units. nullptr: start the episode of `seed` at once, and give up
  // the running one.
  const char* action = nullptr;
  // Of the episode that starts, or that follows where the action ends the running one.
  uint64_t seed = 0;
  // The running episode ends with this action in any case; where the environment does not end it, it is truncated.
  bool cut_off = false;
};

// What one environment did. Texts and figures are the group's, and live until its next Start.
struct RowResult {
  // Of the action; zeros after a start.
  StepResult step;
  // `step` is truncated because the order said so, and not by the environment.
  bool cut_off = false;
  // Of what the action led to: the final observation's where the episode ended. Empty after a start.
  absl::string_view caption;
  std::string context;
  // Where the episode ended.
  bool success = false;
  absl::Span<const double> figures;
  // Where an episode started.
  bool started = false;
  absl::string_view first_caption;
  std::string first_context;
};

// Environments of one kind that are played side by side: started together on their actions, collected together.
// A caller plays several groups in turn, so that what works outside this process (Python workers, remote servers) works
// between Start and Finish. One thread at a time.
class EnvironmentGroup {
 public:
  virtual ~EnvironmentGroup() = default;

  // Constant over the group's life; the same for each row.
  virtual const v1::EnvironmentSpec& spec() const = 0;
  virtual int rows() const = 0;

  // Begins what the orders say, one for each row. Finish writes what to act on next to `observations`, and where an
  // episode ended its final observation to the same row of `finals`: [rows, bytes of one observation], arrays one after
  // another as the spec lists them. Orders, actions and memory are the caller's and must live until Finish returns.
  // Call Finish before the next Start.
  virtual absl::Status Start(absl::Span<const RowOrder> orders, char* observations, char* finals) = 0;

  // Waits until every row has done what it was told. One result for each row, valid until the next Start. An error is
  // final: the group is of no more use.
  virtual absl::StatusOr<absl::Span<const RowResult>> Finish() = 0;
};

struct GroupOptions {
  EnvironmentOptions environment;
  // Fills in RowResult's contexts.
  bool contexts = false;
};

// A group of environments that live in this process. Finish steps them, one after another. `environments`: at least
// one, all of the same spec.
std::unique_ptr<EnvironmentGroup> MakeInProcessGroup(std::vector<std::unique_ptr<Environment>> environments,
                                                     bool contexts);

}  // namespace sibyl
