// sibyl-actor-local: plays environments for a learner with the policy in this process. It needs nothing but the
// learner's address.
//
// Threads: main, which plays; "signals" (RunMain); "reader", which lives as long as a stream; gRPC's own. A stop
// cancels the stream, which ends the reader and then playing; main returns when the reader is joined.

#include "absl/flags/flag.h"
#include "actor/local/session.h"
#include "common/runtime/program.h"
#include "common/status_macros.h"
#include "policy/memory.h"

ABSL_FLAG(std::string, learner, "", "Address of the learner, host:port. Required.");
ABSL_FLAG(std::string, metrics_listen, "0.0.0.0:9467", "Where metrics are served, host:port; port 0 takes a free one.");

namespace sibyl::actor {
namespace {

absl::Status Play(Program& program) {
  if (absl::GetFlag(FLAGS_learner).empty()) {
    return UsageError(
        absl::InvalidArgumentError("--learner is not set; say where the learner is, e.g. --learner=127.0.0.1:50051"));
  }
  SIBYL_RETURN_IF_ERROR(program.metrics.Serve(absl::GetFlag(FLAGS_metrics_listen)));
  return PlayLocallyFor(absl::GetFlag(FLAGS_learner), program);
}

}  // namespace
}  // namespace sibyl::actor

int main(int argc, char** argv) {
  sibyl::KeepMemory();
  return sibyl::RunMain(
      argc, argv,
      {"actor",
       "Plays environments for a learner with the policy in this process: sibyl-actor-local --learner=host:port"},
      sibyl::actor::Play);
}
