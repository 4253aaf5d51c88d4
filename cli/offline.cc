#include "cli/offline.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "cli/arguments.h"
#include "cli/model_server.h"
#include "cli/ports.h"
#include "cli/process.h"
#include "cli/run_folder.h"
#include "common/checkpoints.h"
#include "common/config.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace sibyl::cli {
namespace {

constexpr absl::Duration kStartLimit = absl::Seconds(30);
constexpr absl::Duration kStopLimit = absl::Seconds(15);

int Refuse(const char* command, const absl::Status& status) {
  std::fprintf(stderr, "sibyl %s: %s\n", command, std::string(status.message()).c_str());
  return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ? 2 : 1;
}

// The status that a child ended with.
int WaitFor(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Ctrl-C is for the program in the foreground, which shares the terminal; what stands behind it is then told to end.
int RunInForeground(const std::vector<std::string>& command) {
  signal(SIGINT, SIG_IGN);
  const pid_t pid = fork();
  if (pid == 0) {
    signal(SIGINT, SIG_DFL);
    std::vector<char*> argv;
    for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    std::fprintf(stderr, "cannot start %s: %s\n", argv[0], std::strerror(errno));
    _exit(127);
  }
  if (pid < 0) return 1;
  return WaitFor(pid);
}

// A child that is told to end with its scope.
struct Child {
  ~Child() {
    if (pid == 0) return;
    kill(pid, SIGTERM);
    for (const absl::Time until = absl::Now() + kStopLimit; waitpid(pid, nullptr, WNOHANG) == 0;) {
      if (absl::Now() > until) kill(pid, SIGKILL);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  pid_t pid = 0;
};

struct OfflineRequest {
  const char* command;  // of sibyl
  const char* program;
  v1::Experiment experiment;
  std::string folder;             // of the labels
  std::vector<std::string> sets;  // the overrides
  std::string config;
  std::vector<std::string> options;  // of the program
};

// Runs `program` beside an annotator that has the folder's labels.
absl::StatusOr<int> RunBesideAnnotator(const OfflineRequest& request) {
  const std::string binaries = BinaryFolder();
  std::error_code error;
  std::filesystem::create_directories(request.folder + "/logs", error);
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot make the folder ", request.folder, ": ", error.message()));
  }
  const std::string file = JudgeFile(request.experiment);
  if (!file.empty() && access(file.c_str(), R_OK) != 0) {
    return absl::NotFoundError(
        absl::StrCat("config: the judge's file ", file, " cannot be read; name one that is there"));
  }
  const bool embedded = AsksEmbeddedModel(request.experiment);
  if (embedded) SIBYL_RETURN_IF_ERROR(CheckEmbeddedModel(request.experiment, binaries));
  SIBYL_ASSIGN_OR_RETURN(const std::vector<int> ports, FreePorts(2, FreshRandom64()));
  const std::string address = absl::StrCat("127.0.0.1:", ports[0]), config = "--config=" + request.config;
  std::vector<std::string> annotator = {binaries + "/sibyl-annotator", config, "--run_dir=" + request.folder,
                                        "--listen=" + address, "--metrics_listen=127.0.0.1:0"};
  std::vector<std::string> command = {absl::StrCat(binaries, "/", request.program), config, "--annotator=" + address};
  if (embedded) annotator.push_back(absl::StrCat("--llm=127.0.0.1:", ports[1]));
  for (const std::string& set : request.sets) {
    annotator.push_back("--set=" + set);
    command.push_back("--set=" + set);
  }
  command.insert(command.end(), request.options.begin(), request.options.end());

  // Ends with this function.
  Child llm;
  if (embedded) {
    SIBYL_ASSIGN_OR_RETURN(llm.pid, StartProcess(ModelServerCommand(request.experiment, binaries, ports[1]),
                                                 request.folder + "/logs/llm.log"));
  }
  const std::string log = request.folder + "/logs/annotator.log";
  SIBYL_ASSIGN_OR_RETURN(const pid_t pid, StartProcess(annotator, log));
  const absl::Time limit = absl::Now() + kStartLimit;
  for (bool serves = false; !serves;) {
    serves = Listens(ports[0]);
    int status = 0;
    if (waitpid(pid, &status, WNOHANG) == pid) {
      return absl::UnavailableError(absl::StrCat("the annotator ", EndText(status), "; ", log, " ends with:\n",
                                                 absl::StrJoin(LastLines(log, 5), "\n")));
    }
    if (!serves && absl::Now() > limit) {
      kill(pid, SIGKILL);
      WaitFor(pid);
      return absl::UnavailableError(absl::StrCat("the annotator does not answer; see ", log));
    }
    if (!serves) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  const Child ends{pid};
  return RunInForeground(command);
}

absl::StatusOr<OfflineRequest> MakeRequest(const char* command, const char* program, const Arguments& arguments) {
  if (arguments.positional.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat("takes one configuration, not ", arguments.positional.size(),
                                                   "; e.g. sibyl ", command, " configs/nethack_score.textproto"));
  }
  OfflineRequest request = {
      command, program, {}, arguments.Value("labels"), arguments.Values("set"), arguments.positional[0], {}};
  if (request.folder.empty()) {
    return absl::InvalidArgumentError("--labels is missing; name the folder that the labels are kept in");
  }
  SIBYL_ASSIGN_OR_RETURN(request.experiment, LoadExperiment(request.config, request.sets));
  if (!AsksJudge(request.experiment)) {
    return absl::InvalidArgumentError(
        "the configuration asks no judge; leave reward_model.weights_file out, and set reward.intrinsic_coefficient "
        "above 0");
  }
  return request;
}

absl::Status PrintCaptions(const std::string& run) {
  SIBYL_ASSIGN_OR_RETURN(const Checkpoint checkpoint, ReadNewestCheckpoint(run));
  for (const v1::CaptionState& caption : checkpoint.state.captions()) {
    if (caption.text().empty() || caption.count() == 0) continue;
    nlohmann::ordered_json line = {
        {"caption", caption.text()}, {"count", caption.count()}, {"last_step", caption.last_step()}};
    if (!caption.context().empty()) line["context"] = caption.context();
    std::puts(line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
  }
  return absl::OkStatus();
}

}  // namespace

int CaptionsMain(absl::Span<const std::string> arguments) {
  const auto parsed = ParseArguments("sibyl captions", {}, arguments);
  if (!parsed.ok()) return Refuse("captions", parsed.status());
  if (parsed->positional.size() != 1) {
    return Refuse("captions", absl::InvalidArgumentError("takes one run's folder; e.g. sibyl captions runs/NAME"));
  }
  const absl::Status status = PrintCaptions(parsed->positional[0]);
  return status.ok() ? 0 : Refuse("captions", status);
}

int AnnotateMain(absl::Span<const std::string> arguments) {
  const std::vector<Flag> flags = {{"captions", "FILE"}, {"labels", "DIR"}, {"pairs", "N"}, {"set", "field=value"}};
  const auto parsed = ParseArguments("sibyl annotate", flags, arguments);
  if (!parsed.ok()) return Refuse("annotate", parsed.status());
  auto request = MakeRequest("annotate", "sibyl-annotate", *parsed);
  if (!request.ok()) return Refuse("annotate", request.status());
  if (!parsed->Has("captions")) {
    return Refuse("annotate",
                  absl::InvalidArgumentError("--captions is missing; name a file that `sibyl captions RUN` printed"));
  }
  request->options = {"--captions=" + parsed->Value("captions")};
  if (parsed->Has("pairs")) request->options.push_back("--pairs=" + parsed->Value("pairs"));
  const auto status = RunBesideAnnotator(*request);
  return status.ok() ? *status : Refuse("annotate", status.status());
}

int FitRewardMain(absl::Span<const std::string> arguments) {
  const std::vector<Flag> flags = {{"labels", "DIR"}, {"held_out", "SHARE"}, {"set", "field=value"}};
  const auto parsed = ParseArguments("sibyl fit-reward", flags, arguments);
  if (!parsed.ok()) return Refuse("fit-reward", parsed.status());
  auto request = MakeRequest("fit-reward", "sibyl-fit-reward", *parsed);
  if (!request.ok()) return Refuse("fit-reward", request.status());
  request->options = {"--run_dir=" + request->folder};
  if (parsed->Has("held_out")) request->options.push_back("--held_out=" + parsed->Value("held_out"));
  const auto status = RunBesideAnnotator(*request);
  return status.ok() ? *status : Refuse("fit-reward", status.status());
}

int JudgeMain(absl::Span<const std::string> arguments) {
  const std::vector<Flag> flags = {{"gold", "FILE"},        {"captions", "FILE"},   {"rules", "FILE"},
                                   {"prompts", "FILE,..."}, {"models", "FILE,..."}, {"labels", "FILE"},
                                   {"price_in", "MONEY"},   {"price_out", "MONEY"}, {"table", ""},
                                   {"set", "field=value"}};
  const auto parsed = ParseArguments("sibyl judge", flags, arguments);
  if (!parsed.ok()) return Refuse("judge", parsed.status());
  if (parsed->positional.size() != 1) {
    return Refuse("judge", absl::InvalidArgumentError("takes one configuration; e.g. sibyl judge "
                                                      "configs/minigrid_keycorridor.textproto --gold "
                                                      "configs/gold/minigrid.txt"));
  }
  auto experiment = LoadExperiment(parsed->positional[0], parsed->Values("set"));
  if (!experiment.ok()) return Refuse("judge", experiment.status());
  const std::vector<std::string> models = absl::StrSplit(parsed->Value("models"), ',');
  if (parsed->Has("models") && !AsksEmbeddedModel(*experiment)) {
    return Refuse("judge", absl::InvalidArgumentError("--models are files that JUDGE_KIND_EMBEDDED serves; set "
                                                      "annotator.judge, or leave them out"));
  }
  std::vector<std::string> command = {BinaryFolder() + "/sibyl-judge", "--config=" + parsed->positional[0]};
  for (const std::string& set : parsed->Values("set")) command.push_back("--set=" + set);
  for (const auto& [name, values] : parsed->flags) {
    if (name == "set" || name == "models") continue;
    command.push_back(absl::StrCat("--", name, name == "table" ? "" : "=", name == "table" ? "" : values.back()));
  }
  if (!AsksEmbeddedModel(*experiment)) return RunInForeground(command);
  for (const std::string& model : models) {
    std::vector<std::string> with_server = command;
    if (!model.empty()) {
      experiment->mutable_annotator()->mutable_embedded()->set_model_file(model);
      with_server.push_back("--set=annotator.embedded.model_file=" + model);
    }
    if (const auto served = CheckEmbeddedModel(*experiment, BinaryFolder()); !served.ok())
      return Refuse("judge", served);
    const auto ports = FreePorts(1, FreshRandom64());
    if (!ports.ok()) return Refuse("judge", ports.status());
    const std::string log =
        (std::filesystem::temp_directory_path() / absl::StrCat("sibyl-judge-", getpid(), ".log")).string();
    const auto pid = StartProcess(ModelServerCommand(*experiment, BinaryFolder(), (*ports)[0]), log);
    if (!pid.ok()) return Refuse("judge", pid.status());
    const Child server{*pid};
    with_server.push_back(absl::StrCat("--llm=127.0.0.1:", (*ports)[0]));
    const int status = RunInForeground(with_server);
    std::filesystem::remove(log);
    if (status != 0) return status;
  }
  return 0;
}

}  // namespace sibyl::cli
