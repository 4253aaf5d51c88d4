// sibyl: the command line. Each command is a function over the arguments behind it.

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/arguments.h"
#include "cli/bench/bench_env.h"
#include "cli/bench/bench_train.h"
#include "cli/bench/bench_transport.h"
#include "cli/offline.h"
#include "cli/process.h"
#include "cli/rollout/rollout.h"
#include "cli/train.h"
#include "common/config.h"
#include "environments/registry.h"

namespace sibyl::cli {
namespace {

constexpr char kCommands[] = "train, eval, rollout, bench, captions, labels, annotate, fit-reward, judge, config, envs, help";
constexpr char kHelp[] =
    R"(sibyl trains agents where reward is rare, by asking a judge what in their experience was worth doing.

  sibyl train CONFIG [--run_dir DIR] [--set field=value]... [--resume]
      Trains on this machine. The run's folder is runs/<name>-<time> where --run_dir does not say otherwise.
      --resume goes on with the run in --run_dir; CONFIG may then be left out.
      Ctrl-C stops with a checkpoint; a second one stops at once.
  sibyl eval RUN [flags of sibyl-eval]
      Plays episodes with a run's policy.
  sibyl rollout [flags]
      Plays episodes with given actions and prints what happens.
  sibyl bench env ENV [--envs N] [--threads T] [--seconds S] [--max_episode_steps M]
  sibyl bench train CONFIG [--set field=value]... [--seconds S] [--warmup W] [--against field=value]... [--pairs N]
  sibyl bench transport [--actors N] [--environments E] [--groups G] [--pin 0|1] [--set field=value]... [--seconds S] [--warmup W]
  sibyl bench rewards [--captions N] [--seconds S] [--budget SHARE]
      Measure how fast environments are stepped, how fast a configuration trains (--against: how much faster than with
      those overrides), how fast steps get from actors to the learner, and what captions cost. They print a line of JSON.
  sibyl captions RUN
      Prints what a run has seen, a line of JSON a caption.
  sibyl labels list|show|stats|export|import|retry|override|reparse|backup WHERE [flags of sibyl-labels]
      Reads and edits a store of labels (a run's folder, a file, a database), also while an annotator has it open.
  sibyl annotate CONFIG --captions FILE --labels DIR [--pairs N] [--set field=value]...
      Has the judge label such captions, or compare N pairs of them, without a run; DIR keeps the labels.
  sibyl fit-reward CONFIG --labels DIR [--held_out SHARE] [--set field=value]...
      Trains a reward model on DIR's labels, for runs that set reward_model.weights_file to DIR/reward_model.safetensors.
  sibyl judge CONFIG (--gold FILE | --captions FILE [--rules FILE]) [--prompts FILE,...] [--models FILE,...] [--table]
      [--labels FILE] [--price_in MONEY] [--price_out MONEY] [--set field=value]...
      Asks the judge about captions, by several prompts and embedded models, and prints how well it agrees with a person's
      labels, what is paid under each kind of threshold, and what it costs.
  sibyl config CONFIG [--set field=value]...
      Prints the effective configuration: defaults filled in, overrides applied, values checked.
  sibyl envs
      Lists the environments.
  sibyl help, sibyl --version
)";

int Refuse(const char* command, const absl::Status& status) {
  std::fprintf(stderr, "sibyl %s: %s\n", command, std::string(status.message()).c_str());
  return absl::IsInvalidArgument(status) ? 2 : 1;
}

int ConfigMain(absl::Span<const std::string> arguments) {
  const std::vector<Flag> flags = {{"set", "field=value"}};
  const auto parsed = ParseArguments("sibyl config", flags, arguments);
  if (!parsed.ok()) return Refuse("config", parsed.status());
  if (parsed->positional.size() != 1) {
    return Refuse("config", absl::InvalidArgumentError(
                                absl::StrCat("takes one configuration, not ", parsed->positional.size(),
                                             "; e.g. sibyl config configs/minigrid_keycorridor.textproto")));
  }
  const auto experiment = LoadExperiment(parsed->positional[0], parsed->Values("set"));
  if (!experiment.ok()) return Refuse("config", experiment.status());
  std::fputs(ExperimentText(*experiment).c_str(), stdout);
  return 0;
}

int EnvironmentsMain(absl::Span<const std::string> arguments) {
  const auto parsed = ParseArguments("sibyl envs", {}, arguments);
  if (!parsed.ok()) return Refuse("envs", parsed.status());
  if (!parsed->positional.empty()) {
    return Refuse("envs", absl::InvalidArgumentError(
                              absl::StrCat("takes no arguments, but `", parsed->positional[0], "` is given")));
  }
  for (const std::string& name : EnvironmentNames()) std::puts(name.c_str());
  return 0;
}

// Goes on as another of Sibyl's programs.
int Become(const char* command, const std::string& name, absl::Span<const std::string> arguments) {
  const std::string program = BinaryFolder() + "/" + name;
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  std::fprintf(stderr, "sibyl %s: cannot start %s: %s; build it, or set SIBYL_BIN to the folder of Sibyl's programs\n",
               command, program.c_str(), std::strerror(errno));
  return 1;
}

int BenchMain(const std::vector<std::string>& arguments) {
  const std::string what = arguments.empty() ? "" : arguments[0];
  const auto rest = absl::MakeConstSpan(arguments).subspan(arguments.empty() ? 0 : 1);
  if (what == "env") return BenchEnvMain(rest);
  if (what == "train") return BenchTrainMain(rest);
  if (what == "transport") return BenchTransportMain(rest);
  if (what == "rewards") return Become("bench rewards", "sibyl-bench-rewards", rest);
  std::fprintf(stderr, "sibyl bench: %s; there are: env, train, transport, rewards\n",
               arguments.empty() ? "nothing is named" : absl::StrCat("cannot measure `", arguments[0], "`").c_str());
  return 2;
}

int Main(const std::string& command, const std::vector<std::string>& arguments) {
  // These two have flags of their own, --help among them.
  if (command == "eval") return Become("eval", "sibyl-eval", arguments);
  if (command == "labels") return Become("labels", "sibyl-labels", arguments);
  if (command == "rollout") return RolloutMain(arguments);
  const bool asks_help = std::find(arguments.begin(), arguments.end(), "--help") != arguments.end();
  if (asks_help || command == "help" || command == "--help" || command == "-h") {
    std::fputs(kHelp, stdout);
    return 0;
  }
  if (command == "train") return TrainMain(arguments);
  if (command == "bench") return BenchMain(arguments);
  if (command == "captions") return CaptionsMain(arguments);
  if (command == "annotate") return AnnotateMain(arguments);
  if (command == "fit-reward") return FitRewardMain(arguments);
  if (command == "judge") return JudgeMain(arguments);
  if (command == "config") return ConfigMain(arguments);
  if (command == "envs") return EnvironmentsMain(arguments);
  if (command == "version" || command == "--version") {
    std::puts("sibyl " SIBYL_VERSION);
    return 0;
  }
  std::fprintf(stderr, "sibyl: there is no command `%s`; there are: %s\n", command.c_str(), kCommands);
  return 2;
}

}  // namespace
}  // namespace sibyl::cli

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "sibyl: no command is given; there are: %s\n", sibyl::cli::kCommands);
    return 2;
  }
  return sibyl::cli::Main(argv[1], std::vector<std::string>(argv + 2, argv + argc));
}
