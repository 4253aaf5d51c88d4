// The LLM judge against a real HTTP server that fakes an LLM.

#include "annotator/judges/openai_judge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "annotator/judges/query_key.h"
#include "annotator/questions/question.h"
#include "tests/annotator/fake_llm.h"
#include "tests/annotator/queries.h"

namespace sibyl::annotator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::HasSubstr;
using ::testing::Not;
using Call = FakeLlm::Call;
using Reply = FakeLlm::Reply;

class OpenAiJudgeTest : public ::testing::Test {
 protected:
  OpenAiJudgeTest() {
    setenv("no_proxy", "127.0.0.1", 1);
    config_.set_model("tiny");
    config_.set_prompt_file(folder_.Write("p.txt", "[system]\nYou judge.\n[user]\nGoal: {goal}\nCaption: {caption}\n"));
    config_.set_api_key_env("SIBYL_TEST_KEY");
    config_.set_temperature(0.1);
    config_.set_seed(1);
    config_.set_max_tokens(64);
    config_.set_max_in_flight(8);
    config_.set_timeout_seconds(10);
    patience_.first_wait = absl::Milliseconds(5);
    patience_.longest_wait = absl::Milliseconds(50);
  }
  void Start(const std::string& url) {
    config_.set_url(url);
    auto judge = OpenAiJudge::ByPrompt(config_, host_, patience_);
    ASSERT_TRUE(judge.ok()) << judge.status();
    judge_ = *std::move(judge);
  }
  void Start(FakeLlm::Handler handler) {
    llm_ = std::make_unique<FakeLlm>(std::move(handler));
    Start(llm_->url());
  }
  // Asks all at once, waits for all.
  std::vector<Verdict> AskAll(const std::vector<std::string>& captions) {
    Begin(captions);
    EXPECT_TRUE(AllDone());
    MutexLock lock(mutex_);
    return verdicts_;
  }
  Verdict AskOne(const std::string& caption = "a key") { return AskAll({caption})[0]; }
  void Begin(const std::vector<std::string>& captions) {
    {
      MutexLock lock(mutex_);
      verdicts_.assign(captions.size(), {});
      done_ = 0;
    }
    expected_ = static_cast<int>(captions.size());
    for (size_t i = 0; i < captions.size(); ++i) {
      judge_->Answer(Classify(captions[i]), [this, i](Verdict verdict) {
        MutexLock lock(mutex_);
        verdicts_[i] = std::move(verdict);
        ++done_;
      });
    }
  }
  int done() {
    MutexLock lock(mutex_);
    return done_;
  }
  bool AllDone() {
    return Eventually([&] { return done() == expected_; });
  }
  double Metric(const std::string& name) {
    const std::string text = "\n" + host_.metrics.Text();
    const size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 2));
  }
  double Requests(const std::string& result) {
    return Metric("sibyl_annotator_judge_requests_total{result=\"" + result + "\"}");
  }

  TemporaryFolder folder_;
  v1::OpenAiConfig config_;
  OpenAiPatience patience_;
  TestHost host_{Clock::Real()};
  std::unique_ptr<FakeLlm> llm_;
  Mutex mutex_;
  std::vector<Verdict> verdicts_ ABSL_GUARDED_BY(mutex_);
  int done_ ABSL_GUARDED_BY(mutex_) = 0;
  int expected_ = 0;
  std::unique_ptr<OpenAiJudge> judge_;  // last: ends first
};

// Answers real queries with `handler`, and probes as a server that obeys schemas.
FakeLlm::Handler WithProbes(FakeLlm::Handler handler) {
  return [handler](const Call& call) { return call.probe ? FakeLlm::ObeysSchemas() : handler(call); };
}

TEST_F(OpenAiJudgeTest, AnswersBecomeLabels) {
  Start(WithProbes([](const Call& call) {
    return FakeLlm::Says(absl::StrContains(FakeLlm::Caption(call), "key")
                             ? R"({"knowledge":"k","analysis":"a","label":"helpful"})"
                             : "It is a wall.\nLabel: unhelpful");
  }));
  const auto verdicts = AskAll({"You pick up a key.", "a wall"});
  EXPECT_EQ(verdicts[0].outcome, v1::OUTCOME_ANSWERED);
  EXPECT_THAT(Distribution(verdicts[0].answer), ElementsAre(0, 1));
  EXPECT_THAT(Distribution(verdicts[1].answer), ElementsAre(1, 0));
  EXPECT_EQ(verdicts[1].raw, "It is a wall.\nLabel: unhelpful");
  EXPECT_EQ(verdicts[0].prompt_tokens, 20u);
  EXPECT_EQ(judge_->name(), "openai:tiny");
  EXPECT_THAT(judge_->prompt(), ::testing::MatchesRegex("p\\.txt@[0-9a-f]{8}"));
  EXPECT_EQ(Metric("sibyl_annotator_judge_reachable"), 1);
}

TEST_F(OpenAiJudgeTest, LogprobsGiveSoftLabels) {
  Start(WithProbes([](const Call& call) {
    EXPECT_EQ(call.request["logprobs"], true);
    auto body = nlohmann::json::parse(FakeLlm::Completion("helpful"));
    nlohmann::json token = {
        {"token", "helpful"}, {"logprob", std::log(0.5)}, {"top_logprobs", nlohmann::json::array()}};
    token["top_logprobs"].push_back({{"token", "helpful"}, {"logprob", std::log(0.5)}});
    token["top_logprobs"].push_back({{"token", "unhelpful"}, {"logprob", std::log(0.3)}});
    body["choices"][0]["logprobs"]["content"] = nlohmann::json::array();
    body["choices"][0]["logprobs"]["content"].push_back(token);
    return Reply{.body = body.dump()};
  }));
  const Verdict verdict = AskOne();
  EXPECT_THAT(Distribution(verdict.answer), ElementsAre(FloatNear(0.375, 1e-5), FloatNear(0.625, 1e-5)));
  EXPECT_NEAR(verdict.answer.choice().outside(), 0.2, 1e-5);
}

TEST_F(OpenAiJudgeTest, TheConstraintThatBindsIsFoundOut) {
  // Ignores response_format without a word, as an old llama.cpp would; obeys structured_outputs.
  Start([](const Call& call) {
    if (call.probe) return FakeLlm::Says(call.request.contains("structured_outputs") ? "birch" : "Four.");
    EXPECT_TRUE(call.request.contains("structured_outputs"));
    EXPECT_FALSE(call.request.contains("response_format"));
    return FakeLlm::Says("helpful");
  });
  EXPECT_THAT(Distribution(AskOne().answer), ElementsAre(0, 1));
}

TEST_F(OpenAiJudgeTest, AServerThatKnowsNothingOfThisIsAskedPlainly) {
  Start([](const Call& call) {
    for (const char* name : {"response_format", "structured_outputs", "logprobs"}) {
      if (call.request.contains(name)) return Reply{.status = 400, .body = "{\"error\":\"unknown field\"}"};
    }
    if (call.request.contains("max_tokens"))
      return Reply{.status = 400, .body = "{\"error\":\"use max_completion_tokens\"}"};
    return FakeLlm::Says(call.probe ? "4" : "Label: helpful");
  });
  EXPECT_THAT(Distribution(AskOne().answer), ElementsAre(0, 1));
}

TEST_F(OpenAiJudgeTest, AbstainedUnparsableAndFailedAreNoLabels) {
  Start(WithProbes([](const Call& call) {
    const std::string caption = FakeLlm::Asked(call);
    if (caption == "abstain") return FakeLlm::Says("Hard to tell.\nLabel: abstain");
    if (caption == "garbage") return FakeLlm::Says("bananas");
    if (caption == "empty") return FakeLlm::Says("");
    if (caption == "filtered") return Reply{.body = FakeLlm::Completion("", "content_filter")};
    if (caption == "long") return Reply{.status = 400, .body = "{\"error\":\"maximum context length exceeded\"}"};
    return FakeLlm::Says("Label: helpful");
  }));
  const auto verdicts = AskAll({"abstain", "garbage", "empty", "filtered", "long", "fine"});
  EXPECT_EQ(verdicts[0].outcome, v1::OUTCOME_ABSTAINED);
  EXPECT_EQ(verdicts[1].outcome, v1::OUTCOME_UNPARSABLE);
  EXPECT_EQ(verdicts[1].raw, "bananas\nbananas") << "it was asked once more";
  EXPECT_EQ(verdicts[2].outcome, v1::OUTCOME_UNPARSABLE);
  EXPECT_EQ(Requests("empty"), 3) << "an empty answer is worth another try";
  EXPECT_EQ(verdicts[3].outcome, v1::OUTCOME_FAILED);
  EXPECT_EQ(verdicts[4].outcome, v1::OUTCOME_FAILED);
  EXPECT_THAT(verdicts[4].raw, AllOf(HasSubstr("400"), HasSubstr("context length")));
  EXPECT_EQ(Requests("rejected"), 1) << "a permanent refusal is not repeated";
  for (int i = 0; i < 5; ++i) EXPECT_EQ(verdicts[i].answer.form_case(), v1::Answer::FORM_NOT_SET);
  EXPECT_EQ(verdicts[5].outcome, v1::OUTCOME_ANSWERED);
}

// The judge asks for the label alone where the first answer names none.
TEST_F(OpenAiJudgeTest, AnAnswerThatNamesNoLabelGetsASecondTry) {
  std::atomic<int> calls = 0;
  Start(WithProbes([&](const Call& call) {
    if (calls++ == 0) return FakeLlm::Says("Keys open doors.");
    EXPECT_EQ(call.request["messages"].size(), 4u);
    EXPECT_EQ(call.request["messages"][2]["content"], "Keys open doors.");
    EXPECT_EQ(call.request["response_format"]["json_schema"]["schema"]["required"].size(), 1u);
    return FakeLlm::Says("{\"label\": \"helpful\"}");
  }));
  const Verdict verdict = AskOne();
  EXPECT_THAT(Distribution(verdict.answer), ElementsAre(0, 1));
  EXPECT_EQ(verdict.raw, "Keys open doors.\n{\"label\": \"helpful\"}");
  EXPECT_EQ(verdict.prompt_tokens, 40u) << "of both requests";
}

TEST_F(OpenAiJudgeTest, WhatAServerRefusesByNameIsLeftOut) {
  std::atomic<int> refused = 0;
  Start([&](const Call& call) {
    if (call.request.contains("seed")) {
      ++refused;
      return Reply{.status = 400, .body = R"({"error":{"message":"Unsupported parameter: 'seed'","param":"seed"}})"};
    }
    // Only queries are refused: a server may treat requests unalike.
    if (!call.probe && call.request.contains("temperature")) {
      ++refused;
      return Reply{.status = 400, .body = R"({"error":{"message":"'temperature' does not support 0.1"}})"};
    }
    return call.probe ? FakeLlm::ObeysSchemas() : FakeLlm::Says("Label: helpful");
  });
  for (const Verdict& verdict : AskAll({"a", "b", "c", "d"})) EXPECT_EQ(verdict.outcome, v1::OUTCOME_ANSWERED);
  EXPECT_GE(refused, 2);
  EXPECT_EQ(AskOne("e").outcome, v1::OUTCOME_ANSWERED);
  EXPECT_LE(refused, 1 + 4) << "once it is known, nothing is refused any more";
}

TEST_F(OpenAiJudgeTest, ARedirectedRequestIsFollowed) {
  FakeLlm there(WithProbes([](const Call&) { return FakeLlm::Says("Label: helpful"); }));
  Start([&](const Call&) {
    return Reply{.status = 307, .headers = absl::StrCat("Location: ", there.url(), "/chat/completions\r\n")};
  });
  EXPECT_EQ(AskOne().outcome, v1::OUTCOME_ANSWERED);
  EXPECT_EQ(there.calls(), 1);
}

TEST_F(OpenAiJudgeTest, TheDirectVerdictOfAPlainTextIsReadFromItsFirstTokens) {
  config_.set_prompt_file(folder_.Write(
      "d.txt", "[words]\nunhelpful: no\nhelpful: yes\n[text]\nGoal: {goal}\nEvent: {caption}\nHelpful: {answer}\n"));
  Start([](const Call& call) {
    EXPECT_EQ(call.request["max_tokens"], 1);
    if (!call.probe) {
      EXPECT_EQ(call.request["prompt"], "Goal: find the ball\nEvent: a key\nHelpful:");
    }
    return Reply{.body = R"({"choices":[{"text":" It","finish_reason":"length","logprobs":{"tokens":[" It"],
        "token_logprobs":[-1.2],"top_logprobs":[{" It":-1.2,"yes":-2.302585," no":-1.609438," Yes":-2.302585}]}}]})"};
  });
  const Verdict verdict = AskOne();
  EXPECT_THAT(Distribution(verdict.answer), ElementsAre(FloatNear(0.5, 1e-4), FloatNear(0.5, 1e-4)));
  EXPECT_NEAR(verdict.answer.choice().outside(), 0.6, 1e-4);
}

TEST_F(OpenAiJudgeTest, RetryAfterIsWaitedForAndTheConcurrencyFalls) {
  std::atomic<int> refusals = 0;
  std::atomic<int64_t> refused_at = 0, answered_at = 0;
  Start(WithProbes([&](const Call&) {
    if (refusals++ == 0) {
      refused_at = absl::ToUnixMillis(absl::Now());
      return Reply{.status = 429, .body = "{}", .headers = "Retry-After: 1\r\n"};
    }
    answered_at = absl::ToUnixMillis(absl::Now());
    return FakeLlm::Says("Label: helpful");
  }));
  EXPECT_EQ(AskOne().outcome, v1::OUTCOME_ANSWERED);
  EXPECT_GE(answered_at - refused_at, 990);
  EXPECT_EQ(Requests("rate_limited"), 1);
  EXPECT_LT(Metric("sibyl_annotator_concurrency_limit"), 4);
  EXPECT_GE(Metric("sibyl_annotator_judge_retries_total"), 1);
}

TEST_F(OpenAiJudgeTest, PassingTroubleIsRetriedUntilTheAnswerComes) {
  std::atomic<int> n = 0;
  Start(WithProbes([&](const Call&) {
    switch (n++) {
      case 0:
        return Reply{.status = 503, .body = "loading"};
      case 1:
        return Reply{.body = FakeLlm::Completion("Label: helpful"), .close = true};
      case 2:
        return Reply{.body = "<html>not json</html>"};
      case 3:
        return Reply{.body = FakeLlm::Completion("Label: he", "abort")};
      case 4:
        return Reply{.status = 500, .body = "oops"};
      default:
        return FakeLlm::Says("Label: helpful");
    }
  }));
  EXPECT_THAT(Distribution(AskOne().answer), ElementsAre(0, 1));
  EXPECT_EQ(Requests("unavailable"), 2);
  EXPECT_EQ(Requests("no_connection"), 1);
  EXPECT_EQ(Requests("invalid"), 1);
  EXPECT_EQ(Requests("empty"), 1);
}

TEST_F(OpenAiJudgeTest, AServerThatHangsIsGivenUpAndAskedAgain) {
  config_.set_timeout_seconds(0.2);
  std::atomic<int> n = 0;
  Start(WithProbes([&](const Call&) { return n++ == 0 ? Reply{.hang = true} : FakeLlm::Says("Label: helpful"); }));
  EXPECT_EQ(AskOne().outcome, v1::OUTCOME_ANSWERED);
  EXPECT_EQ(Requests("timeout"), 1);
}

TEST_F(OpenAiJudgeTest, AnAbsentServerLosesNothingAndIsUsedOnceItIsThere) {
  int port = 0;
  {
    FakeLlm gone([](const Call&) { return Reply{}; });
    port = gone.port();
  }
  Start(absl::StrCat("http://127.0.0.1:", port, "/v1"));
  Begin({"a", "b", "c"});
  ASSERT_TRUE(Eventually([&] { return Requests("no_connection") >= 3; }));
  EXPECT_EQ(done(), 0);
  EXPECT_EQ(Metric("sibyl_annotator_judge_reachable"), 0);
  EXPECT_GT(Metric("sibyl_annotator_breaker_state"), 0);
  llm_ = std::make_unique<FakeLlm>(WithProbes([](const Call&) { return FakeLlm::Says("Label: helpful"); }), port);
  EXPECT_TRUE(AllDone());
  EXPECT_EQ(llm_->calls(), 3) << "each query once";
}

TEST_F(OpenAiJudgeTest, AnOutageOpensTheBreakerAndOnlyProbesGoThrough) {
  std::atomic<bool> down = false;
  std::atomic<int> real_while_down = 0, probes_while_down = 0;
  Start([&](const Call& call) {
    if (down) {
      ++(call.probe ? probes_while_down : real_while_down);
      return Reply{.status = 500, .body = "down"};
    }
    return call.probe ? FakeLlm::ObeysSchemas() : FakeLlm::Says("Label: helpful");
  });
  AskOne();
  down = true;
  std::vector<std::string> captions;
  for (int i = 0; i < 8; ++i) captions.push_back(absl::StrCat("c", i));
  Begin(captions);
  ASSERT_TRUE(Eventually([&] { return probes_while_down >= 4; }));
  EXPECT_LE(real_while_down, 8 + 5);
  const int real = real_while_down;
  ASSERT_TRUE(Eventually([&] { return probes_while_down >= 8; }));
  EXPECT_EQ(real_while_down, real) << "an open breaker lets no query through";
  down = false;
  EXPECT_TRUE(AllDone());
}

TEST_F(OpenAiJudgeTest, AQueryThatAloneBreaksTheServerIsGivenUpInTheEnd) {
  patience_.most_tries = 3;
  patience_.failures_to_open = 1000;
  Start(WithProbes([](const Call& call) {
    return FakeLlm::Caption(call) == "poison" ? Reply{.status = 500, .body = "crash"} : FakeLlm::Says("Label: helpful");
  }));
  std::atomic<bool> stop = false;
  Verdict poisoned;
  judge_->Answer(Classify("poison"), [&](Verdict verdict) {
    poisoned = std::move(verdict);
    stop = true;
  });
  while (!stop) AskOne("fine");
  EXPECT_EQ(poisoned.outcome, v1::OUTCOME_FAILED);
  EXPECT_THAT(poisoned.raw, HasSubstr("given up after 3 tries"));
}

// The server answers probes, and refuses every query (a wrong field in queries, say).
TEST_F(OpenAiJudgeTest, AServerThatRefusesEveryQueryIsLeftAloneAfterAFewAndWaitedFor) {
  config_.set_max_in_flight(2);
  patience_.first_wait = absl::Hours(1);  // no query between the warning and the end of the test
  patience_.longest_wait = absl::Hours(2);
  Start(WithProbes([](const Call&) { return Reply{.status = 400, .body = "{\"error\":\"no such field\"}"}; }));
  std::vector<std::string> captions;
  for (int i = 0; i < 50; ++i) captions.push_back(absl::StrCat("c", i));
  Begin(captions);
  ASSERT_TRUE(Eventually([&] { return Metric("sibyl_annotator_breaker_state") == 2; }));
  ASSERT_TRUE(Eventually([&] { return Metric("sibyl_annotator_judge_requests_in_flight") == 0; }));
  EXPECT_EQ(Metric("sibyl_annotator_judge_reachable"), 0);
  EXPECT_GE(done(), 5);
  EXPECT_LE(done(), 5 + 1) << "those in flight, and no more";
}

TEST_F(OpenAiJudgeTest, AServerThatRefusedEveryQueryIsUsedAgainWhenItAnswersOne) {
  config_.set_max_in_flight(8);
  std::atomic<bool> repaired = false;
  std::atomic<int> refused = 0;
  Start([&](const Call& call) {
    if (call.probe) return FakeLlm::ObeysSchemas();
    if (repaired) return FakeLlm::Says("Label: helpful");
    ++refused;
    return Reply{.status = 400, .body = "{}"};
  });
  std::vector<std::string> captions;
  for (int i = 0; i < 50; ++i) captions.push_back(absl::StrCat("c", i));
  Begin(captions);
  ASSERT_TRUE(Eventually([&] { return refused >= 15; })) << "one query after each probe";
  EXPECT_GE(llm_->probes(), 3);
  repaired = true;
  EXPECT_TRUE(AllDone());
  MutexLock lock(mutex_);
  int answered = 0;
  for (const Verdict& verdict : verdicts_) answered += verdict.outcome == v1::OUTCOME_ANSWERED;
  EXPECT_GT(answered, 20);
}

TEST_F(OpenAiJudgeTest, OneRefusedQueryAmongAnsweredOnesStopsNothing) {
  Start(WithProbes([](const Call& call) {
    if (absl::StartsWith(FakeLlm::Caption(call), "long")) return Reply{.status = 400, .body = "too long"};
    return FakeLlm::Says("Label: helpful");
  }));
  for (int i = 0; i < 20; ++i) {
    const auto verdicts = AskAll({absl::StrCat("long ", i), "fine"});
    EXPECT_EQ(verdicts[0].outcome, v1::OUTCOME_FAILED);
    EXPECT_EQ(verdicts[1].outcome, v1::OUTCOME_ANSWERED);
  }
  EXPECT_EQ(llm_->probes(), 1);
}

// As many queries as the judge takes, each of which makes the server fail: they end, and others are answered.
TEST_F(OpenAiJudgeTest, QueriesThatBreakTheServerDoNotHoldTheJudgeForEver) {
  patience_.most_tries = 3;
  Start(WithProbes([](const Call& call) {
    return absl::StartsWith(FakeLlm::Caption(call), "poison") ? Reply{.status = 500, .body = "crash"}
                                                              : FakeLlm::Says("Label: helpful");
  }));
  std::vector<std::string> captions;
  for (int i = 0; i < judge_->capacity(); ++i) captions.push_back(absl::StrCat("poison ", i));
  for (const Verdict& verdict : AskAll(captions)) EXPECT_EQ(verdict.outcome, v1::OUTCOME_FAILED);
  EXPECT_EQ(AskOne("fine").outcome, v1::OUTCOME_ANSWERED);
}

TEST_F(OpenAiJudgeTest, SeveralRequestsAreInFlightButNeverMoreThanAllowed) {
  config_.set_max_in_flight(6);
  Start(WithProbes([&](const Call&) {
    Eventually([&] { return llm_ && llm_->most_at_once() >= 3; }, absl::Seconds(2));
    return FakeLlm::Says("Label: helpful");
  }));
  std::vector<std::string> captions;
  for (int i = 0; i < 60; ++i) captions.push_back(absl::StrCat("c", i));
  for (const Verdict& verdict : AskAll(captions)) EXPECT_EQ(verdict.outcome, v1::OUTCOME_ANSWERED);
  EXPECT_GE(llm_->most_at_once(), 3);
  EXPECT_LE(llm_->most_at_once(), 6);
}

TEST_F(OpenAiJudgeTest, TheKeyIsSentAndNeverWritten) {
  setenv("SIBYL_TEST_KEY", "sk-very-secret", 1);
  Start(WithProbes([](const Call& call) {
    EXPECT_THAT(call.headers, HasSubstr("Authorization: Bearer sk-very-secret"));
    return Reply{.status = 400, .body = "bad request from sk-very-secret"};
  }));
  const Verdict verdict = AskOne();
  // A key that the error's last bytes cut in two.
  llm_ = nullptr;
  Start(WithProbes(
      [](const Call&) { return Reply{.status = 400, .body = std::string(2000 - 8, 'x') + "sk-very-secret"}; }));
  EXPECT_THAT(AskOne().raw, Not(HasSubstr("sk-very")));
  Start(WithProbes([](const Call&) { return FakeLlm::Says("Label: helpful\nYour key is sk-very-secret."); }));
  EXPECT_THAT(AskOne().raw, AllOf(HasSubstr("helpful"), Not(HasSubstr("very-secret"))));
  unsetenv("SIBYL_TEST_KEY");
  EXPECT_THAT(verdict.raw, AllOf(HasSubstr("<key>"), Not(HasSubstr("very-secret"))));
  EXPECT_THAT(judge_->sampling(), Not(HasSubstr("secret")));
  EXPECT_THAT(host_.metrics.Text(), Not(HasSubstr("secret")));
}

TEST_F(OpenAiJudgeTest, AWrongKeyLosesNothing) {
  std::atomic<bool> right = false;
  Start([&](const Call& call) {
    if (!right) return Reply{.status = 401, .body = "{}"};
    return call.probe ? FakeLlm::ObeysSchemas() : FakeLlm::Says("Label: helpful");
  });
  Begin({"a"});
  ASSERT_TRUE(Eventually([&] { return Requests("unauthorized") >= 2; }));
  EXPECT_EQ(done(), 0);
  right = true;
  EXPECT_TRUE(AllDone());
}

TEST_F(OpenAiJudgeTest, TextsAndJsonAreComposedUnderTheirGrammar) {
  config_.set_prompt_file(folder_.Write("c.txt", "[user]\nGoal: {goal}\n{schema}\nText: {text}\n"));
  const std::string schema =
      R"({"type":"object","properties":{"subgoal":{"type":"string"}},"required":["subgoal"],"additionalProperties":false})";
  Start(WithProbes([&](const Call& call) {
    const std::string text = FakeLlm::Caption(call);
    if (text == "free") {
      EXPECT_FALSE(call.request.contains("response_format"));
      return FakeLlm::Says("<think>Hm.</think>Find the key.\n");
    }
    EXPECT_EQ(call.request["response_format"]["json_schema"]["schema"].dump(), nlohmann::json::parse(schema).dump());
    EXPECT_THAT(call.request["messages"][0]["content"].get<std::string>(), HasSubstr(schema));
    if (text == "cut") return Reply{.body = FakeLlm::Completion(R"({"subgoal": "find})", "length")};
    return FakeLlm::Says(text == "wrong" ? R"({"goal": "x"})" : "```json\n{\"subgoal\": \"find the key\"}\n```");
  }));
  const auto ask = [&](const v1::Query& query) {
    EXPECT_TRUE(CheckQuery(query).ok());
    EXPECT_TRUE(judge_->Check(query).ok());
    std::atomic<bool> done = false;
    Verdict verdict;
    judge_->Answer(query, [&](Verdict v) {
      verdict = std::move(v);
      done = true;
    });
    EXPECT_TRUE(Eventually([&] { return done.load(); }));
    return verdict;
  };
  EXPECT_EQ(ask(Compose("free", TextGrammar())).answer.text(), "Find the key.");
  EXPECT_EQ(ask(Compose("fits", JsonGrammar(schema))).answer.json(), R"({"subgoal":"find the key"})");
  EXPECT_EQ(ask(Compose("wrong", JsonGrammar(schema))).outcome, v1::OUTCOME_UNPARSABLE);
  EXPECT_EQ(ask(Compose("cut", JsonGrammar(schema))).outcome, v1::OUTCOME_UNPARSABLE);
  EXPECT_THAT(judge_->Check(Classify("a")).message(), HasSubstr("asks `compose`"));
}

TEST_F(OpenAiJudgeTest, StopsAtOnceWhateverIsInFlight) {
  Start(WithProbes([](const Call&) { return Reply{.hang = true}; }));
  Begin({"a", "b"});
  ASSERT_TRUE(Eventually([&] { return llm_->calls() >= 1; }));
  const absl::Time start = absl::Now();
  judge_.reset();
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  EXPECT_EQ(done(), 0);
}

TEST_F(OpenAiJudgeTest, WhatIsMissingIsNamed) {
  const auto error = [&] { return std::string(OpenAiJudge::ByPrompt(config_, host_).status().message()); };
  EXPECT_THAT(error(), HasSubstr("annotator.openai.url"));
  config_.set_extra_body("[1]");
  EXPECT_THAT(error(), HasSubstr("annotator.openai.extra_body is `[1]`, must be a JSON object"));
  config_.set_extra_body(R"({"messages": []})");
  EXPECT_THAT(error(), HasSubstr("without `messages`"));
  config_.clear_extra_body();
  config_.set_url("http://127.0.0.1:1/v1");
  config_.set_prompt_file(folder_.Write("bad.txt", "[user]\n{captoin}\n"));
  EXPECT_THAT(error(), HasSubstr("bad.txt:2"));
  config_.set_prompt_file("/nowhere/p.txt");
  EXPECT_THAT(error(), HasSubstr("/nowhere/p.txt"));
}

TEST_F(OpenAiJudgeTest, SamplingAndModelArePartOfAQuerysIdentity) {
  Start(WithProbes([](const Call&) { return FakeLlm::Says("Label: helpful"); }));
  const std::string identity = JudgeIdentity(*judge_);
  judge_.reset();
  config_.set_temperature(0.7);
  Start(llm_->url());
  EXPECT_NE(JudgeIdentity(*judge_), identity);
  EXPECT_THAT(judge_->Check(Compare("a", "b")).message(), HasSubstr("kind is `compare`"));
}

}  // namespace
}  // namespace sibyl::annotator
