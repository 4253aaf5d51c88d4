#include "actor/actor_main.h"

#include "absl/flags/flag.h"
#include "common/status_macros.h"

ABSL_FLAG(std::string, learner, "", "Address of the learner, host:port. Required.");
ABSL_FLAG(std::string, metrics_listen, "0.0.0.0:9467", "Where metrics are served, host:port; port 0 takes a free one.");

namespace sibyl::actor {

int ActorMain(int argc, char** argv, const char* usage,
              const std::function<absl::Status(const std::string& learner, Program& program)>& play) {
  return RunMain(argc, argv, {"actor", usage}, [&](Program& program) -> absl::Status {
    const std::string learner = absl::GetFlag(FLAGS_learner);
    if (learner.empty()) {
      return UsageError(absl::InvalidArgumentError(
          "--learner is not set; say where the learner is, e.g. --learner=127.0.0.1:50051"));
    }
    SIBYL_RETURN_IF_ERROR(program.metrics.Serve(absl::GetFlag(FLAGS_metrics_listen)));
    return play(learner, program);
  });
}

}  // namespace sibyl::actor
