// Rules, prompts, the chat API's bodies, identities, and the arithmetic of congestion.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "annotator/judges/chat_api.h"
#include "annotator/judges/congestion.h"
#include "annotator/judges/delayed_judge.h"
#include "annotator/judges/endpoint_options.h"
#include "annotator/judges/prompt.h"
#include "annotator/judges/query_key.h"
#include "annotator/judges/quota.h"
#include "annotator/judges/rules_judge.h"
#include "annotator/questions/choice.h"
#include "common/action_spec.h"
#include "common/runtime/clock.h"
#include "common/utf8.h"
#include "environments/registry.h"
#include "tests/annotator/queries.h"

namespace sibyl::annotator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::HasSubstr;
using ::testing::Not;

const std::vector<std::string> kLabels = {"unhelpful", "helpful"};

Verdict AnswerNow(Judge& judge, const v1::Query& query) {
  Verdict verdict;
  int calls = 0;
  judge.Answer(query, [&](Verdict v) {
    verdict = std::move(v);
    ++calls;
  });
  EXPECT_EQ(calls, 1);
  return verdict;
}

// The distribution that a judge gives.
std::vector<float> LabelsFrom(Judge& judge, const v1::Query& query) {
  return Distribution(AnswerNow(judge, query).answer);
}

// ---- rules

absl::Status LoadRules(const std::string& text) {
  TemporaryFolder folder;
  return RulesJudge::Load(folder.Write("my.rules", text), kLabels).status();
}

TEST(Rules, TheFirstPatternThatFitsDecides) {
  TemporaryFolder folder;
  const std::string path = folder.Write(
      "my.rules", "# comment\n\nunhelpful: rat$\nhelpful: ^You kill\n abstain : ^Hm\ndefault: unhelpful\n");
  auto judge = RulesJudge::Load(path, kLabels);
  ASSERT_TRUE(judge.ok()) << judge.status();
  EXPECT_THAT(LabelsFrom(**judge, Classify("You kill the newt!")), ElementsAre(0, 1));
  EXPECT_THAT(LabelsFrom(**judge, Classify("You kill the rat")), ElementsAre(1, 0));
  EXPECT_THAT(LabelsFrom(**judge, Classify("Nothing")), ElementsAre(1, 0));
  const Verdict abstained = AnswerNow(**judge, Classify("Hm?"));
  EXPECT_EQ(abstained.outcome, v1::OUTCOME_ABSTAINED);
  EXPECT_EQ(abstained.answer.form_case(), v1::Answer::FORM_NOT_SET);
  EXPECT_EQ(AnswerNow(**judge, Classify("You kill it")).raw, "my.rules:4: helpful: ^You kill");
}

TEST(Rules, ALabelMayHaveAProbability) {
  TemporaryFolder folder;
  const std::string path =
      folder.Write("my.rules", "helpful 0.25: door\nhelpful: key\nunhelpful 1: wall\ndefault: unhelpful\n");
  auto judge = *RulesJudge::Load(path, kLabels);
  EXPECT_THAT(LabelsFrom(*judge, Classify("a door")), ElementsAre(0.75, 0.25));
  EXPECT_THAT(LabelsFrom(*judge, Classify("a key")), ElementsAre(0, 1));
  EXPECT_THAT(LabelsFrom(*judge, Compare("a door", "a key")), ElementsAre(0, 1, 0));
  EXPECT_THAT(LabelsFrom(*judge, Compare("a door", "a wall")), ElementsAre(1, 0, 0));
  EXPECT_THAT(LabelsFrom(*judge, Compare("a door", "the door")), ElementsAre(0, 0, 1));
}

TEST(Rules, TheNameChangesWithTheFilesBytes) {
  TemporaryFolder folder;
  const std::string one = (*RulesJudge::Load(folder.Write("a.rules", "default: helpful\n"), kLabels))->name();
  const std::string other = (*RulesJudge::Load(folder.Write("a.rules", "default: abstain\n"), kLabels))->name();
  EXPECT_THAT(one, ::testing::MatchesRegex("rules:a\\.rules@[0-9a-f]{8}"));
  EXPECT_NE(one, other);
}

TEST(Rules, ErrorsNameFileLineTextAndRemedy) {
  EXPECT_THAT(LoadRules("helpful: a\nnonsense\n").message(),
              AllOf(HasSubstr("my.rules:2: `nonsense` is not a rule"), HasSubstr("label: pattern")));
  EXPECT_THAT(LoadRules("useful: a\ndefault: helpful\n").message(),
              AllOf(HasSubstr("my.rules:1: `useful: a` gives `useful`"), HasSubstr("[unhelpful, helpful]")));
  EXPECT_THAT(LoadRules("helpful: (a\ndefault: helpful\n").message(),
              AllOf(HasSubstr("my.rules:1: `helpful: (a` has a pattern that cannot be used"), HasSubstr("grep -E")));
  EXPECT_THAT(LoadRules("helpful 1.5: a\ndefault: helpful\n").message(),
              AllOf(HasSubstr("my.rules:1: `helpful 1.5: a` has `1.5` behind its label"), HasSubstr("from 0 to 1")));
  EXPECT_THAT(LoadRules("helpful:\ndefault: helpful\n").message(),
              HasSubstr("my.rules:1: `helpful:` has nothing behind its colon"));
  EXPECT_THAT(
      LoadRules("default: helpful\nhelpful: a\n").message(),
      AllOf(HasSubstr("my.rules:2: `helpful: a` stands behind the default of line 1"), HasSubstr("move it above")));
  EXPECT_THAT(LoadRules("helpful: a\n").message(),
              AllOf(HasSubstr("without a default"), HasSubstr("default: unhelpful")));
  EXPECT_THAT(LoadRules("default: best\n").message(), HasSubstr("my.rules:1: `default: best` gives `best`"));
  const absl::Status absent = RulesJudge::Load("/nowhere/x.rules", kLabels).status();
  EXPECT_EQ(absent.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(absent.message(), HasSubstr("/nowhere/x.rules"));
  EXPECT_THAT(RulesJudge::Load("/tmp", kLabels).status().message(), HasSubstr("/tmp"));
}

TEST(Rules, RefuseQueriesTheyCannotAnswer) {
  TemporaryFolder folder;
  auto judge = *RulesJudge::Load(folder.Write("a.rules", "default: helpful\n"), kLabels);
  v1::Query query = Classify("a");
  query.mutable_grammar()->mutable_choice()->set_labels(1, "good");
  EXPECT_THAT(judge->Check(query).message(), AllOf(HasSubstr("[unhelpful, good]"), HasSubstr("[unhelpful, helpful]")));
  EXPECT_TRUE(judge->Check(Classify("a")).ok());
}

TEST(Rules, PreferTheCaptionWithTheBetterLabel) {
  TemporaryFolder folder;
  const std::string path = folder.Write("my.rules", "helpful: good\nabstain: odd\ndefault: unhelpful\n");
  auto judge = *RulesJudge::Load(path, kLabels);
  ASSERT_TRUE(judge->Check(Compare("a", "b")).ok());
  EXPECT_THAT(LabelsFrom(*judge, Compare("good", "bad")), ElementsAre(1, 0, 0));
  EXPECT_THAT(LabelsFrom(*judge, Compare("bad", "good")), ElementsAre(0, 1, 0));
  EXPECT_THAT(LabelsFrom(*judge, Compare("bad", "worse")), ElementsAre(0, 0, 1));
  EXPECT_EQ(AnswerNow(*judge, Compare("bad", "odd")).outcome, v1::OUTCOME_ABSTAINED);
  EXPECT_EQ(AnswerNow(*judge, Compare("good", "bad")).raw, "my.rules:1: helpful: good\nmy.rules:3: default: unhelpful");
}

TEST(Rules, ASectionAnswersItsKindWordForWord) {
  TemporaryFolder folder;
  const std::string path = folder.Write("my.rules",
                                        "helpful: key\ndefault: unhelpful\n[compose]\n"
                                        "locked => {\"subgoal\": \"find the key\"}\ndefault => abstain\n"
                                        "[compare]\nb$ => Label: second\ndefault => nothing to say\n");
  auto judge = *RulesJudge::Load(path, kLabels);
  EXPECT_THAT(LabelsFrom(*judge, Classify("a key")), ElementsAre(0, 1)) << "the file's head";
  const v1::Grammar json = JsonGrammar(R"({"type": "object", "required": ["subgoal"]})");
  const Verdict verdict = AnswerNow(*judge, Compose("The door is locked.", json));
  EXPECT_EQ(verdict.outcome, v1::OUTCOME_ANSWERED);
  EXPECT_EQ(verdict.answer.json(), R"({"subgoal":"find the key"})");
  EXPECT_EQ(verdict.raw, "my.rules:4: locked => {\"subgoal\": \"find the key\"}");
  EXPECT_EQ(AnswerNow(*judge, Compose("A wall.", json)).outcome, v1::OUTCOME_ABSTAINED);
  EXPECT_EQ(AnswerNow(*judge, Compose("locked", JsonGrammar(R"({"type":"array"})"))).outcome, v1::OUTCOME_UNPARSABLE);
  EXPECT_THAT(LabelsFrom(*judge, Compare("a", "b")), ElementsAre(0, 1, 0));
  EXPECT_EQ(AnswerNow(*judge, Compare("b", "c")).outcome, v1::OUTCOME_UNPARSABLE);
}

TEST(Rules, AKindWithoutAnswersIsRefusedWithTheRemedy) {
  TemporaryFolder folder;
  auto judge = *RulesJudge::Load(folder.Write("my.rules", "default: helpful\n"), kLabels);
  EXPECT_THAT(judge->Check(Compose("a", TextGrammar())).message(),
              AllOf(HasSubstr("kind is `compose`"), HasSubstr("my.rules"), HasSubstr("[compose]")));
  judge = *RulesJudge::Load(folder.Write("only.rules", "[compose]\ndefault => Go on.\n"), kLabels);
  EXPECT_EQ(AnswerNow(*judge, Compose("a", TextGrammar())).answer.text(), "Go on.");
  EXPECT_THAT(judge->Check(Classify("a")).message(), HasSubstr("[classify]"));
  EXPECT_THAT(LoadRules("[compose]\nx => y\n").message(), HasSubstr("section [compose] ends without a default"));
  EXPECT_THAT(LoadRules("[compose]\nx: y\n").message(), HasSubstr("my.rules:2: `x: y` is not a rule"));
  EXPECT_THAT(LoadRules("[compose]\n(a => y\n").message(), HasSubstr("pattern that cannot be used"));
}

TEST(Rules, NoiseTurnsAShareOfTheLabelsAlwaysTheSame) {
  TemporaryFolder folder;
  const std::string path = folder.Write("my.rules", "default: unhelpful\n");
  auto sound = *RulesJudge::Load(path, kLabels), noisy = *RulesJudge::Load(path, kLabels, 0.3),
       opposite = *RulesJudge::Load(path, kLabels, 1);
  int wrong = 0;
  for (int i = 0; i < 1000; ++i) {
    const v1::Query query = Classify(absl::StrCat("caption ", i));
    EXPECT_THAT(LabelsFrom(*sound, query), ElementsAre(1, 0));
    EXPECT_THAT(LabelsFrom(*opposite, query), ElementsAre(0, 1));
    const auto answer = LabelsFrom(*noisy, query);
    EXPECT_EQ(LabelsFrom(*noisy, query), answer);
    wrong += answer[1] == 1;
  }
  EXPECT_NEAR(wrong, 300, 60);
  EXPECT_NE(JudgeIdentity(*sound), JudgeIdentity(*noisy)) << "their answers are not each other's";
}

TEST(Delay, AnswersComeLateAndInOrder) {
  TemporaryFolder folder;
  auto rules = *RulesJudge::Load(folder.Write("my.rules", "default: unhelpful\n"), kLabels);
  TestHost host(Clock::Real());
  DelayedJudge judge(std::move(rules), absl::Milliseconds(20), host);
  EXPECT_EQ(judge.capacity(), 8);
  const absl::Time start = absl::Now();
  Mutex mutex;
  CondVar changed;
  std::vector<int> answered;
  for (int i = 0; i < 3; ++i) {
    judge.Answer(Classify("a"), [&, i](Verdict) {
      MutexLock lock(mutex);
      answered.push_back(i);
      changed.NotifyAll();
    });
  }
  MutexLock lock(mutex);
  while (answered.size() < 3) changed.Wait(mutex);
  EXPECT_THAT(answered, ElementsAre(0, 1, 2));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(20));
}

TEST(Delay, WhatIsNotAnsweredYetIsDroppedAtTheEnd) {
  TemporaryFolder folder;
  auto rules = *RulesJudge::Load(folder.Write("my.rules", "default: unhelpful\n"), kLabels);
  int answers = 0;
  TestHost host(Clock::Real());
  {
    DelayedJudge judge(std::move(rules), absl::Hours(1), host);
    judge.Answer(Classify("a"), [&](Verdict) { ++answers; });
  }
  EXPECT_EQ(answers, 0);
}

std::unique_ptr<RulesJudge> ShippedRules(const std::string& name) {
  auto judge = RulesJudge::Load(absl::StrCat(SIBYL_SOURCE_DIR, "/configs/rules/", name), kLabels);
  EXPECT_TRUE(judge.ok()) << judge.status();
  return *std::move(judge);
}
bool Helpful(Judge& judge, const std::string& caption) {
  return LabelsFrom(judge, Classify(caption)) == std::vector<float>{0, 1};
}

TEST(MiniGridRules, PayKeysDoorsAndBoxesThatHoldSomething) {
  auto judge = ShippedRules("minigrid.rules");
  for (const char* caption : {"You pick up the yellow key.", "You unlock the red door.", "You open the grey door.",
                              "You open the blue box and find a yellow key."}) {
    EXPECT_TRUE(Helpful(*judge, caption)) << caption;
  }
}

TEST(MiniGridRules, NeverPayTheGoalNorWhatCanBeRepeatedForNothing) {
  auto judge = ShippedRules("minigrid.rules");
  std::vector<std::string> captions = {"You reach the goal.", "You step into the lava."};
  for (const char* colour : {"red", "green", "blue", "purple", "yellow", "grey"}) {
    for (const char* thing : {"ball", "box"})
      captions.push_back(absl::StrCat("You pick up the ", colour, " ", thing, "."));
    for (const char* thing : {"ball", "box", "key"})
      captions.push_back(absl::StrCat("You drop the ", colour, " ", thing, "."));
    captions.push_back(absl::StrCat("You close the ", colour, " door."));
    captions.push_back(absl::StrCat("You open the ", colour, " box and find nothing."));
  }
  for (const std::string& caption : captions) EXPECT_FALSE(Helpful(*judge, caption)) << caption;
}

// Plays every level at random, and feeds the rules with the captions that the environment really gives.
TEST(MiniGridRules, FitTheCaptionsOfTheEnvironments) {
  auto judge = ShippedRules("minigrid.rules");
  std::set<std::string> helpful, other;
  int goals = 0;
  for (const std::string& name : EnvironmentNames()) {
    if (!absl::StartsWith(name, "minigrid/") || name == "minigrid/Unlock") continue;
    auto environment = MakeEnvironment(name);
    ASSERT_TRUE(environment.ok()) << environment.status();
    const std::vector<void*> nothing((*environment)->spec().observation_size(), nullptr);
    uint64_t random = 1;
    for (uint64_t seed = 0; seed < 8; ++seed) {
      ASSERT_TRUE((*environment)->Reset(seed, nothing).ok());
      for (int step = 0; step < 3000; ++step) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        const auto result =
            (*environment)
                ->Step(static_cast<int>((random >> 33) % Choices((*environment)->spec().action()).size()), nothing);
        ASSERT_TRUE(result.ok());
        const std::string caption((*environment)->Caption());
        if (!caption.empty()) {
          const bool paid = Helpful(*judge, caption);
          (paid ? helpful : other).insert(caption);
          if ((*environment)->Success()) {
            ++goals;
            EXPECT_FALSE(paid) << name << ": " << caption;
          }
        }
        if (result->terminated || result->truncated) break;
      }
    }
  }
  EXPECT_GT(goals, 0);
  const auto seen = [](const std::set<std::string>& captions, const std::string& part, const std::string& end) {
    return std::any_of(captions.begin(), captions.end(), [&](const std::string& caption) {
      return absl::StartsWith(caption, part) && absl::EndsWith(caption, end);
    });
  };
  EXPECT_TRUE(seen(helpful, "You pick up the", "key."));
  EXPECT_TRUE(seen(helpful, "You open the", "door."));
  EXPECT_TRUE(seen(helpful, "You unlock the", "door."));
  EXPECT_TRUE(seen(other, "You close the", "door."));
  EXPECT_TRUE(seen(other, "You reach the goal", "."));
}

TEST(NetHackRules, PayProgressAndNotHarm) {
  auto judge = ShippedRules("nethack.rules");
  for (const char* caption : {"You kill the newt!", "$ - 12 gold pieces.", "Welcome to experience level 2.",
                              "There is a staircase down here.", "f - a scroll labeled FOOBIE.", "The door opens.",
                              "You feel strong!", "You find a hidden passage."}) {
    EXPECT_TRUE(Helpful(*judge, caption)) << caption;
  }
  for (const char* caption : {"You die...", "The newt bites!", "You see no objects here.", "It's solid stone.",
                              "WHAMM!!", "You miss the jackal.", "You stop. Your kitten is in the way."}) {
    EXPECT_FALSE(Helpful(*judge, caption)) << caption;
  }
}

// ---- prompts

TEST(PromptFile, FillsInWhatTheQueryHolds) {
  auto prompt = Prompt::Parse(
      "/x/p.txt",
      "a comment\n[system]\nJudge {labels}.\n[user]\nGoal: {goal} {{\"x\"}}\nSeen: {context}\nText: {caption}\n");
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  v1::Query query = Classify("{goal} is here", "win");
  auto messages = prompt->Render(query).messages;
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[0].role, "system");
  EXPECT_EQ(messages[0].content, "Judge unhelpful, helpful.");
  EXPECT_EQ(messages[1].content, "Goal: win {\"x\"}\nText: {goal} is here");
  query = WithContext(query, "a door");
  EXPECT_EQ(prompt->Render(query).messages[1].content, "Goal: win {\"x\"}\nSeen: a door\nText: {goal} is here");
  EXPECT_THAT(prompt->name(), ::testing::MatchesRegex("p\\.txt@[0-9a-f]{8}"));
}

TEST(PromptFile, ErrorsNameFileAndLine) {
  const auto error = [](const std::string& text) {
    return std::string(Prompt::Parse("p.txt", text).status().message());
  };
  EXPECT_THAT(error("[user]\nx\n{capton}\n"),
              AllOf(HasSubstr("p.txt:3: `{capton}` is no placeholder"), HasSubstr("{caption}")));
  EXPECT_THAT(error("[user]\nx {goal}\n"),
              AllOf(HasSubstr("[goal] fit no kind"), HasSubstr("classify needs {caption}")));
  EXPECT_THAT(error("x\n"), HasSubstr("[user]"));
  EXPECT_THAT(error("[user]\n{first}\n"), HasSubstr("compare needs {first} and {second}"));
  EXPECT_THAT(error("[user]\n{first}{second}\n{caption}"),
              HasSubstr("p.txt:3: the file ends, and its placeholders [caption, first, second]"));
  EXPECT_THAT(error("[user]\n{caption\n"), HasSubstr("p.txt:2: `{caption` is no placeholder"));
  EXPECT_THAT(error("[user]\n} {caption}\n"), HasSubstr("p.txt:2: a `}` without its `{`"));
}

// ---- the chat API

v1::OpenAiConfig ApiConfig() {
  v1::OpenAiConfig config;
  config.set_model("m");
  config.set_temperature(0.1);
  config.set_seed(7);
  config.set_max_tokens(99);
  return config;
}

TEST(ChatApi, RequestsSayAllThatAnAnswerDependsOn) {
  const AnswerForm form = ChoiceForm(kLabels);
  const auto json = nlohmann::json::parse(
      CompletionRequest(ApiConfig(), Dialect{}, {{{{"system", "s"}, {"user", "u"}}, ""}, form, 99}));
  EXPECT_EQ(json["model"], "m");
  EXPECT_EQ(json["seed"], 7);
  EXPECT_EQ(json["max_tokens"], 99);
  EXPECT_EQ(json["messages"][1]["content"], "u");
  EXPECT_EQ(json["logprobs"], true);
  const auto& schema = json["response_format"]["json_schema"]["schema"];
  EXPECT_EQ(schema["properties"]["label"]["enum"], nlohmann::json({"unhelpful", "helpful", "abstain"}));
  EXPECT_EQ(json["response_format"]["type"], "json_schema");
  const auto choice = nlohmann::json::parse(CompletionRequest(
      ApiConfig(), Dialect{Constraint::kStructuredOutputs, false, true}, {{{{"user", "u"}}, ""}, form, 99}));
  EXPECT_EQ(choice["structured_outputs"]["choice"].size(), 3u);
  EXPECT_EQ(choice["max_completion_tokens"], 99);
  EXPECT_FALSE(choice.contains("logprobs"));
  EXPECT_FALSE(choice.contains("response_format"));
  const auto probe = nlohmann::json::parse(ProbeRequest(ApiConfig(), Dialect{}, /*text=*/false));
  EXPECT_TRUE(probe["messages"].is_array());
  EXPECT_EQ(probe["messages"][0]["role"], "user");
}

TEST(ChatApi, AProbeBindsOnlyWhenTheAnswerObeys) {
  EXPECT_TRUE(ProbeBinds({Constraint::kJsonSchema, true, false}, " {\"label\": \"birch\"} "));
  EXPECT_FALSE(ProbeBinds({Constraint::kJsonSchema, true, false}, "4"));
  EXPECT_FALSE(ProbeBinds({Constraint::kJsonSchema, true, false}, "{\"label\": \"4\"}"));
  EXPECT_TRUE(ProbeBinds({Constraint::kStructuredOutputs, true, false}, "maple"));
  EXPECT_FALSE(ProbeBinds({Constraint::kStructuredOutputs, true, false}, "4 maple"));
  EXPECT_TRUE(ProbeBinds({Constraint::kNone, false, false}, "4"));
}

// A completion with tokens: text, probability, alternatives.
using Alternatives = std::vector<std::pair<std::string, double>>;
std::string CompletionBody(const std::vector<std::pair<std::string, Alternatives>>& tokens) {
  nlohmann::json content = nlohmann::json::array();
  std::string text;
  for (const auto& [token, top] : tokens) {
    nlohmann::json entry = {{"token", token}, {"logprob", 0.0}, {"top_logprobs", nlohmann::json::array()}};
    for (const auto& [other, p] : top) {
      if (other == token) entry["logprob"] = std::log(p);
      entry["top_logprobs"].push_back({{"token", other}, {"logprob", std::log(p)}});
    }
    content.push_back(entry);
    text += token;
  }
  nlohmann::json choice;
  choice["message"] = {{"role", "assistant"}, {"content", text}};
  choice["finish_reason"] = "stop";
  choice["logprobs"] = {{"content", content}};
  nlohmann::json body;
  body["choices"] = nlohmann::json::array();
  body["choices"].push_back(choice);
  body["usage"] = {{"prompt_tokens", 11}, {"completion_tokens", 5}};
  return body.dump();
}

// What a chat judge makes of a body.
struct Read {
  v1::Outcome outcome;
  std::vector<float> distribution;
  float outside;
};
Read ReadBody(const std::string& body, const std::vector<std::string>& labels = kLabels) {
  const Reading reading = ReadChoice(labels, ReadCompletion(body, 256).reply);
  return {reading.outcome, Distribution(reading.answer), reading.answer.choice().outside()};
}

TEST(ChatApi, SoftLabelsComeFromTheTokenThatChooses) {
  const std::string body = CompletionBody(
      {{"Good.\n", {}}, {"Label", {}}, {":", {}}, {" helpful", {{" helpful", 0.6}, {" un", 0.2}, {" maybe", 0.1}}}});
  const Read read = ReadBody(body);
  EXPECT_EQ(read.outcome, v1::OUTCOME_ANSWERED);
  EXPECT_THAT(read.distribution, ElementsAre(FloatNear(0.25, 1e-5), FloatNear(0.75, 1e-5)));
  EXPECT_NEAR(read.outside, 0.2, 1e-5);
  EXPECT_EQ(ReadCompletion(body, 256).prompt_tokens, 11u);
  EXPECT_EQ(ReadCompletion(body, 256).completion_tokens, 5u);
}

TEST(ChatApi, LabelsThatBeginAlikeAreToldApartFurtherOn) {
  const Read read = ReadBody(CompletionBody({{"{\"label\": \"", {}},
                                             {"un", {{"un", 0.8}, {"help", 0.2}}},
                                             {"related", {{"related", 0.75}, {"helpful", 0.25}}},
                                             {"\"}", {}}}),
                             {"helpful", "unhelpful", "unrelated"});
  EXPECT_THAT(read.distribution, ElementsAre(FloatNear(0.2, 1e-5), FloatNear(0.2, 1e-5), FloatNear(0.6, 1e-5)));
  EXPECT_NEAR(read.outside, 0, 1e-5);
}

TEST(ChatApi, WithoutLogprobsTheLabelIsHard) {
  const Read read = ReadBody(R"({"choices":[{"message":{"content":"Label: helpful"},"finish_reason":"stop"}]})");
  EXPECT_THAT(read.distribution, ElementsAre(0, 1));
  EXPECT_EQ(read.outside, 0);
}

// llama.cpp strips the fence from the content and leaves it in the tokens.
TEST(ChatApi, AFenceOrThinkingThatOnlyTheTokensShowCostsNoProbabilities) {
  const std::vector<std::pair<std::string, Alternatives>> label = {
      {"{\"label\":\"", {}}, {"helpful", {{"helpful", 0.75}, {"unhelpful", 0.25}}}, {"\"}", {}}};
  auto fenced = label;
  fenced.insert(fenced.begin(), {"```json\n", {}});
  fenced.push_back({"\n```", {}});
  auto body = nlohmann::json::parse(CompletionBody(fenced));
  body["choices"][0]["message"]["content"] = "{\"label\":\"helpful\"}";
  EXPECT_THAT(ReadBody(body.dump()).distribution, ElementsAre(FloatNear(0.25, 1e-5), FloatNear(0.75, 1e-5)));

  auto thought = label;
  thought.insert(thought.begin(), {"Maybe \"label\": \"unhelpful\".</think>", {}});
  body = nlohmann::json::parse(CompletionBody(thought));
  body["choices"][0]["message"]["content"] = "{\"label\":\"helpful\"}";
  EXPECT_THAT(ReadBody(body.dump()).distribution, ElementsAre(0, 1)) << "tokens that spell something else";
  body["choices"][0]["message"]["reasoning_content"] = "Maybe \"label\": \"unhelpful\".";
  EXPECT_THAT(ReadBody(body.dump()).distribution, ElementsAre(FloatNear(0.25, 1e-5), FloatNear(0.75, 1e-5)));
  EXPECT_THAT(ReadBody(CompletionBody(thought)).distribution, ElementsAre(FloatNear(0.25, 1e-5), FloatNear(0.75, 1e-5)))
      << "thinking inside the content";
}

std::string Ended(const std::string& content, const std::string& reason) {
  nlohmann::json choice = {{"message", {{"role", "assistant"}, {"content", content}}}, {"finish_reason", reason}};
  nlohmann::json body = {{"choices", nlohmann::json::array()}, {"usage", {{"completion_tokens", 256}}}};
  if (reason.empty()) choice.erase("finish_reason");
  body["choices"].push_back(choice);
  return body.dump();
}

TEST(ChatApi, AnAnswerThatWasCutOffNeverYieldsALabel) {
  for (const char* content :
       {"Okay, the caption says a door opens. My first guess is Label: unhelpful. But wait, the goal is behind it, "
        "since it",
        "[THINK]The label: unhelpful would be my first idea, but the key opens",
        "<thinking>The door matters. First guess: Label: unhelpful. But then the key",
        "<reasoning>One could say Label: unhelpful. But the", "Label: helpful",
        "<|channel|>analysis<|message|>The key opens doors. One might say Label: unhelpful. But wait,",
        R"({"knowledge": "Keys open doors.", "analysis": "At first glance the label: unhelpful)"}) {
    EXPECT_EQ(ReadBody(Ended(content, "length")).outcome, v1::OUTCOME_UNPARSABLE) << content;
    EXPECT_EQ(ReadBody(Ended(content, "")).outcome, v1::OUTCOME_UNPARSABLE)
        << "as many tokens as were allowed, and no reason: " << content;
  }
}

TEST(ChatApi, ThinkingThatDoesNotEndYieldsNoLabelWhateverTheServerCallsItsEnd) {
  for (const char* content :
       {"[THINK]The label: unhelpful", "<thinking>Label: unhelpful", "<reasoning>Label: unhelpful",
        "<think>Label: unhelpful", "<|channel|>analysis<|message|>Label: unhelpful",
        "<|channel|>analysis<|message|>Label: unhelpful<|end|><|start|>assistant", "\u25c1think\u25b7Label: unhelpful",
        "<seed:think>Label: unhelpful", R"({"knowledge": "k", "analysis": "the label: unhelpful)"}) {
    EXPECT_EQ(ReadBody(Ended(content, "stop")).outcome, v1::OUTCOME_UNPARSABLE) << content;
  }
}

TEST(ChatApi, TheAnswerStandsBehindTheThinking) {
  for (const char* content :
       {"<think>Label: unhelpful</think>Label: helpful", "Label: unhelpful, or not?</think>\n\nLabel: helpful",
        "[THINK]Label: unhelpful[/THINK]Label: helpful", "<Thinking>Label: unhelpful</Thinking>\nLabel: helpful",
        "<reasoning>Label: unhelpful</reasoning>helpful",
        "<|channel|>analysis<|message|>Label: unhelpful<|end|><|start|>assistant<|channel|>final<|message|>Label: "
        "helpful<|return|>",
        "analysisLabel: unhelpful?assistantfinalLabel: helpful",
        "Here is my thought process: Label: unhelpful. Here is my response: Label: helpful"}) {
    EXPECT_THAT(ReadBody(Ended(content, "stop")).distribution, ElementsAre(0, 1)) << content;
  }
}

TEST(ChatApi, NoLabelIsReadFromThinkingThatTheServerKeptApart) {
  const Completion completion = ReadCompletion(
      R"({"choices":[{"message":{"content":"","reasoning_content":"Label: unhelpful"},"finish_reason":"length"}]})",
      256);
  EXPECT_FALSE(completion.aborted) << "another try would end the same way";
  EXPECT_EQ(ReadChoice(kLabels, completion.reply).outcome, v1::OUTCOME_UNPARSABLE);
}

TEST(ChatApi, ARefusalsTextIsKept) {
  const Completion completion = ReadCompletion(
      R"({"choices":[{"message":{"content":null,"refusal":"I cannot help with that."},"finish_reason":"stop"}]})", 256);
  EXPECT_TRUE(completion.refused);
  EXPECT_EQ(completion.content, "I cannot help with that.");
}

TEST(ChatApi, WhatIsNoCompletionIsNotTakenForOne) {
  for (const char* body : {"", "garbage", "{}", "[]", "{\"choices\":[]}", "{\"choices\":[3]}",
                           "{\"choices\":[{\"message\":3}]}", "null"}) {
    EXPECT_FALSE(ReadCompletion(body, 256).valid) << body;
  }
  EXPECT_TRUE(ReadCompletion(R"({"choices":[{"message":{"content":null}}]})", 256).aborted);
  EXPECT_TRUE(
      ReadCompletion(R"({"choices":[{"message":{"content":"Label: he"},"finish_reason":"abort"}]})", 256).aborted);
  EXPECT_TRUE(
      ReadCompletion(R"({"choices":[{"message":{"content":""},"finish_reason":"content_filter"}]})", 256).refused);
}

// ---- congestion

TEST(ConcurrencyLimit, RisesByOneARoundAndHalvesOnceAnOverload) {
  FakeClock clock;
  ConcurrencyLimit limit(8);
  EXPECT_EQ(limit.limit(), 4);
  for (int i = 0; i < 100; ++i) limit.OnAnswer();
  EXPECT_EQ(limit.limit(), 8);
  const absl::Time sent = clock.Now();
  clock.Advance(absl::Seconds(1));
  for (int i = 0; i < 8; ++i) limit.OnOverload(sent, clock.Now());
  EXPECT_EQ(limit.limit(), 4) << "requests of one overload count once";
  for (int i = 0; i < 4; ++i) limit.OnAnswer();
  EXPECT_EQ(limit.limit(), 4);
  limit.OnAnswer();
  EXPECT_EQ(limit.limit(), 5) << "one more a round";
  for (int i = 0; i < 10; ++i) {
    clock.Advance(absl::Seconds(1));
    limit.OnOverload(clock.Now(), clock.Now());
  }
  EXPECT_EQ(limit.limit(), 1);
}

TEST(ConcurrencyLimit, IsBackWithinAFewAnswersAfterAnOutage) {
  ConcurrencyLimit limit(8);
  limit.OnReturn();
  EXPECT_EQ(limit.limit(), 1);
  for (int i = 0; i < 7; ++i) limit.OnAnswer();
  EXPECT_EQ(limit.limit(), 8);
}

TEST(CircuitBreaker, OpensAfterFailuresAndLetsOneProbeThrough) {
  FakeClock clock;
  CircuitBreaker breaker(3, absl::Seconds(1), absl::Seconds(60), 1);
  EXPECT_EQ(breaker.state(clock.Now()), CircuitBreaker::kHalfOpen) << "the server is not known yet";
  breaker.OnProbe(true, clock.Now());
  EXPECT_EQ(breaker.state(clock.Now()), CircuitBreaker::kClosed);
  EXPECT_FALSE(breaker.on_trial()) << "there was no outage";
  breaker.OnFailure(clock.Now());
  breaker.OnFailure(clock.Now());
  breaker.OnAnswer();
  breaker.OnFailure(clock.Now());
  breaker.OnFailure(clock.Now());
  EXPECT_EQ(breaker.state(clock.Now()), CircuitBreaker::kClosed) << "only failures in a row count";
  breaker.OnFailure(clock.Now());
  EXPECT_EQ(breaker.state(clock.Now()), CircuitBreaker::kHalfOpen) << "the first probe goes out at once";
  breaker.OnProbe(false, clock.Now());
  absl::Duration longest;
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(breaker.state(clock.Now()), CircuitBreaker::kOpen);
    const absl::Duration wait = breaker.probe_at() - clock.Now();
    EXPECT_LE(wait, absl::Seconds(60));
    longest = std::max(longest, wait);
    clock.Advance(wait - absl::Milliseconds(1));
    EXPECT_EQ(breaker.state(clock.Now()), CircuitBreaker::kOpen);
    clock.Advance(absl::Milliseconds(2));
    EXPECT_EQ(breaker.state(clock.Now()), CircuitBreaker::kHalfOpen);
    breaker.OnProbe(false, clock.Now());
  }
  EXPECT_GT(longest, absl::Seconds(10)) << "waits grow";
}

TEST(CircuitBreaker, OneFailedQueryOpensItAgainAfterAnOutage) {
  FakeClock clock;
  CircuitBreaker breaker(3, absl::Seconds(1), absl::Seconds(60), 1);
  breaker.OnProbe(true, clock.Now());
  for (int i = 0; i < 3; ++i) breaker.OnFailure(clock.Now());
  EXPECT_EQ(breaker.state(clock.Now()), CircuitBreaker::kHalfOpen);
  breaker.OnProbe(true, clock.Now());
  EXPECT_TRUE(breaker.on_trial());
  breaker.OnFailure(clock.Now());
  EXPECT_EQ(breaker.state(clock.Now()), CircuitBreaker::kOpen) << "from the second time on it waits";
}

// ---- quotas

TEST(RateLimit, NoMinuteTakesMoreThanTheLimit) {
  FakeClock clock;
  RateLimit limit(60);
  std::deque<absl::Time> taken;
  size_t most = 0;
  for (int i = 0; i < 6000; ++i) {
    if (limit.ready_at(1, clock.Now()) <= clock.Now()) {
      limit.Take(1, clock.Now());
      taken.push_back(clock.Now());
    }
    while (!taken.empty() && taken.front() <= clock.Now() - absl::Minutes(1)) taken.pop_front();
    most = std::max(most, taken.size());
    clock.Advance(absl::Milliseconds(50));
  }
  EXPECT_LE(most, 60u);
  EXPECT_GE(most, 55u);
}

TEST(RateLimit, SaysWhenMoreMayBeTakenAndTakesBackWhatWasNotUsed) {
  FakeClock clock;
  RateLimit limit(6000);  // tokens: 95 a second, 300 at once
  limit.Take(300, clock.Now());
  const absl::Time ready = limit.ready_at(95, clock.Now());
  EXPECT_NEAR(absl::ToDoubleSeconds(ready - clock.Now()), 1, 0.01);
  limit.Take(-95, clock.Now());
  EXPECT_LE(limit.ready_at(95, clock.Now()), clock.Now());
  limit.Take(10'000, clock.Now());
  clock.Advance(absl::Seconds(90));
  EXPECT_GT(limit.ready_at(1, clock.Now()), clock.Now()) << "what was too much is paid back";
}

TEST(DailyBudget, PausesUntilMidnight) {
  FakeClock clock(absl::FromUnixSeconds(86'400 * 10 + 3600));
  DailyBudget budget(1);
  budget.Spend(0.9, clock.Now());
  EXPECT_LE(budget.ready_at(0.1, clock.Now()), clock.Now());
  EXPECT_EQ(budget.ready_at(0.11, clock.Now()), absl::FromUnixSeconds(86'400 * 11));
  clock.Advance(absl::Hours(23));
  EXPECT_LE(budget.ready_at(0.5, clock.Now()), clock.Now());
  EXPECT_EQ(budget.spent(clock.Now()), 0);
}

TEST(Endpoints, AreReadFromTheConfigurationAndWhatIsWrongIsNamed) {
  v1::OpenAiConfig config;
  config.set_model("m");
  config.set_max_in_flight(8);
  config.set_api_key_env("KEY");
  config.set_url("http://user:secret@127.0.0.1:8000/v1/");
  config.add_endpoints("https://b.example/v1 weight=2 model=org/m key_env=B in_flight=3 money_per_day=5");
  config.add_prices("m 0.15 0.6");
  config.add_prices("org/m 1 2");
  const auto endpoints = EndpointsOf(config);
  ASSERT_TRUE(endpoints.ok()) << endpoints.status();
  ASSERT_EQ(endpoints->size(), 2u);
  const EndpointOptions& first = (*endpoints)[0];
  const EndpointOptions& second = (*endpoints)[1];
  EXPECT_EQ(first.url, "http://user:secret@127.0.0.1:8000/v1");
  EXPECT_EQ(first.name, "127.0.0.1:8000");
  EXPECT_EQ(first.model, "m");
  EXPECT_EQ(first.max_in_flight, 8);
  EXPECT_DOUBLE_EQ(first.price.Of(1'000'000, 500'000), 0.45);
  EXPECT_EQ(second.name, "b.example");
  EXPECT_EQ(second.model, "org/m");
  EXPECT_EQ(second.key_env, "B");
  EXPECT_EQ(second.weight, 2);
  EXPECT_EQ(second.max_in_flight, 3);
  EXPECT_EQ(second.quota.money_per_day, 5);
  const auto error = [&](const std::string& endpoint) {
    v1::OpenAiConfig bad = config;
    bad.set_endpoints(0, endpoint);
    return std::string(EndpointsOf(bad).status().message());
  };
  EXPECT_THAT(error("b.example/v1"), AllOf(HasSubstr("annotator.openai.endpoints"), HasSubstr("b.example/v1")));
  EXPECT_THAT(error("http://b/v1 speed=3"), AllOf(HasSubstr("speed=3"), HasSubstr("weight=N")));
  EXPECT_THAT(error("http://b/v1 weight=0"), HasSubstr("weight=0"));
  EXPECT_THAT(error("http://127.0.0.1:8000/v1"), HasSubstr("named already"));
  EXPECT_THAT(error("http://b/v1 model=x money_per_day=1"), AllOf(HasSubstr("prices"), HasSubstr("`x`")));
}

// ---- identity

// A judge of which only the identity matters.
class NamedJudge : public Judge {
 public:
  NamedJudge(const std::string& name, const std::string& sampling, const std::string& prompt)
      : name_(name), sampling_(sampling), prompt_(prompt) {}
  std::string name() const override { return name_; }
  std::string prompt() const override { return "p.txt@1"; }
  std::string sampling() const override { return sampling_; }
  std::string Rendered(const v1::Query& query) const override { return prompt_ + CaptionOf(query); }
  absl::Status Check(const v1::Query&) const override { return absl::OkStatus(); }
  int capacity() const override { return 1; }
  void Answer(const v1::Query&, std::function<void(Verdict)>) override {}

 private:
  const std::string name_, sampling_, prompt_;
};

TEST(QueryIdentity, IsTheQuestionAndTheJudgeAndNothingElse) {
  const NamedJudge judge("j", "s", "p");
  const std::string key = QueryKey(Classify("a"), judge);
  EXPECT_EQ(key.size(), 32u);
  v1::Query same = Classify("a");
  same.set_tag(5);
  same.set_priority(3);
  EXPECT_EQ(QueryKey(same, judge), key);
  EXPECT_NE(QueryKey(WithContext(Classify("a"), "c"), judge), key);
  EXPECT_NE(QueryKey(Classify("a", "other goal"), judge), key);
  v1::Query labels = Classify("a");
  labels.mutable_grammar()->mutable_choice()->add_labels("neutral");
  EXPECT_NE(QueryKey(labels, judge), key);
  EXPECT_NE(QueryKey(Classify("a"), NamedJudge("k", "s", "p")), key);
  EXPECT_NE(QueryKey(Classify("a"), NamedJudge("j", "t", "p")), key);
  EXPECT_NE(QueryKey(Classify("a"), NamedJudge("j", "s", "q")), key);
  EXPECT_NE(QueryKey(Compare("a", "b"), judge), QueryKey(Compare("b", "a"), judge));
  EXPECT_NE(QueryKey(Classify("ab", "c"), judge), QueryKey(Classify("a", "bc"), judge));
}

TEST(Utf8, BrokenBytesBecomeQuestionMarks) {
  EXPECT_EQ(ValidUtf8("a\xc3\xa4\xf0\x9f\x98\x80z"), "a\xc3\xa4\xf0\x9f\x98\x80z");
  EXPECT_EQ(ValidUtf8("a\xff\xc3"), "a??");
  EXPECT_EQ(ValidUtf8("\xed\xa0\x80"), "???");
  EXPECT_EQ(ValidUtf8("\xc0\x80"), "??");
}

}  // namespace
}  // namespace sibyl::annotator
