// sibyl-actor-local: plays environments for a learner with the policy in this process. It needs nothing but the
// learner's address.
//
// Threads: main, which plays; "signals" (RunMain); "reader", which lives as long as a stream; gRPC's own. A stop
// cancels the stream, which ends the reader and then playing; main returns when the reader is joined.

#include "actor/actor_main.h"
#include "actor/local/session.h"
#include "policy/memory.h"

int main(int argc, char** argv) {
  sibyl::KeepMemory();
  return sibyl::actor::ActorMain(
      argc, argv,
      "Plays environments for a learner with the policy in this process: sibyl-actor-local --learner=host:port",
      sibyl::actor::PlayLocallyFor);
}
