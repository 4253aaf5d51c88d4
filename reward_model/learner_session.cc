#include "reward_model/learner_session.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/protocol.h"

namespace sibyl::reward_model {
namespace {

constexpr absl::Duration kProgressPeriod = absl::Seconds(1);

absl::Status Stopping() { return absl::UnavailableError("the reward model is stopping; reconnect"); }

}  // namespace

absl::Status LearnerSession::Check(const v1::LearnerHello& hello) const {
  if (hello.protocol_version() != kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the learner speaks protocol version ", hello.protocol_version(),
                                                      ", the reward model ", kProtocolVersion,
                                                      "; run the same release of both"));
  }
  if (hello.run_id().empty()) return absl::FailedPreconditionError("the learner's run_id is empty");
  if (hello.goal() != goal_) {
    return absl::FailedPreconditionError(
        "the learner's goal is not the reward model's; start both with the same reward_model.goal");
  }
  if (draining_) return Stopping();
  if (!run_id_.empty() && hello.run_id() != run_id_) {
    return absl::FailedPreconditionError(
        "the learner's run is not the one that the reward model's folder belongs to; give each run a reward model "
        "with a --run_dir of its own");
  }
  return absl::OkStatus();
}

bool LearnerSession::Connect(const v1::LearnerHello& hello, std::shared_ptr<LearnerOutput> output) {
  run_id_ = hello.run_id();
  if (output_ != nullptr) output_->Disconnect(absl::UnavailableError("the learner has connected anew"));
  output_ = std::move(output);
  sent_progress_.reset();
  progress_sent_at_ = absl::InfinitePast();
  v1::RewardModelToLearner message;
  message.mutable_hello()->set_protocol_version(kProtocolVersion);
  message.mutable_hello()->set_incarnation(incarnation_);
  message.mutable_hello()->set_kind(kind_);
  Send(std::move(message));
  return std::exchange(learner_incarnation_, hello.incarnation()) != hello.incarnation();
}

void LearnerSession::Disconnect(const LearnerOutput* from) {
  if (IsConnected(from)) Lose();
}

void LearnerSession::Drain() {
  draining_ = true;
  if (output_ != nullptr) output_->Disconnect(Stopping());
  output_ = nullptr;
}

void LearnerSession::Send(v1::RewardModelToLearner message) {
  if (output_ != nullptr && !output_->Deliver(std::move(message))) Lose();
}

void LearnerSession::SendProgress(const v1::RewardModelProgress& progress, absl::Time now) {
  if (!connected() || now - progress_sent_at_ < kProgressPeriod) return;
  std::string bytes = progress.SerializeAsString();
  if (bytes == sent_progress_) return;
  sent_progress_ = std::move(bytes);
  progress_sent_at_ = now;
  v1::RewardModelToLearner message;
  *message.mutable_progress() = progress;
  Send(std::move(message));
}

void LearnerSession::Lose() {
  output_ = nullptr;
  spdlog::info("the learner is gone; waiting for it");
}

}  // namespace sibyl::reward_model
