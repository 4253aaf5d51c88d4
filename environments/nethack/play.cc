#include "environments/nethack/play.h"

#include <cstring>
#include <optional>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace sibyl::nethack {
namespace {

constexpr Key kYes = 'y', kDecline = ' ', kCast = 'Z', kEnhance = 0x80 | 'e', kFirst = 'a';
constexpr const char* kOniQuestions[] = {"eat", "attack", "direction?", "pray", "drink"};
constexpr const char* kItemQuestions[] = {"What do you want to eat? [", "What do you want to drink? ["};
constexpr char kMoreConfident[] = "You feel more confident in";
constexpr const char* kKeptMessages[] = {"You descend the stairs.", kMoreConfident};

bool IsKept(absl::string_view message) {
  for (const char* words : kKeptMessages) {
    if (absl::StrContains(message, words)) return true;
  }
  return false;
}

// The key to press where the game asks for an item; nullopt: it does not.
std::optional<Key> ItemKey(absl::string_view message, Key key) {
  for (const char* question : kItemQuestions) {
    const size_t at = message.find(question);
    if (at == absl::string_view::npos) continue;
    const char first =
        message.substr(at + std::strlen(question), 1).empty() ? ' ' : message[at + std::strlen(question)];
    return key == kYes && absl::ascii_isalpha(first) ? static_cast<Key>(first) : kDecline;
  }
  return std::nullopt;
}

}  // namespace

void PlayAsNle(Game& game, Key key) {
  Press(game, key);
  PressKnownKeys(game, kAgentsQuestions);
}

void PlayRaw(Game& game, Key key) {
  Press(game, key);
  const bool is_over = game.observation.program_state[0] == 1;
  if (is_over) PressKnownKeys(game, {""});
}

void PlayAsOni(Game& game, Key key) {
  const std::optional<Key> item = ItemKey(Message(game), key);
  std::string kept;
  const auto keep = [&] {
    if (IsKept(Message(game))) kept = std::string(Message(game));
  };
  const auto go_on = [&] { PressKnownKeys(game, kOniQuestions, keep); };

  Press(game, item.value_or(key));
  if (key == kCast && !item.has_value() && game.observation.done == 0) Press(game, kFirst);
  go_on();
  if (absl::StrContains(Message(game), kMoreConfident) || absl::StrContains(kept, kMoreConfident)) {
    keep();
    for (const Key more : {kEnhance, kFirst}) {
      if (game.observation.done == 0) Press(game, more);
    }
    go_on();
  }
  if (kept.empty() || game.observation.done != 0) return;
  char* message = reinterpret_cast<char*>(game.observation.message);
  std::memset(message, 0, kMessageBytes);
  std::memcpy(message, kept.data(), kept.size());
}

}  // namespace sibyl::nethack
