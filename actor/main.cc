// sibyl-actor: plays environments for a learner. It needs nothing but the learner's address.

#include "actor/actor_main.h"
#include "actor/session.h"

int main(int argc, char** argv) {
  return sibyl::actor::ActorMain(argc, argv, "Plays environments for a learner: sibyl-actor --learner=host:port",
                                 sibyl::actor::PlayFor);
}
