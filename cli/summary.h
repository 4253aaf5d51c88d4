#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cli/run_folder.h"
#include "cli/supervisor.h"

namespace sibyl::cli {

// What the learner last wrote about the run (learner_summary.json); an empty object where there is nothing readable.
nlohmann::json ReadLearnerSummary(const std::string& path);

// The run's summary: the learner's figures as it wrote them, those that it lacks as they were last seen in metrics, and
// what the supervisor knows. A figure that nobody knows is null.
nlohmann::json Summarise(const v1::Experiment& experiment, const RunOutcome& outcome, const nlohmann::json& learner);

// The summary for a reader: aligned, one figure a line.
std::string SummaryText(const nlohmann::json& summary);

}  // namespace sibyl::cli
