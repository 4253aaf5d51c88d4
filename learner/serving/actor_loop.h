#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/metrics.h"
#include "common/runtime/clock.h"
#include "common/runtime/heartbeat.h"
#include "common/status_macros.h"
#include "learner/experience/unroll_pool.h"
#include "learner/experience/unroll_writer.h"
#include "learner/serving/batching_queue.h"
#include "sibyl/v1/act.pb.h"

namespace sibyl::learner {

// What a loop keeps of each actor that it serves. A loop adds what it needs by derivation.
template <typename SinkType>
struct ServedActor {
  using Sink = SinkType;
  v1::SlotLease lease;
  std::shared_ptr<Sink> sink;
  UnrollWriter writer;
  int requests = 0;  // for unrolls, that the pool has not granted yet
};

// The loop that serves actors of one kind: their messages come in through a queue, and are handled in order on one
// thread. Inference and UnrollReceiver say what a message means.
//
// Attach, Submit, Detach and Close may be called from any thread. Run is the body of one thread; everything else belongs
// to that thread. What comes under a lease that is not the slot's newest is dropped.
//
// `Actor` derives from ServedActor. `Message` is what an actor sends.
template <typename Actor, typename Message>
class ActorLoop {
 public:
  using Sink = typename Actor::Sink;

  virtual ~ActorLoop() = default;
  ActorLoop(const ActorLoop&) = delete;
  ActorLoop& operator=(const ActorLoop&) = delete;

  // The actor holds the slot from now on. An actor that held it before is forgotten.
  void Attach(const v1::SlotLease& lease, std::shared_ptr<Sink> sink) {
    queue_.Push({Event::kAttach, lease, std::move(sink), {}, 0, {}});
  }
  // False when the message cannot be queued: the learner is stopping.
  bool Submit(const v1::SlotLease& lease, Message message) {
    return queue_.Push({Event::kMessage, lease, nullptr, std::move(message), 0, {}});
  }
  // The actor is gone: its unfinished unrolls are freed, and its running episodes are counted as abandoned.
  void Detach(const v1::SlotLease& lease) { queue_.Push({Event::kDetach, lease, nullptr, {}, 0, {}}); }

  // Serves until Close. An error is final: the process cannot do its job. Beats as the loop `name` while it runs.
  absl::Status Run() {
    const std::unique_ptr<Heartbeat> heartbeat = heartbeats_->Add(name_, kHangs);
    std::vector<Event> events;
    while (true) {
      heartbeat->Beat();
      const absl::Time begin_wait = clock_->Now();
      const bool starved = requests_ > 0;
      const Wait wait = NextWait(begin_wait);
      events.clear();
      if (!queue_.Pop(wait.events, wait.limit, &events, wait.empty_limit)) return absl::OkStatus();
      const absl::Time begin = clock_->Now();
      if (starved) starved_seconds_.Increment(absl::ToDoubleSeconds(begin - begin_wait));
      for (Event& event : events) Handle(event);
      SIBYL_RETURN_IF_ERROR(AfterEvents());
      busy_seconds_.Increment(absl::ToDoubleSeconds(clock_->Now() - begin));
    }
  }
  void Close() { queue_.Close(); }

 protected:
  // `name`: of the loop, for its heartbeat. `busy_seconds` counts the time spent on events, `starved_seconds` the time
  // spent waiting while an actor waited for unrolls. All outlive the loop.
  ActorLoop(const char* name, const ExperienceBooks& books, Clock* clock, Heartbeats* heartbeats,
            prometheus::Counter& busy_seconds, prometheus::Counter& starved_seconds)
      : books_(books),
        clock_(clock),
        name_(name),
        heartbeats_(heartbeats),
        queue_(kQueueCapacity, clock),
        busy_seconds_(busy_seconds),
        starved_seconds_(starved_seconds) {}

  // How long Run waits: until `events` have come, until the oldest one has waited for `limit`, or until the queue has
  // been empty for `empty_limit`.
  struct Wait {
    size_t events = 1;
    absl::Duration limit = absl::InfiniteDuration();
    absl::Duration empty_limit = kIdle;
  };
  virtual Wait NextWait(absl::Time /*now*/) { return {}; }

  // Makes what is kept of the actor. It may ask for unrolls already.
  virtual std::unique_ptr<Actor> MakeActor(const v1::SlotLease& lease, std::shared_ptr<Sink> sink) = 0;
  // An error says how the actor broke the contract: the actor is refused with it, and forgotten.
  virtual absl::Status OnMessage(Actor& actor, const Message& message) = 0;
  // The pool has granted what RequestUnrolls could not get at once.
  virtual void OnUnrolls(Actor& actor, uint32_t group, Unrolls unrolls) = 0;
  // The actor is about to be destroyed: gives back what is not the writer's.
  virtual void OnForget(Actor& actor) = 0;
  // The events that had come are handled.
  virtual absl::Status AfterEvents() { return absl::OkStatus(); }

  // `count` unrolls for the actor's group; none where it has to wait: OnUnrolls brings them.
  Unrolls RequestUnrolls(Actor& actor, uint32_t group, int count) {
    Unrolls unrolls =
        books_.unrolls->Request(actor.lease.token(), count, [this, lease = actor.lease, group](Unrolls granted) {
          queue_.Push({Event::kUnrolls, lease, nullptr, {}, group, std::move(granted)});
        });
    if (unrolls.empty()) {
      ++actor.requests;
      ++requests_;
    }
    return unrolls;
  }

  size_t actors() const { return actors_.size(); }
  // Requests for unrolls, of all actors, that the pool has not granted yet.
  int requests() const { return requests_; }

  const ExperienceBooks books_;
  Clock* const clock_;

  // A loop with nothing to do wakes this often, to beat.
  static constexpr absl::Duration kIdle = absl::Seconds(1);

 private:
  // A turn takes milliseconds.
  static constexpr absl::Duration kHangs = absl::Minutes(1);
  // Events that wait. An actor has at most an attachment, a detachment, and a message or unrolls for each of its groups.
  static constexpr size_t kQueueCapacity = size_t{1} << 20;

  struct Event {
    enum Kind { kAttach, kMessage, kUnrolls, kDetach } kind;
    v1::SlotLease lease;
    std::shared_ptr<Sink> sink;  // kAttach
    Message message;             // kMessage
    uint32_t group = 0;          // kUnrolls
    Unrolls unrolls;             // kUnrolls
  };

  void Handle(Event& event) {
    const uint32_t slot = event.lease.slot();
    const auto it = actors_.find(slot);
    if (event.kind == Event::kAttach) {
      if (it != actors_.end()) Forget(slot);
      actors_[slot] = MakeActor(event.lease, std::move(event.sink));
      return;
    }
    if (it == actors_.end() || it->second->lease.token() != event.lease.token()) {
      books_.unrolls->Release(std::move(event.unrolls));
      return;
    }
    Actor& actor = *it->second;
    switch (event.kind) {
      case Event::kMessage:
        if (const absl::Status status = OnMessage(actor, event.message); !status.ok()) {
          actor.sink->Refuse(status);
          Forget(slot);
        }
        break;
      case Event::kUnrolls:
        --actor.requests;
        --requests_;
        OnUnrolls(actor, event.group, std::move(event.unrolls));
        break;
      default:
        Forget(slot);
    }
  }

  void Forget(uint32_t slot) {
    const auto it = actors_.find(slot);
    Actor& actor = *it->second;
    books_.unrolls->Withdraw(actor.lease.token());
    requests_ -= actor.requests;
    OnForget(actor);
    actors_.erase(it);
  }

  const char* const name_;
  Heartbeats* const heartbeats_;
  BatchingQueue<Event> queue_;
  absl::flat_hash_map<uint32_t, std::unique_ptr<Actor>> actors_;  // by slot
  int requests_ = 0;
  prometheus::Counter& busy_seconds_;
  prometheus::Counter& starved_seconds_;
};

}  // namespace sibyl::learner
