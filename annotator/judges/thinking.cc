#include "annotator/judges/thinking.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace sibyl::annotator {
namespace {

constexpr size_t kNowhere = absl::string_view::npos;

// How thinking begins and ends, in lower case.
struct Marks {
  absl::string_view open, close;
};
constexpr Marks kMarks[] = {
    {"<think>", "</think>"},                                  // DeepSeek, Qwen, GLM, Nemotron
    {"[think]", "[/think]"},                                  // Mistral
    {"<thinking>", "</thinking>"},                            // prompts in Anthropic's style
    {"<thought>", "</thought>"},                              // EXAONE, Gemini
    {"<reasoning>", "</reasoning>"},                          // distilled models
    {"<reason>", "</reason>"},                                //
    {"<reflection>", "</reflection>"},                        //
    {"<scratchpad>", "</scratchpad>"},                        //
    {"<seed:think>", "</seed:think>"},                        // Seed
    {"\u25c1think\u25b7", "\u25c1/think\u25b7"},              // Kimi
    {"<|begin_of_thought|>", "<|end_of_thought|>"},           // Sky-T1
    {"<|start_thinking|>", "<|end_thinking|>"},               // Command
    {"<|thinking_start|>", "<|thinking_end|>"},               //
    {"<unused94>", "<unused95>"},                             // MedGemma
    {"here is my thought process:", "here is my response:"},  // Granite
};

// OpenAI's harmony format: the answer is what the channel "final" says. Some servers drop the marks and leave the
// channels' names ("analysis...assistantfinal...").
std::optional<absl::string_view> HarmonyAnswer(absl::string_view text, absl::string_view lower) {
  constexpr absl::string_view kFinal = "<|channel|>final", kMessage = "<|message|>", kBare = "assistantfinal";
  if (absl::StrContains(lower, "<|channel|>")) {
    const size_t channel = lower.rfind(kFinal);
    const size_t message = channel == kNowhere ? kNowhere : lower.find(kMessage, channel);
    if (message == kNowhere) return std::nullopt;
    text.remove_prefix(message + kMessage.size());
    return text.substr(0, text.find("<|"));  // <|return|>, <|end|>
  }
  if (const size_t at = lower.rfind(kBare); absl::StartsWith(lower, "analysis") && at != kNowhere) {
    return text.substr(at + kBare.size());
  }
  return text;
}

}  // namespace

std::optional<absl::string_view> WithoutThinking(absl::string_view text) {
  const std::string lowered = absl::AsciiStrToLower(text);
  const absl::string_view lower = lowered;
  size_t begin = 0;
  for (const Marks& marks : kMarks) {
    if (const size_t close = lower.rfind(marks.close); close != kNowhere) {
      begin = std::max(begin, close + marks.close.size());
    }
  }
  for (const Marks& marks : kMarks) {
    if (lower.find(marks.open, begin) != kNowhere) return std::nullopt;
  }
  return HarmonyAnswer(text.substr(begin), lower.substr(begin));
}

}  // namespace sibyl::annotator
