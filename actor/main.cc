// sibyl-actor: plays environments for a learner. It needs nothing but the learner's address.

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "actor/session.h"
#include "common/log.h"

ABSL_FLAG(std::string, learner, "", "Address of the learner, host:port. Required.");
ABSL_FLAG(std::string, metrics_listen, "0.0.0.0:9467", "Where metrics are served, host:port; port 0 takes a free one.");

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("Plays environments for a learner: sibyl-actor --learner=host:port");
  sibyl::Shutdown shutdown;
  sibyl::InitLog("actor");
  const auto rest = absl::ParseCommandLine(argc, argv);
  if (absl::GetFlag(FLAGS_learner).empty() || rest.size() > 1) {
    spdlog::error("--learner is not set; say where the learner is, e.g. --learner=127.0.0.1:50051");
    return 2;
  }
  sibyl::Metrics metrics;
  if (auto served = metrics.Serve(absl::GetFlag(FLAGS_metrics_listen)); !served.ok()) {
    spdlog::error("{}", served.message());
    return 1;
  }
  const absl::Status status = sibyl::actor::PlayFor(absl::GetFlag(FLAGS_learner), shutdown, metrics);
  if (!status.ok()) {
    spdlog::error("{}", status.ToString());
    return 1;
  }
  return 0;
}
