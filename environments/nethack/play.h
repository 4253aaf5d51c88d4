#pragma once

#include "environments/nethack/game.h"

namespace sibyl::nethack {

// Ways of playing an action: which keys are pressed besides its own, until the agent has something to decide again.

// As NLE's tasks do it: --More-- and menus are clicked away, questions declined but for kAgentsQuestions.
void PlayAsNle(Game& game, Key key);

// As NLE's Challenge does it: only the key, until the game is over.
void PlayRaw(Game& game, Key key);

// As ONI's tasks do it. Like PlayAsNle, and
//   - the agent is asked what to drink too;
//   - where the game asks what to eat or drink and offers letters, 'y' stands for the first of them, any other key for
//     declining;
//   - after the key that casts, 'a' is pressed: the first spell;
//   - after "You feel more confident in ...", #enhance and 'a' are pressed: the first skill is advanced;
//   - a message that says that, or that the hero descends the stairs, is what the agent sees, even if other messages
//   came
//     after it within the same action.
void PlayAsOni(Game& game, Key key);

}  // namespace sibyl::nethack
