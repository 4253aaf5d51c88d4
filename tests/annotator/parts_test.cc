// Rules, prompts, the parser of answers, the chat API's bodies, and the arithmetic of congestion.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "annotator/answer_parser.h"
#include "annotator/chat_api.h"
#include "annotator/congestion.h"
#include "annotator/delayed_judge.h"
#include "annotator/prompt.h"
#include "annotator/query_identity.h"
#include "annotator/rules_judge.h"
#include "annotator/utf8.h"
#include "common/runtime/clock.h"
#include "environments/registry.h"
#include "tests/annotator/queries.h"

namespace sibyl::annotator {
namespace {

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
  EXPECT_THAT(AnswerNow(**judge, Classify("You kill the newt!")).distribution, ElementsAre(0, 1));
  EXPECT_THAT(AnswerNow(**judge, Classify("You kill the rat")).distribution, ElementsAre(1, 0));
  EXPECT_THAT(AnswerNow(**judge, Classify("Nothing")).distribution, ElementsAre(1, 0));
  const Verdict abstained = AnswerNow(**judge, Classify("Hm?"));
  EXPECT_EQ(abstained.outcome, v1::OUTCOME_ABSTAINED);
  EXPECT_TRUE(abstained.distribution.empty());
  EXPECT_EQ(AnswerNow(**judge, Classify("You kill it")).raw, "my.rules:4: helpful: ^You kill");
}

TEST(Rules, ALabelMayHaveAProbability) {
  TemporaryFolder folder;
  const std::string path =
      folder.Write("my.rules", "helpful 0.25: door\nhelpful: key\nunhelpful 1: wall\ndefault: unhelpful\n");
  auto judge = *RulesJudge::Load(path, kLabels);
  EXPECT_THAT(AnswerNow(*judge, Classify("a door")).distribution, ElementsAre(0.75, 0.25));
  EXPECT_THAT(AnswerNow(*judge, Classify("a key")).distribution, ElementsAre(0, 1));
  EXPECT_THAT(AnswerNow(*judge, Compare("a door", "a key")).distribution, ElementsAre(0, 1, 0));
  EXPECT_THAT(AnswerNow(*judge, Compare("a door", "a wall")).distribution, ElementsAre(1, 0, 0));
  EXPECT_THAT(AnswerNow(*judge, Compare("a door", "the door")).distribution, ElementsAre(0, 0, 1));
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
  query.set_label_set(1, "good");
  EXPECT_THAT(judge->Check(query).message(), AllOf(HasSubstr("[unhelpful, good]"), HasSubstr("[unhelpful, helpful]")));
  EXPECT_TRUE(judge->Check(Classify("a")).ok());
}

TEST(Rules, PreferTheCaptionWithTheBetterLabel) {
  TemporaryFolder folder;
  const std::string path = folder.Write("my.rules", "helpful: good\nabstain: odd\ndefault: unhelpful\n");
  auto judge = *RulesJudge::Load(path, kLabels);
  ASSERT_TRUE(judge->Check(Compare("a", "b")).ok());
  EXPECT_THAT(AnswerNow(*judge, Compare("good", "bad")).distribution, ElementsAre(1, 0, 0));
  EXPECT_THAT(AnswerNow(*judge, Compare("bad", "good")).distribution, ElementsAre(0, 1, 0));
  EXPECT_THAT(AnswerNow(*judge, Compare("bad", "worse")).distribution, ElementsAre(0, 0, 1));
  EXPECT_EQ(AnswerNow(*judge, Compare("bad", "odd")).outcome, v1::OUTCOME_ABSTAINED);
  EXPECT_EQ(AnswerNow(*judge, Compare("good", "bad")).raw, "my.rules:1: helpful: good\nmy.rules:3: default: unhelpful");
}

TEST(Rules, NoiseTurnsAShareOfTheLabelsAlwaysTheSame) {
  TemporaryFolder folder;
  const std::string path = folder.Write("my.rules", "default: unhelpful\n");
  auto sound = *RulesJudge::Load(path, kLabels), noisy = *RulesJudge::Load(path, kLabels, 0.3),
       opposite = *RulesJudge::Load(path, kLabels, 1);
  int wrong = 0;
  for (int i = 0; i < 1000; ++i) {
    const v1::Query query = Classify(absl::StrCat("caption ", i));
    EXPECT_THAT(AnswerNow(*sound, query).distribution, ElementsAre(1, 0));
    EXPECT_THAT(AnswerNow(*opposite, query).distribution, ElementsAre(0, 1));
    const auto answer = AnswerNow(*noisy, query).distribution;
    EXPECT_EQ(AnswerNow(*noisy, query).distribution, answer);
    wrong += answer[1] == 1;
  }
  EXPECT_NEAR(wrong, 300, 60);
  EXPECT_NE(JudgeIdentity(*sound), JudgeIdentity(*noisy)) << "their answers are not each other's";
}

TEST(Delay, AnswersComeLateAndInOrder) {
  TemporaryFolder folder;
  auto rules = *RulesJudge::Load(folder.Write("my.rules", "default: unhelpful\n"), kLabels);
  DelayedJudge judge(std::move(rules), absl::Milliseconds(20));
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
  {
    DelayedJudge judge(std::move(rules), absl::Hours(1));
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
  return AnswerNow(judge, Classify(caption)).distribution == std::vector<float>{0, 1};
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
            (*environment)->Step(static_cast<int>((random >> 33) % (*environment)->spec().actions_size()), nothing);
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
  auto messages = prompt->Render(query);
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[0].role, "system");
  EXPECT_EQ(messages[0].content, "Judge unhelpful, helpful.");
  EXPECT_EQ(messages[1].content, "Goal: win {\"x\"}\nText: {goal} is here");
  query.set_context("a door");
  EXPECT_EQ(prompt->Render(query)[1].content, "Goal: win {\"x\"}\nSeen: a door\nText: {goal} is here");
  EXPECT_THAT(prompt->name(), ::testing::MatchesRegex("p\\.txt@[0-9a-f]{8}"));
}

TEST(PromptFile, ErrorsNameFileAndLine) {
  const auto error = [](const std::string& text) {
    return std::string(Prompt::Parse("p.txt", text).status().message());
  };
  EXPECT_THAT(error("[user]\nx\n{capton}\n"),
              AllOf(HasSubstr("p.txt:3: `{capton}` is no placeholder"), HasSubstr("{caption}")));
  EXPECT_THAT(error("[user]\nx {goal}\n"), HasSubstr("without {caption}"));
  EXPECT_THAT(error("x\n"), HasSubstr("[user]"));
  EXPECT_THAT(error("[user]\n{first}\n"), HasSubstr("without {second}"));
  EXPECT_THAT(error("[user]\n{first}{second}\n{caption}"), HasSubstr("p.txt:3: {caption} beside"));
  EXPECT_THAT(error("[user]\n{caption\n"), HasSubstr("p.txt:2: `{caption` is no placeholder"));
  EXPECT_THAT(error("[user]\n} {caption}\n"), HasSubstr("p.txt:2: a `}` without its `{`"));
}

TEST(PromptFile, TheShippedOnesLoadAndEndWithTheCaption) {
  for (const char* name :
       {"minigrid_classify.txt", "minigrid_compare.txt", "nethack_classify.txt", "nethack_compare.txt"}) {
    auto prompt = Prompt::Load(absl::StrCat(SIBYL_SOURCE_DIR, "/configs/prompts/", name));
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    const bool compares = prompt->kind() == v1::QUERY_KIND_COMPARE;
    EXPECT_EQ(compares, absl::EndsWith(name, "_compare.txt"));
    const auto messages = prompt->Render(compares ? Compare("AAA", "BBB") : Classify("BBB"));
    EXPECT_TRUE(absl::EndsWith(messages.back().content, "BBB")) << messages.back().content;
    EXPECT_THAT(messages.back().content, Not(HasSubstr("{")));
  }
}

// ---- answers

std::string Parsed(const std::string& text, const std::vector<std::string>& labels = kLabels) {
  const ParsedAnswer answer = ParseAnswer(text, labels);
  if (answer.kind == ParsedAnswer::kAbstained) return "abstained";
  if (answer.kind == ParsedAnswer::kUnparsable) return "unparsable";
  EXPECT_TRUE(absl::StartsWithIgnoreCase(text.substr(answer.offset), labels[answer.label]));
  return labels[answer.label];
}

TEST(Answers, AreReadInManyDresses) {
  for (const char* text :
       {"It is a key.\nKeys open doors.\nLabel: helpful", "label: HELPFUL.", "**Label:** helpful", "**Label: helpful**",
        "Label: `helpful`", "{\"analysis\": \"unhelpful?\", \"label\": \"helpful\"}",
        "```json\n{\"label\": \"helpful\"}\n```", "helpful", "I think so.\n\n**helpful**\n", "The label is helpful.",
        "Label: unhelpful\nOn second thought:\nLabel: helpful", "Answer: helpful because it opens the door",
        "<think>Label: unhelpful</think>Label: helpful", "Label: helpful\nThe answer is because of the door.",
        "Label = helpful"}) {
    EXPECT_EQ(Parsed(text), "helpful") << text;
  }
}

TEST(Answers, ALabelInsideAnotherWordDoesNotCount) {
  EXPECT_EQ(Parsed("Label: unhelpful"), "unhelpful");
  EXPECT_EQ(Parsed("unhelpful"), "unhelpful");
  EXPECT_EQ(Parsed("Label: helpfulness"), "unparsable");
  EXPECT_EQ(Parsed("Label: helpful-ish"), "unparsable");
  EXPECT_EQ(Parsed("Label: good boy", {"good", "good boy"}), "good boy");
}

TEST(Answers, WhatSaysNothingIsUnparsable) {
  for (const char* text :
       {"", "\n\n", "It may be helpful.", "This is not helpful", "Label: maybe", "Label:", "<think>Label: helpful",
        "Label: helpful/unhelpful", "Label: helpful or unhelpful", "Label: helpful\nLabel: dunno"}) {
    EXPECT_EQ(Parsed(text), "unparsable") << text;
  }
  EXPECT_EQ(Parsed("Hard to tell.\nLabel: abstain"), "abstained");
  EXPECT_EQ(Parsed("{\"label\":\"abstain\"}"), "abstained");
  EXPECT_EQ(Parsed("Abstain."), "abstained");
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
  const auto json =
      nlohmann::json::parse(ChatRequest(ApiConfig(), Dialect{}, {{"system", "s"}, {"user", "u"}}, kLabels));
  EXPECT_EQ(json["model"], "m");
  EXPECT_EQ(json["seed"], 7);
  EXPECT_EQ(json["max_tokens"], 99);
  EXPECT_EQ(json["messages"][1]["content"], "u");
  EXPECT_EQ(json["logprobs"], true);
  const auto& schema = json["response_format"]["json_schema"]["schema"];
  EXPECT_EQ(schema["properties"]["label"]["enum"], nlohmann::json({"unhelpful", "helpful", "abstain"}));
  EXPECT_EQ(json["response_format"]["type"], "json_schema");
  const auto choice = nlohmann::json::parse(
      ChatRequest(ApiConfig(), Dialect{Constraint::kChoice, false, true}, {{"user", "u"}}, kLabels));
  EXPECT_EQ(choice["structured_outputs"]["choice"].size(), 3u);
  EXPECT_EQ(choice["max_completion_tokens"], 99);
  EXPECT_FALSE(choice.contains("logprobs"));
  EXPECT_FALSE(choice.contains("response_format"));
  const auto probe = nlohmann::json::parse(ProbeRequest(ApiConfig(), Dialect{}));
  EXPECT_TRUE(probe["messages"].is_array());
  EXPECT_EQ(probe["messages"][0]["role"], "user");
}

TEST(ChatApi, AProbeBindsOnlyWhenTheAnswerObeys) {
  EXPECT_TRUE(ProbeBinds({Constraint::kJsonSchema, true, false}, " {\"label\": \"birch\"} "));
  EXPECT_FALSE(ProbeBinds({Constraint::kJsonSchema, true, false}, "4"));
  EXPECT_FALSE(ProbeBinds({Constraint::kJsonSchema, true, false}, "{\"label\": \"4\"}"));
  EXPECT_TRUE(ProbeBinds({Constraint::kChoice, true, false}, "maple"));
  EXPECT_FALSE(ProbeBinds({Constraint::kChoice, true, false}, "4 maple"));
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

TEST(ChatApi, SoftLabelsComeFromTheTokenThatChooses) {
  const Verdict verdict =
      ReadVerdict(ReadCompletion(CompletionBody({{"Good.\n", {}},
                                                 {"Label", {}},
                                                 {":", {}},
                                                 {" helpful", {{" helpful", 0.6}, {" un", 0.2}, {" maybe", 0.1}}}})),
                  kLabels);
  EXPECT_EQ(verdict.outcome, v1::OUTCOME_ANSWERED);
  EXPECT_THAT(verdict.distribution, ElementsAre(FloatNear(0.25, 1e-5), FloatNear(0.75, 1e-5)));
  EXPECT_NEAR(verdict.outside, 0.2, 1e-5);
  EXPECT_EQ(verdict.prompt_tokens, 11u);
  EXPECT_EQ(verdict.completion_tokens, 5u);
}

TEST(ChatApi, LabelsThatBeginAlikeAreToldApartFurtherOn) {
  const Verdict verdict =
      ReadVerdict(ReadCompletion(CompletionBody({{"{\"label\": \"", {}},
                                                 {"un", {{"un", 0.8}, {"help", 0.2}}},
                                                 {"related", {{"related", 0.75}, {"helpful", 0.25}}},
                                                 {"\"}", {}}})),
                  {"helpful", "unhelpful", "unrelated"});
  EXPECT_THAT(verdict.distribution, ElementsAre(FloatNear(0.2, 1e-5), FloatNear(0.2, 1e-5), FloatNear(0.6, 1e-5)));
  EXPECT_NEAR(verdict.outside, 0, 1e-5);
}

TEST(ChatApi, WithoutLogprobsTheLabelIsHard) {
  const Verdict verdict = ReadVerdict(
      ReadCompletion(R"({"choices":[{"message":{"content":"Label: helpful"},"finish_reason":"stop"}]})"), kLabels);
  EXPECT_THAT(verdict.distribution, ElementsAre(0, 1));
  EXPECT_EQ(verdict.outside, 0);
}

TEST(ChatApi, WhatIsNoCompletionIsNotTakenForOne) {
  for (const char* body : {"", "garbage", "{}", "[]", "{\"choices\":[]}", "{\"choices\":[3]}",
                           "{\"choices\":[{\"message\":3}]}", "null"}) {
    EXPECT_FALSE(ReadCompletion(body).valid) << body;
  }
  EXPECT_TRUE(ReadCompletion(R"({"choices":[{"message":{"content":null}}]})").aborted);
  EXPECT_TRUE(ReadCompletion(R"({"choices":[{"message":{"content":"Label: he"},"finish_reason":"abort"}]})").aborted);
  EXPECT_TRUE(ReadCompletion(R"({"choices":[{"message":{"content":""},"finish_reason":"content_filter"}]})").refused);
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
  for (int i = 0; i < 10; ++i) {
    clock.Advance(absl::Seconds(1));
    limit.OnOverload(clock.Now(), clock.Now());
  }
  EXPECT_EQ(limit.limit(), 1);
}

TEST(RetryBudget, IsAFifthOfTheRequestsAndTenASecond) {
  FakeClock clock;
  RetryBudget budget;
  const auto drain = [&] {
    int taken = 0;
    while (budget.Take(clock.Now())) ++taken;
    return taken;
  };
  EXPECT_EQ(drain(), 10);
  clock.Advance(absl::Milliseconds(500));
  EXPECT_EQ(drain(), 5);
  for (int i = 0; i < 20; ++i) budget.OnRequest();
  EXPECT_EQ(drain(), 4);
}

TEST(CircuitBreaker, OpensAfterFailuresAndLetsOneProbeThrough) {
  FakeClock clock;
  CircuitBreaker breaker(3, absl::Seconds(1), absl::Seconds(60), 1);
  EXPECT_EQ(breaker.state(clock.Now()), CircuitBreaker::kHalfOpen) << "the server is not known yet";
  breaker.OnProbe(true, clock.Now());
  EXPECT_EQ(breaker.state(clock.Now()), CircuitBreaker::kClosed);
  breaker.OnFailure(clock.Now());
  breaker.OnFailure(clock.Now());
  breaker.OnAnswer();
  breaker.OnFailure(clock.Now());
  breaker.OnFailure(clock.Now());
  EXPECT_EQ(breaker.state(clock.Now()), CircuitBreaker::kClosed) << "only failures in a row count";
  breaker.OnFailure(clock.Now());
  EXPECT_EQ(breaker.state(clock.Now()), CircuitBreaker::kOpen);
  absl::Duration longest;
  for (int i = 0; i < 12; ++i) {
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

// ---- identity

TEST(QueryIdentity, IsTheQuestionAndNothingElse) {
  const std::string key = QueryKey(Classify("a"), "j");
  EXPECT_EQ(key.size(), 32u);
  v1::Query same = Classify("a");
  same.set_tag(5);
  same.set_priority(3);
  EXPECT_EQ(QueryKey(same, "j"), key);
  v1::Query other = Classify("a");
  other.set_context("c");
  EXPECT_NE(QueryKey(other, "j"), key);
  EXPECT_NE(QueryKey(Classify("a", "other goal"), "j"), key);
  EXPECT_NE(QueryKey(Classify("a"), "k"), key);
  EXPECT_NE(QueryKey(Compare("a", "b"), "j"), QueryKey(Compare("b", "a"), "j"));
  v1::Query split = Classify("ab", "c"), joined = Classify("a", "bc");
  EXPECT_NE(QueryKey(split, "j"), QueryKey(joined, "j"));
}

TEST(QueryIdentity, BrokenQueriesAreRefusedByName) {
  EXPECT_TRUE(CheckQuery(Classify("a")).ok());
  EXPECT_TRUE(CheckQuery(Compare("a", "b")).ok());
  EXPECT_THAT(CheckQuery(Compare("a", "a")).message(), HasSubstr("must differ"));
  EXPECT_THAT(CheckQuery(Classify("")).message(), HasSubstr("empty"));
  EXPECT_THAT(CheckQuery(Classify("a", "")).message(), HasSubstr("goal is empty"));
  v1::Query query = Classify("a");
  query.add_captions("b");
  EXPECT_THAT(CheckQuery(query).message(), HasSubstr("captions has 2 entries, must have 1"));
  query = Classify("a");
  query.add_label_set("helpful");
  EXPECT_THAT(CheckQuery(query).message(), HasSubstr("`helpful` twice"));
  query = Classify("a");
  query.mutable_label_set()->RemoveLast();
  EXPECT_THAT(CheckQuery(query).message(), HasSubstr("at least 2"));
  query.set_kind(v1::QUERY_KIND_UNSPECIFIED);
  EXPECT_THAT(CheckQuery(query).message(), HasSubstr("kind is 0"));
  EXPECT_THAT(CheckQuery(Classify(std::string(70'000, 'x'))).message(), HasSubstr("70000 bytes"));
}

TEST(Utf8, BrokenBytesBecomeQuestionMarks) {
  EXPECT_EQ(ValidUtf8("a\xc3\xa4\xf0\x9f\x98\x80z"), "a\xc3\xa4\xf0\x9f\x98\x80z");
  EXPECT_EQ(ValidUtf8("a\xff\xc3"), "a??");
  EXPECT_EQ(ValidUtf8("\xed\xa0\x80"), "???");
  EXPECT_EQ(ValidUtf8("\xc0\x80"), "??");
}

}  // namespace
}  // namespace sibyl::annotator
