// sibyl-actor-local: plays environments for a learner with the policy in this process. It needs nothing but the
// learner's address.
//
// Threads: main, which plays; "reader" and "cancel", which live as long as a stream; gRPC's own. A stop cancels the
// stream, which ends the reader and then playing; main returns when both are joined.

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "actor/local/session.h"
#include "common/log.h"
#include "policy/memory.h"

ABSL_FLAG(std::string, learner, "", "Address of the learner, host:port. Required.");
ABSL_FLAG(std::string, metrics_listen, "0.0.0.0:9467", "Where metrics are served, host:port; port 0 takes a free one.");

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Plays environments for a learner with the policy in this process: sibyl-actor-local --learner=host:port");
  sibyl::KeepMemory();
  sibyl::Shutdown shutdown;
  sibyl::InitLog("actor");
  const auto rest = absl::ParseCommandLine(argc, argv);
  if (absl::GetFlag(FLAGS_learner).empty() || rest.size() > 1) {
    spdlog::error("--learner is not set; say where the learner is, e.g. --learner=127.0.0.1:50051");
    return 2;
  }
  sibyl::Metrics metrics;
  absl::Status status = metrics.Serve(absl::GetFlag(FLAGS_metrics_listen));
  if (status.ok()) status = sibyl::actor::PlayLocallyFor(absl::GetFlag(FLAGS_learner), shutdown, metrics);
  if (!status.ok()) {
    spdlog::error("{}", status.ToString());
    return 1;
  }
  return 0;
}
