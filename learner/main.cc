// sibyl-learner: gives actors their actions, and trains the policy on what they lead to.
//
// Threads: gRPC's own; "inference" (Inference::Run); "unrolls" (UnrollReceiver::Run); "training" (TrainingLoop::Run)
// with the trainer's "training-share"; "reward-client"; "checkpoint"; main, which waits. They stop in this order: no
// new streams and the old ones ended; inference and unrolls; the unroll pool, which ends training; the reward client;
// the checkpoint thread, when the last checkpoint is written; the trainer's.

#include <filesystem>
#include <optional>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "common/checkpoints.h"
#include "common/config.h"
#include "common/flags.h"
#include "common/log.h"
#include "common/random.h"
#include "common/rpc/server.h"
#include "common/runtime/files.h"
#include "common/shutdown.h"
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

absl::Status Train(const std::vector<std::string>& overrides, Shutdown& shutdown) {
  std::string run_dir = absl::GetFlag(FLAGS_run_dir);
  if (absl::GetFlag(FLAGS_config).empty()) return absl::InvalidArgumentError("--config is not set; name a file");
  if (run_dir.empty()) return absl::InvalidArgumentError("--run_dir is not set; name a folder");
  // `whole`: of all ranks; `experiment`: this one's share.
  SIBYL_ASSIGN_OR_RETURN(const v1::Experiment whole, LoadExperiment(absl::GetFlag(FLAGS_config), overrides));
  const int rank = absl::GetFlag(FLAGS_rank), ranks = static_cast<int>(whole.learner().ranks());
  const bool leads = rank == 0;
  if (rank < 0 || rank >= ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rank is ", rank, ", must be below learner.ranks, which is ", ranks));
  }
  if (ranks > 1 && absl::GetFlag(FLAGS_rendezvous).empty()) {
    return absl::InvalidArgumentError(
        "--rendezvous is not set; name the host and a free port of the learner of rank 0, the same for all");
  }
  const v1::Experiment experiment = RankShare(whole, rank);
  // The others' folders hold what is theirs alone: episode numbers, curves.
  if (!leads) absl::StrAppend(&run_dir, "/rank-", rank);
  const bool rewarded = leads && RewardsCaptions(experiment);
  if (rewarded && absl::GetFlag(FLAGS_reward_model).empty()) {
    return absl::InvalidArgumentError(
        "--reward_model is not set; say where it is, or set reward.intrinsic_coefficient=0 to train without");
  }
  EnvironmentOptions options;
  options.max_episode_steps = experiment.environment().max_episode_steps();
  SIBYL_ASSIGN_OR_RETURN(const v1::EnvironmentSpec spec, FindEnvironmentSpec(experiment.environment().name(), options));
  SIBYL_ASSIGN_OR_RETURN(const torch::Device device, FindDevice(experiment.learner().device()));
  std::error_code error;
  std::filesystem::create_directories(run_dir + "/checkpoints", error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot make ", run_dir, ": ", error.message()));

  // `sibyl train` has written it; where the learner is started by itself, `sibyl eval` needs it all the same.
  const std::string effective = run_dir + "/experiment.textproto";
  if (leads && !std::filesystem::exists(effective)) {
    SIBYL_RETURN_IF_ERROR(WriteFileDurably(effective, ExperimentText(whole)));
  }

  // What is resumed.
  v1::LearnerState state;
  state.set_run_id(absl::StrCat(absl::Hex(FreshRandom64(), absl::kZeroPad16)));
  const absl::StatusOr<std::string> checkpoint =
      leads ? NewestCheckpoint(run_dir) : absl::NotFoundError("rank 0 has the checkpoints");
  if (checkpoint.ok()) {
    if (!absl::GetFlag(FLAGS_resume)) {
      return absl::AlreadyExistsError(absl::StrCat(*checkpoint,
                                                   " is there already; pass --resume to go on from it, or "
                                                   "another --run_dir"));
    }
    SIBYL_ASSIGN_OR_RETURN(state, ReadLearnerState(*checkpoint));
    if (const std::string difference = ResumeDifference(state.experiment(), whole); !difference.empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat("cannot go on from ", *checkpoint, " under another configuration: ", difference));
    }
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
  std::vector<std::shared_ptr<Policy>> policies;
  for (int i = 0; i < 3; ++i) {
    SIBYL_ASSIGN_OR_RETURN(auto policy, MakePolicy(experiment.policy(), spec));
    if (experiment.policy().precision() == v1::PRECISION_BFLOAT16) policy->UseBfloat16();
    policy->to(device);
    policies.push_back(std::move(policy));
  }
  v1::LearnerConfig training = experiment.learner();
  training.set_training_threads(static_cast<uint32_t>(TrainingThreads(training)));
  Trainer trainer(training, policies[0], collective.get());
  if (checkpoint.ok()) {
    SIBYL_RETURN_IF_ERROR(trainer.Load(*checkpoint + "/weights.safetensors"));
    spdlog::info("going on from {}: {} steps", *checkpoint, state.steps());
  }
  if (collective != nullptr) SIBYL_RETURN_IF_ERROR(trainer.Synchronise());
  PolicyStore store(std::move(policies[1]), std::move(policies[2]));
  store.Publish(trainer.policy(), trainer.version());

  Metrics metrics;
  SIBYL_RETURN_IF_ERROR(metrics.Serve(absl::GetFlag(FLAGS_metrics_listen)));
  CaptionTable captions(experiment.learner().max_captions());
  captions.Load(state.captions());
  EpisodeStats episodes(static_cast<int>(experiment.learner().episode_window()),
                        {spec.figures().begin(), spec.figures().end()});
  episodes.Load(state);
  UnrollPool unrolls(
      {static_cast<int>(experiment.learner().unroll_length()), ObservationBytes(spec), policies[0]->state_size(),
       ValueCount(experiment.policy()), CountsObservations(experiment.reward())},
      /*capacity=*/0, &Clock::Real());  // ActorStreams fits it to the actors that come
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<Slots> slots,
                         Slots::Open(static_cast<int>(experiment.learner().max_actors()), run_dir + "/episodes.pb"));
  StepCounter steps(state.steps() / static_cast<uint64_t>(ranks), &metrics);
  const ExperienceBooks books{&unrolls, &captions, &episodes, &steps};
  // A run that goes on must not draw the same random numbers again.
  const uint64_t sampling_seed = Mix64(experiment.seed() ^ Mix64(state.steps()));
  Inference inference(experiment, spec, device, sampling_seed, &store, books, &Clock::Real(), &metrics);
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<EventFile> events, EventFile::Create(run_dir + "/curves"));
  std::optional<CheckpointThread> checkpoints;
  if (leads) {
    checkpoints.emplace(run_dir, static_cast<int>(experiment.learner().checkpoints_kept()),
                        [&](const absl::Status& status) { shutdown.Fail(status); });
  } else {
    episodes.CollectNews();
  }

  UnrollReceiver receiver(experiment, spec, books, &Clock::Real(), &metrics);
  SharedWeights weights(&store);
  ActorStreams streams(experiment, spec, state.run_id(), slots.get(), &unrolls, &Clock::Real(), &metrics);
  ActService act_service(&streams, &inference, &captions);
  UnrollService unroll_service(&streams, &receiver, &weights, &captions, &metrics);
  SIBYL_ASSIGN_OR_RETURN(const std::unique_ptr<rpc::Server> server,
                         rpc::Server::Start(absl::GetFlag(FLAGS_listen), {&act_service, &unroll_service}));
  std::unique_ptr<RewardClient> rewards;
  if (rewarded) {
    rewards = std::make_unique<RewardClient>(
        absl::GetFlag(FLAGS_reward_model), state.run_id(), experiment.reward_model().goal(), &captions,
        [&steps] { return steps.received(); }, &shutdown, &metrics);
    if (collective != nullptr) rewards->KeepUpdates();
  }

  TrainingParts parts;
  parts.experiment = whole;
  parts.settings = {experiment.learner(),
                    experiment.reward(),
                    spec,
                    policies[0]->state_size(),
                    ValueCount(experiment.policy()),
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
  parts.events = events.get();
  parts.collective = collective.get();
  parts.checkpoints = leads ? &*checkpoints : nullptr;
  parts.metrics = &metrics;
  TrainingLoop loop(parts, state);
  // Others know this run by its id from now on: a restart must find it again.
  if (!checkpoint.ok()) loop.Checkpoint();

  const auto guarded = [&shutdown](const char* name, auto body) {
    NameThread(name);
    try {
      if (const absl::Status status = body(); !status.ok()) shutdown.Fail(status);
    } catch (const std::exception& e) {
      shutdown.Fail(absl::InternalError(absl::StrCat(name, ": ", e.what())));
    }
  };
  std::thread inference_thread([&] {
    at::set_num_threads(static_cast<int>(experiment.learner().inference_threads()));
    guarded("inference", [&] { return inference.Run(); });
  });
  std::thread unrolls_thread([&] {
    guarded("unrolls", [&] {
      receiver.Run();
      return absl::OkStatus();
    });
  });
  std::thread training_thread([&] {
    at::set_num_threads(1);  // the trainer has threads of its own
    guarded("training", [&] {
      SIBYL_RETURN_IF_ERROR(loop.Run());
      // Rank 0 is the first to end: this fails when it has.
      if (!leads) (void)collective->Sum({torch::zeros({1})});
      shutdown.Done();
      return absl::OkStatus();
    });
  });

  while (!shutdown.WaitFor(absl::Seconds(1))) streams.CloseSilent();
  server->SetServing(false);
  streams.CloseAll();
  inference.Close();
  receiver.Close();
  inference_thread.join();
  unrolls_thread.join();
  unrolls.Close();
  training_thread.join();
  rewards.reset();
  server->Drain(absl::Seconds(2));
  return shutdown.reason();
}

}  // namespace
}  // namespace sibyl::learner

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("Trains a policy on what actors experience: sibyl-learner --config=FILE --run_dir=DIR");
  sibyl::KeepMemory();
  sibyl::Shutdown shutdown;
  sibyl::InitLog("learner");
  const std::vector<std::string> overrides = sibyl::TakeOverrides(&argc, argv);
  absl::ParseCommandLine(argc, argv);
  const absl::Status status = sibyl::learner::Train(overrides, shutdown);
  if (!status.ok()) {
    spdlog::error("{}", status.ToString());
    return absl::IsInvalidArgument(status) ? 2 : 1;
  }
  return 0;
}
