#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "annotator/host.h"
#include "annotator/store/label_log.h"
#include "common/runtime/file_system.h"

namespace sibyl::annotator {

// A log of labels, wherever it is kept.
struct LogOptions {
  // A SQLite file, or postgresql://user@host/database.
  std::string store;
  LogJudge judge;
  std::string run;  // Label.run
  // Queries of this judge that wait, at most.
  uint64_t capacity = 1000;
  FileSystem* files = &FileSystem::Real();
};

bool IsPostgres(absl::string_view store);

// Errors are those of SqliteLabelLog::Open and PostgresLabelLog::Open.
absl::StatusOr<std::unique_ptr<LabelLog>> OpenLog(const LogOptions& options, const Host& host);

}  // namespace sibyl::annotator
