// sibyl-learner: gives actors their actions, and trains the policy on what they lead to.
//
// Threads: gRPC's own; "signals" (RunMain); "inference" (Inference::Run); "unrolls" (UnrollReceiver::Run); "training"
// (TrainingLoop::Run) with the trainer's "training-share"; "reward-client" and "reward-reader"; "checkpoint"; main,
// which waits. They stop in this order: new streams are refused and the open ones ended; inference and unrolls; the
// unroll pool, which ends training; the reward client; the checkpoint thread, when the last checkpoint is on the disk;
// the trainer's.

#include <optional>

#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/action_spec.h"
#include "common/checkpoints.h"
#include "common/config.h"
#include "common/feedback.h"
#include "common/log.h"
#include "common/random.h"
#include "common/rpc/server.h"
#include "common/runtime/files.h"
#include "common/runtime/program.h"
#include "common/runtime/stop.h"
#include "common/runtime/worker.h"
#include "common/status_macros.h"
#include "common/tensor_spec.h"
#include "environments/registry.h"
#include "learner/serving/act_service.h"
#include "learner/serving/unroll_service.h"
#include "learner/sizes.h"
#include "learner/training/training_loop.h"
#include "policy/device.h"
#include "policy/memory.h"
#include "policy/torch.h"
#include "policy/value_heads.h"

ABSL_FLAG(std::string, config, "", "Configuration file (Experiment, text format). Required.");
ABSL_FLAG(std::string, run_dir, "", "Folder for checkpoints, curves and the summary. Required.");
ABSL_FLAG(bool, resume, false, "Go on from the newest checkpoint of --run_dir, or begin where there is none.");
ABSL_FLAG(std::string, reward_model, "",
          "Address of the reward model, host:port. Required unless captions are not "
          "rewarded (reward.intrinsic_coefficient: 0).");
ABSL_FLAG(std::string, listen, "0.0.0.0:50051", "Where actors connect, host:port; port 0 takes a free one.");
ABSL_FLAG(std::string, metrics_listen, "0.0.0.0:9464", "Where metrics are served, host:port; port 0 takes a free one.");
ABSL_FLAG(int, rank, 0, "Which of learner.ranks learners this is, counted from 0.");
ABSL_FLAG(
    std::string, rendezvous, "",
    "Where learners that train together meet: host:port, which rank 0 listens on. Required where learner.ranks is "
    "above 1.");
ABSL_FLAG(std::string, record_batches, "", "Folder where every training batch is written, for tests and debugging.");

namespace sibyl::learner {
namespace {

// What the flags and the configuration say, checked as far as can be without work.
struct Settings {
  std::string run_dir;        // this rank's
  v1::Experiment whole;       // of all ranks
  v1::Experiment experiment;  // this rank's part
  int rank = 0, ranks = 1;
  bool leads = true;      // rank 0
  bool rewarded = false;  // this rank follows the reward model
  v1::EnvironmentSpec spec;
  torch::Device device = torch::kCPU;
};

absl::StatusOr<Settings> ReadSettings(const Program& program) {
  Settings settings;
  settings.run_dir = absl::GetFlag(FLAGS_run_dir);
  if (absl::GetFlag(FLAGS_config).empty()) return absl::InvalidArgumentError("--config is not set; name a file");
  if (settings.run_dir.empty()) return absl::InvalidArgumentError("--run_dir is not set; name a folder");
  SIBYL_ASSIGN_OR_RETURN(settings.whole, LoadExperiment(absl::GetFlag(FLAGS_config), program.overrides));
  settings.rank = absl::GetFlag(FLAGS_rank);
  settings.ranks = static_cast<int>(settings.whole.learner().ranks());
  settings.leads = settings.rank == 0;
  if (settings.rank < 0 || settings.rank >= settings.ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rank is ", settings.rank, ", must be below learner.ranks, which is ", settings.ranks));
  }
  if (settings.ranks > 1 && absl::GetFlag(FLAGS_rendezvous).empty()) {
    return absl::InvalidArgumentError(
        "--rendezvous is not set; name the host and a free port of the learner of rank 0, the same for all");
  }
  settings.experiment = ExperimentOfRank(settings.whole, settings.rank);
  // The others' folders hold what is theirs alone: episode numbers, curves.
  if (!settings.leads) absl::StrAppend(&settings.run_dir, "/rank-", settings.rank);
  settings.rewarded = settings.leads && RewardsCaptions(settings.experiment);
  if (settings.rewarded && absl::GetFlag(FLAGS_reward_model).empty()) {
    return absl::InvalidArgumentError(
        "--reward_model is not set; say where it is, or set reward.intrinsic_coefficient=0 to train without");
  }
  EnvironmentOptions options;
  options.max_episode_steps = settings.experiment.environment().max_episode_steps();
  SIBYL_ASSIGN_OR_RETURN(settings.spec, FindEnvironmentSpec(settings.experiment.environment().name(), options));
  SIBYL_ASSIGN_OR_RETURN(settings.device, FindDevice(settings.experiment.learner().device()));
  return settings;
}

// The run's id: the one in RUN/run_id, or a new one, which is on the disk before anybody hears of it. A learner that
// comes back without a checkpoint is still the same run to the reward model.
absl::StatusOr<std::string> RunId(const std::string& run_dir, FileSystem& files) {
  const std::string path = run_dir + "/run_id";
  const absl::StatusOr<std::string> known = ReadFile(path, files);
  if (known.ok()) {
    const std::string id(absl::StripAsciiWhitespace(*known));
    if (!id.empty()) return id;
    return absl::DataLossError(absl::StrCat(path,
                                            " is empty; write the run's id into the file, or remove the file "
                                            "where the run has no checkpoint"));
  }
  if (!absl::IsNotFound(known.status())) return known.status();
  const std::string id = absl::StrCat(absl::Hex(FreshRandom64(), absl::kZeroPad16));
  SIBYL_RETURN_IF_ERROR(WriteFileDurably(path, id + "\n", files));
  return id;
}

// The checkpoint to go on from; nothing where the run begins. AlreadyExists: there is one, and --resume is not set.
// FailedPrecondition: the configuration differs.
absl::StatusOr<std::optional<Checkpoint>> FindCheckpoint(const Settings& settings, FileSystem& files) {
  SIBYL_RETURN_IF_ERROR(OpenCheckpointFolder(settings.run_dir, files));
  std::vector<std::string> damaged;
  auto checkpoint = ReadNewestCheckpoint(settings.run_dir, files, &damaged);
  if (absl::IsNotFound(checkpoint.status())) return std::nullopt;
  SIBYL_RETURN_IF_ERROR(checkpoint.status());
  if (!absl::GetFlag(FLAGS_resume)) {
    return absl::AlreadyExistsError(absl::StrCat(checkpoint->folder,
                                                 " is there already; pass --resume to go on from it, or "
                                                 "another --run_dir"));
  }
  if (const std::string difference = ResumeDifference(checkpoint->state.experiment(), settings.whole);
      !difference.empty()) {
    return UsageError(absl::FailedPreconditionError(
        absl::StrCat("cannot go on from ", checkpoint->folder, " under another configuration: ", difference)));
  }
  SIBYL_RETURN_IF_ERROR(SetAsideCheckpoints(settings.run_dir, damaged, files));
  return *std::move(checkpoint);
}

absl::Status Train(Program& program) {
  absl::StatusOr<Settings> read = ReadSettings(program);
  if (!read.ok()) return UsageError(read.status());
  const Settings settings = *std::move(read);
  const std::string& run_dir = settings.run_dir;
  const v1::Experiment &whole = settings.whole, &experiment = settings.experiment;
  const v1::EnvironmentSpec& spec = settings.spec;
  const torch::Device device = settings.device;
  const int rank = settings.rank, ranks = settings.ranks;
  const bool leads = settings.leads, rewarded = settings.rewarded;
  FileSystem& files = program.files;
  Metrics& metrics = program.metrics;
  SIBYL_RETURN_IF_ERROR(files.MakeFolders(run_dir));
  SIBYL_RETURN_IF_ERROR(RemoveLeftovers(run_dir, files));

  // `sibyl train` has written it; where the learner is started by itself, `sibyl eval` needs it all the same.
  const std::string effective = run_dir + "/experiment.textproto";
  if (leads && !files.Exists(effective)) {
    SIBYL_RETURN_IF_ERROR(WriteFileDurably(effective, ExperimentText(whole), files));
  }

  // What is resumed. Rank 0 has the checkpoints.
  std::optional<Checkpoint> checkpoint;
  if (leads) {
    SIBYL_ASSIGN_OR_RETURN(checkpoint, FindCheckpoint(settings, files));
  }
  v1::LearnerState state;
  if (checkpoint) {
    state.Swap(&checkpoint->state);
  } else if (leads) {
    SIBYL_ASSIGN_OR_RETURN(*state.mutable_run_id(), RunId(run_dir, files));
  }

  std::unique_ptr<Collective> collective;
  if (ranks > 1) {
    SIBYL_ASSIGN_OR_RETURN(collective, Collective::Join(rank, ranks, absl::GetFlag(FLAGS_rendezvous),
                                                        absl::Seconds(whole.learner().rank_limit_seconds())));
    // Where the run stands, from rank 0; its captions stay there.
    v1::LearnerState told = state;
    *told.mutable_experiment() = whole;
    told.clear_captions();
    SIBYL_ASSIGN_OR_RETURN(const auto said, collective->Gather(leads ? told.SerializeAsString() : ""));
    if (!leads && !state.ParseFromString(said[0])) return absl::InternalError("rank 0's state cannot be read");
    if (const std::string difference = ResumeDifference(state.experiment(), whole); !leads && !difference.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("learner ", rank, " has another configuration than rank 0: ", difference));
    }
    if (!leads) {
      state.clear_window();
      state.clear_reward_sums();
      state.clear_episodes();
      state.clear_abandoned_episodes();
    }
    spdlog::info("learner {} of {}", rank, ranks);
  }

  // The policy, three times: one is trained, two take turns in inference.
  torch::manual_seed(experiment.seed());
  const v1::EnvironmentSpec policy_spec = Feedback(experiment, spec).PolicySpec();
  std::vector<std::shared_ptr<Policy>> policies;
  for (int i = 0; i < 3; ++i) {
    SIBYL_ASSIGN_OR_RETURN(auto policy, MakePolicy(experiment.policy(), policy_spec, experiment.reward()));
    if (experiment.policy().precision() == v1::PRECISION_BFLOAT16) policy->UseBfloat16();
    policy->to(device);
    policies.push_back(std::move(policy));
  }
  v1::LearnerConfig training = experiment.learner();
  training.set_training_threads(static_cast<uint32_t>(TrainingThreads(training)));
  Trainer trainer(training, policies[0], collective.get());
  if (checkpoint) {
    SIBYL_RETURN_IF_ERROR(trainer.Load(checkpoint->weights));
    spdlog::info("going on from {}: {} steps", checkpoint->folder, state.steps());
  }
  if (collective != nullptr) SIBYL_RETURN_IF_ERROR(trainer.Synchronise());
  PolicyStore store(std::move(policies[1]), std::move(policies[2]));
  store.Publish(trainer.policy(), trainer.policy_version());

  SIBYL_RETURN_IF_ERROR(metrics.Serve(absl::GetFlag(FLAGS_metrics_listen)));
  CaptionTable captions(experiment.learner().max_captions(), experiment.learner().max_caption_bytes());
  captions.Load(state.captions());
  EpisodeStats episodes(static_cast<int>(experiment.learner().episode_window()),
                        {spec.figures().begin(), spec.figures().end()});
  episodes.Load(state);
  UnrollPool unrolls({static_cast<int>(experiment.learner().unroll_length()), ObservationBytes(policy_spec),
                      ActionBytes(spec.action()), policies[0]->state_size(),
                      ValueCount(experiment.policy(), experiment.reward()), CountsObservations(experiment.reward())},
                     /*capacity=*/0, &program.clock);  // ActorStreams fits it to the actors that come
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<Slots> slots,
                         Slots::Open(static_cast<int>(experiment.learner().max_actors()), run_dir + "/episodes.pb"));
  StepCounter steps(state.steps() / static_cast<uint64_t>(ranks), &metrics);
  const ExperienceBooks books{&unrolls, &captions, &episodes, &steps};
  // A run that goes on must not draw the same random numbers again.
  const uint64_t sampling_seed = Mix64(experiment.seed() ^ Mix64(state.steps()));
  Inference inference(experiment, spec, device, sampling_seed, &store, books, &program.clock, &program.heartbeats,
                      &metrics);
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<EventFile> events, EventFile::Create(run_dir + "/curves"));
  std::optional<CheckpointThread> checkpoints;
  if (leads) {
    checkpoints.emplace(run_dir, static_cast<int>(experiment.learner().checkpoints_kept()), &captions, &files,
                        &program.clock, &program.heartbeats, program.fail());
  } else {
    episodes.CollectNews();
  }

  UnrollReceiver receiver(experiment, spec, books, &program.clock, &program.heartbeats, &metrics);
  SharedWeights weights(&store);
  ActorStreams streams(experiment, spec, state.run_id(), slots.get(), &unrolls, &program.clock, &metrics);
  ActService act_service(&streams, &inference, &captions);
  UnrollService unroll_service(&streams, &receiver, &weights, &captions, &metrics);
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<rpc::Server> server,
                         rpc::Server::Start(absl::GetFlag(FLAGS_listen), {&act_service, &unroll_service}));
  std::optional<ScoreQueue> score_queue;
  if (rewarded && collective != nullptr) score_queue.emplace(&program.clock, &metrics);
  std::unique_ptr<RewardClient> rewards;
  if (rewarded) {
    rewards = std::make_unique<RewardClient>(
        absl::GetFlag(FLAGS_reward_model), state.run_id(), experiment.reward_model().goal(), &captions,
        score_queue ? &*score_queue : nullptr, [&steps] { return steps.received(); }, &program.clock,
        &program.heartbeats, program.fail(), &metrics);
  }

  TrainingParts parts;
  parts.experiment = whole;
  parts.settings = {experiment.learner(),
                    experiment.reward(),
                    policy_spec,
                    policies[0]->state_size(),
                    ValueCount(experiment.policy(), experiment.reward()),
                    ChannelHeads(experiment.policy(), experiment.reward()),
                    device};
  parts.run_dir = run_dir;
  parts.run_id = state.run_id();
  parts.record_dir = absl::GetFlag(FLAGS_record_batches);
  parts.trainer = &trainer;
  parts.policies = &store;
  parts.unrolls = &unrolls;
  parts.captions = &captions;
  parts.episodes = &episodes;
  parts.rewards = rewards.get();
  parts.score_queue = score_queue ? &*score_queue : nullptr;
  parts.events = events.get();
  parts.collective = collective.get();
  parts.checkpoints = leads ? &*checkpoints : nullptr;
  parts.clock = &program.clock;
  parts.heartbeats = &program.heartbeats;
  parts.files = &files;
  parts.metrics = &metrics;
  TrainingLoop loop(parts, state);
  // The weights it begins with: a learner that is killed soon comes back with the same.
  if (!checkpoint) loop.Checkpoint();

  Worker inference_worker(
      "inference",
      [&](const std::stop_token&) {
        at::set_num_threads(static_cast<int>(experiment.learner().inference_threads()));
        return inference.Run();
      },
      program.fail());
  Worker unrolls_worker(
      "unrolls", [&](const std::stop_token&) { return receiver.Run(); }, program.fail());
  Worker training_worker(
      "training",
      [&](const std::stop_token&) -> absl::Status {
        at::set_num_threads(1);  // the trainer has threads of its own
        SIBYL_RETURN_IF_ERROR(loop.Run());
        // Rank 0 is the first to end: this fails when it has.
        if (!leads) (void)collective->Sum({torch::zeros({1})});
        program.ending.Finish();
        return absl::OkStatus();
      },
      program.fail());

  program.heartbeats.OnHealth([&server](bool healthy) { server->SetServing(healthy); });
  const std::unique_ptr<Heartbeat> heartbeat = program.heartbeats.Add("streams", absl::Minutes(1));
  while (!WaitForStop(program.stop(), program.clock, absl::Seconds(1))) {
    heartbeat->Beat();
    streams.CloseSilent();
  }
  program.heartbeats.OnHealth(nullptr);
  server->SetServing(false);
  streams.CloseAll();
  inference.Close();
  receiver.Close();
  inference_worker.Join();
  unrolls_worker.Join();
  unrolls.Close();
  training_worker.Join();
  rewards.reset();
  server->Drain(absl::Seconds(2));
  return checkpoints ? checkpoints->Close() : absl::OkStatus();
}

}  // namespace
}  // namespace sibyl::learner

int main(int argc, char** argv) {
  sibyl::KeepMemory();
  return sibyl::RunMain(argc, argv,
                        {"learner",
                         "Trains a policy on what actors experience:\n"
                         "  sibyl-learner --config=FILE --run_dir=DIR [--set field=value ...]",
                         /*takes_overrides=*/true},
                        sibyl::learner::Train);
}
