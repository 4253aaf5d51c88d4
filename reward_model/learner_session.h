#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "reward_model/learner_output.h"
#include "sibyl/v1/reward.pb.h"

namespace sibyl::reward_model {

// Which learner is connected, whether it may be, and what it was told. One learner at a time. One thread at a time.
class LearnerSession {
 public:
  // `goal`: the run's. `incarnation` and `kind`: what the reward model's hello says.
  LearnerSession(std::string goal, uint64_t incarnation, std::string kind)
      : goal_(std::move(goal)), incarnation_(incarnation), kind_(std::move(kind)) {}

  // Goes on with the run of a checkpoint; before anything else.
  void Restore(const std::string& run_id, uint64_t learner_incarnation) {
    run_id_ = run_id;
    learner_incarnation_ = learner_incarnation;
  }

  // Whether the learner may connect. FailedPrecondition: its protocol version, run or goal differs; the message gives
  // neither run nor goal away. Unavailable: this process is stopping.
  absl::Status Check(const v1::LearnerHello& hello) const;
  // Connects a learner that Check accepts, and sends the hello. A learner that was connected is disconnected. The first
  // learner sets the run. True: another process than the learner before, so its counts begin at 0.
  bool Connect(const v1::LearnerHello& hello, std::shared_ptr<LearnerOutput> output);
  // The learner's stream has ended. Ignores one that is not the connected one any more.
  void Disconnect(const LearnerOutput* from);
  // Disconnects the learner and refuses others.
  void Drain();

  bool connected() const { return output_ != nullptr; }
  bool IsConnected(const LearnerOutput* output) const { return output_ != nullptr && output_.get() == output; }

  // Does nothing where no learner is connected. A learner that does not take the message is gone.
  void Send(v1::RewardModelToLearner message);
  // Sends the progress where it is not what the connected learner was told last, at most once a second.
  void SendProgress(const v1::RewardModelProgress& progress, absl::Time now);

  // While the learner catches up, it gets the snapshot that it lacked when it came, and no updates.
  void SetCatchingUp(bool catching_up) { catching_up_ = catching_up; }
  bool takes_updates() const { return connected() && !catching_up_; }

  // Empty: no learner has connected yet.
  const std::string& run_id() const { return run_id_; }
  // LearnerHello.incarnation of the learner that connected last; 0: none.
  uint64_t learner_incarnation() const { return learner_incarnation_; }

 private:
  void Lose();

  const std::string goal_;
  const uint64_t incarnation_;
  const std::string kind_;
  std::string run_id_;
  uint64_t learner_incarnation_ = 0;
  std::shared_ptr<LearnerOutput> output_;
  bool catching_up_ = false, draining_ = false;
  std::optional<std::string> sent_progress_;  // to this connection
  absl::Time progress_sent_at_ = absl::InfinitePast();
};

}  // namespace sibyl::reward_model
