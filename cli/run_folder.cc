#include "cli/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cli/model_server.h"
#include "common/config.h"
#include "common/runtime/files.h"
#include "common/safetensors.h"
#include "common/status_macros.h"
#include "environments/registry.h"

namespace sibyl::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kConfig[] = "experiment.textproto";
constexpr char kLock[] = "lock";

// Whether the folder has anything in it besides a lock that a refused start left behind.
bool HoldsSomething(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().filename() != kLock) return true;
  }
  return false;
}

struct JudgeFileField {
  const char* name;
  std::string* value;
};

// nullopt: there is none.
std::optional<JudgeFileField> FindJudgeFile(v1::Experiment* experiment) {
  if (!RewardsCaptions(*experiment)) return std::nullopt;
  if (!AsksJudge(*experiment)) {
    return JudgeFileField{"reward_model.weights_file", experiment->mutable_reward_model()->mutable_weights_file()};
  }
  auto* annotator = experiment->mutable_annotator();
  switch (annotator->judge()) {
    case v1::JUDGE_KIND_RULES:
      return JudgeFileField{"annotator.rules_file", annotator->mutable_rules_file()};
    case v1::JUDGE_KIND_OPENAI:
    case v1::JUDGE_KIND_EMBEDDED:
      return JudgeFileField{"annotator.openai.prompt_file", annotator->mutable_openai()->mutable_prompt_file()};
    default:
      return std::nullopt;
  }
}

// Compares what is asked for with the run that is in the folder. The judge's file is compared by content.
absl::Status CheckSameRun(const std::string& folder, const v1::Experiment& was, v1::Experiment is) {
  const std::string old_file = JudgeFile(was);
  const auto field = FindJudgeFile(&is);
  if (field.has_value() && !old_file.empty() && was.annotator().judge() == is.annotator().judge() &&
      AsksJudge(was) == AsksJudge(is)) {
    SIBYL_ASSIGN_OR_RETURN(const std::string old_text, ReadFile(old_file));
    SIBYL_ASSIGN_OR_RETURN(const std::string new_text, ReadFile(*field->value));
    if (old_text != new_text) {
      return absl::FailedPreconditionError(
          absl::StrCat("cannot resume ", folder, ": ", field->name, ": ", *field->value, " differs from the run's ",
                       old_file, "; put the old text back, or start a new run with another --run_dir"));
    }
    *field->value = old_file;
  }
  if (const std::string difference = ResumeDifference(was, is); !difference.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot resume ", folder, ": its configuration differs: ", difference,
                     "; set that field back, or start a new run with another --run_dir"));
  }
  return absl::OkStatus();
}

// A fitted reward model is of one goal.
absl::Status CheckWeights(const v1::RewardModelConfig& config) {
  const auto file = ReadSafetensors(config.weights_file());
  if (!file.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("config: reward_model.weights_file: ", file.status().message(),
                                                   "; name a file that `sibyl fit-reward` made"));
  }
  const auto goal = file->metadata.find("goal");
  if (goal != file->metadata.end() && goal->second == config.goal()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("config: reward_model.weights_file is ", config.weights_file(), ", which was fitted to the goal `",
                   goal == file->metadata.end() ? "" : goal->second, "`, but reward_model.goal is `", config.goal(),
                   "`; set that goal, or fit a model to this one"));
}

}  // namespace

std::string JudgeFile(const v1::Experiment& experiment) {
  v1::Experiment copy = experiment;
  const auto field = FindJudgeFile(&copy);
  return field.has_value() ? *field->value : "";
}

const char* ActorProgram(const v1::Experiment& experiment) {
  return experiment.actor().inference() == v1::INFERENCE_LOCAL ? "sibyl-actor-local" : "sibyl-actor";
}

absl::Status CheckRunnable(const v1::Experiment& experiment, const std::string& binaries) {
  EnvironmentOptions options;
  options.max_episode_steps = experiment.environment().max_episode_steps();
  const std::string& name = experiment.environment().name();
  // By name first: that needs no game library, and says what there is.
  if (auto spec = FindEnvironmentSpec(name, options); !spec.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("config: environment.name: ", spec.status().message()));
  }
  SIBYL_RETURN_IF_ERROR(MakeEnvironment(name, options).status());
  v1::Experiment copy = experiment;
  if (const auto field = FindJudgeFile(&copy); field.has_value()) {
    if (auto text = ReadFile(*field->value); !text.ok()) {
      return absl::NotFoundError(
          absl::StrCat("config: ", field->name, ": ", text.status().message(), "; name a file that is there"));
    }
  }
  if (RewardsCaptions(experiment) && !AsksJudge(experiment)) {
    SIBYL_RETURN_IF_ERROR(CheckWeights(experiment.reward_model()));
  }
  if (AsksEmbeddedModel(experiment)) SIBYL_RETURN_IF_ERROR(CheckEmbeddedModel(experiment, binaries));
  std::vector<std::string> programs = {"sibyl-learner", ActorProgram(experiment)};
  if (RewardsCaptions(experiment)) programs.push_back("sibyl-reward-model");
  if (AsksJudge(experiment)) programs.push_back("sibyl-annotator");
  for (const std::string& program : programs) {
    const std::string path = absl::StrCat(binaries, "/", program);
    if (access(path.c_str(), X_OK) == 0) continue;
    return absl::NotFoundError(
        absl::StrCat("there is no program ", path, "; build it, or set SIBYL_BIN to the folder of Sibyl's programs"));
  }
  return absl::OkStatus();
}

absl::StatusOr<RunFolder> RunFolder::Prepare(const RunRequest& request) {
  if (request.resume && request.run_dir.empty()) {
    return absl::InvalidArgumentError("--resume needs the run's folder: sibyl train --resume --run_dir DIR");
  }
  if (request.config.empty() && !request.resume) {
    return absl::InvalidArgumentError(
        "no configuration is named: sibyl train CONFIG, e.g. configs/minigrid_keycorridor.textproto");
  }
  const std::string config = request.config.empty() ? absl::StrCat(request.run_dir, "/", kConfig) : request.config;
  if (request.config.empty() && !fs::exists(config)) {
    return absl::NotFoundError(absl::StrCat("cannot resume ", request.run_dir, ": it holds no run (no ", kConfig,
                                            "); name the folder of one with --run_dir"));
  }
  absl::StatusOr<v1::Experiment> loaded = LoadExperiment(config, request.overrides);
  // Nobody has named the run's own file.
  if (!loaded.ok() && request.config.empty() && !absl::StrContains(loaded.status().message(), config)) {
    return absl::Status(loaded.status().code(), absl::StrCat(config, ": ", loaded.status().message()));
  }
  SIBYL_ASSIGN_OR_RETURN(v1::Experiment experiment, std::move(loaded));
  SIBYL_RETURN_IF_ERROR(CheckRunnable(experiment, request.binaries));

  const fs::path asked =
      request.run_dir.empty()
          ? fs::path("runs") /
                absl::StrCat(experiment.name(), absl::FormatTime("-%Y%m%d-%H%M%S", absl::Now(), absl::LocalTimeZone()))
          : fs::path(request.run_dir);
  std::string path = fs::absolute(asked).lexically_normal().string();
  if (path.size() > 1 && path.back() == '/') path.pop_back();
  if (!request.resume && HoldsSomething(path)) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is not empty; go on with the run in it with --resume, or name another folder with --run_dir"));
  }
  if (request.resume && !fs::exists(absl::StrCat(path, "/", kConfig))) {
    return absl::NotFoundError(
        absl::StrCat("cannot resume ", path, ": it holds no run (no ", kConfig, "); leave --resume out to start one"));
  }

  std::error_code error;
  fs::create_directories(path, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot make the folder ", path, ": ", error.message()));
  RunFolder run(std::move(path), -1);
  SIBYL_RETURN_IF_ERROR(run.Lock());
  if (request.resume) {
    SIBYL_ASSIGN_OR_RETURN(const v1::Experiment was, LoadExperiment(run.File(kConfig), {}));
    SIBYL_RETURN_IF_ERROR(CheckSameRun(run.path_, was, experiment));
    experiment.set_name(was.name());
    if (const auto field = FindJudgeFile(&experiment); field.has_value()) *field->value = JudgeFile(was);
  }
  for (const char* folder : {"judge", "logs"}) {
    fs::create_directories(run.File(folder), error);
    if (error) return absl::UnavailableError(absl::StrCat("cannot make ", run.File(folder), ": ", error.message()));
  }
  if (const auto field = FindJudgeFile(&experiment); field.has_value()) {
    // The file keeps its name: the judge's name, which labels carry, is made from it. The path is relative, so that the
    // folder can be moved.
    const std::string copy = absl::StrCat("judge/", fs::path(*field->value).filename().string());
    SIBYL_ASSIGN_OR_RETURN(const std::string text, ReadFile(*field->value));
    SIBYL_RETURN_IF_ERROR(WriteFileDurably(run.File(copy), text));
    *field->value = copy;
  }
  SIBYL_RETURN_IF_ERROR(WriteFileDurably(run.File(kConfig), ExperimentText(experiment)));
  SIBYL_ASSIGN_OR_RETURN(run.experiment_, LoadExperiment(run.File(kConfig), {}));
  return run;
}

absl::Status RunFolder::Lock() {
  const std::string path = File(kLock);
  lock_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) return absl::UnavailableError(absl::StrCat("cannot open ", path, ": ", std::strerror(errno)));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " is being trained in by another `sibyl train`; stop it, or name another --run_dir"));
  }
  return absl::OkStatus();
}

RunFolder::RunFolder(RunFolder&& other) noexcept
    : path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)), experiment_(std::move(other.experiment_)) {}

RunFolder::~RunFolder() {
  if (lock_ >= 0) close(lock_);
}

}  // namespace sibyl::cli
