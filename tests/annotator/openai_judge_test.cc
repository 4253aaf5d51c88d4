// The LLM judge against a real HTTP server that fakes an LLM.

#include "annotator/judges/openai_judge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "absl/strings/str_split.h"
#include "annotator/judges/query_key.h"
#include "annotator/questions/question.h"
#include "tests/annotator/fake_llm.h"
#include "tests/annotator/faults.h"
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
    patience_.longest_probe_wait = absl::Milliseconds(50);
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
      ended_.assign(captions.size(), false);
      done_ = 0;
    }
    expected_ = static_cast<int>(captions.size());
    for (size_t i = 0; i < captions.size(); ++i) {
      judge_->Answer(Classify(captions[i]), [this, i](Verdict verdict) {
        MutexLock lock(mutex_);
        verdicts_[i] = std::move(verdict);
        ended_[i] = true;
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
  // The sum of a metric's series that have this label; -1: there is none.
  double Metric(const std::string& name, const std::string& label = "") {
    double sum = 0;
    bool found = false;
    for (const absl::string_view line : absl::StrSplit(host_.metrics.Text(), '\n')) {
      const size_t end = line.find_first_of("{ ");
      if (line.substr(0, end) != name || !absl::StrContains(line, label)) continue;
      double value = 0;
      found |= absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value);
      sum += value;
    }
    return found ? sum : -1;
  }
  double Requests(const std::string& result) {
    return Metric("sibyl_annotator_judge_requests_total", "result=\"" + result + "\"");
  }
  // Requests that all queries and probes took.
  int AllRequests() { return static_cast<int>(Metric("sibyl_annotator_judge_requests_total")); }
  static std::vector<std::string> Captions(const std::string& name, int count) {
    std::vector<std::string> captions;
    for (int i = 0; i < count; ++i) captions.push_back(absl::StrCat(name, " #", i));
    return captions;
  }
  // Of the queries that were begun and have ended.
  int Ended(v1::Outcome outcome, size_t from = 0, size_t to = std::string::npos) {
    MutexLock lock(mutex_);
    int count = 0;
    for (size_t i = from; i < std::min(to, verdicts_.size()); ++i) {
      count += ended_[i] && verdicts_[i].outcome == outcome;
    }
    return count;
  }

  TemporaryFolder folder_;
  v1::OpenAiConfig config_;
  OpenAiPatience patience_;
  TestHost host_{Clock::Real()};
  std::unique_ptr<FakeLlm> llm_;
  Mutex mutex_;
  std::vector<Verdict> verdicts_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> ended_ ABSL_GUARDED_BY(mutex_);
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
  // Requests that were sent before the breaker opened may arrive late.
  ASSERT_TRUE(
      Eventually([&] { return probes_while_down >= 4 && Metric("sibyl_annotator_judge_requests_in_flight") == 0; }));
  EXPECT_LE(real_while_down, 8 + 5);
  const int real = real_while_down;
  ASSERT_TRUE(Eventually([&] { return probes_while_down >= 8; }));
  EXPECT_EQ(real_while_down, real) << "an open breaker lets no query through";
  down = false;
  EXPECT_TRUE(AllDone());
}

TEST_F(OpenAiJudgeTest, AQueryThatAloneBreaksTheServerIsGivenUpInTheEnd) {
  patience_.most_tries = 3;
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
  patience_.longest_probe_wait = absl::Hours(2);
  Start(WithProbes([](const Call&) { return Reply{.status = 400, .body = "{\"error\":\"no such field\"}"}; }));
  std::vector<std::string> captions;
  for (int i = 0; i < 50; ++i) captions.push_back(absl::StrCat("c", i));
  Begin(captions);
  ASSERT_TRUE(Eventually([&] { return Metric("sibyl_annotator_breaker_state") == 2; }));
  ASSERT_TRUE(Eventually([&] { return Metric("sibyl_annotator_judge_requests_in_flight") == 0; }));
  EXPECT_EQ(Metric("sibyl_annotator_judge_reachable"), 0);
  EXPECT_GE(done(), 5);
  EXPECT_LE(done(), 5 + 1) << "those in flight, and no more";
  EXPECT_THAT(judge_->waits_for(), HasSubstr("refuses every query"));
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

// ---- queries that always fail, while the server answers all else

TEST_F(OpenAiJudgeTest, AsManyPoisonedQueriesAsMayBeInFlightDoNotStopTheOthers) {
  Start(WithFaults(Faults({})));
  std::vector<std::string> captions = Captions("500", 8);
  for (const std::string& caption : Captions("fine", 100)) captions.push_back(caption);
  const auto verdicts = AskAll(captions);
  EXPECT_EQ(Ended(v1::OUTCOME_FAILED, 0, 8), 8);
  EXPECT_EQ(Ended(v1::OUTCOME_ANSWERED, 8), 100);
  EXPECT_THAT(verdicts[0].reason, AllOf(HasSubstr("given up after 5 tries"), HasSubstr("500"), HasSubstr("crash")));
  EXPECT_LE(Requests("unavailable"), 8 * 5);
}

TEST_F(OpenAiJudgeTest, OnePoisonedQueryAloneIsNotAskedForEver) {
  Start(WithFaults(Faults({})));
  EXPECT_EQ(AskOne("500 #0").outcome, v1::OUTCOME_FAILED);
  EXPECT_EQ(Requests("unavailable"), 5);
  EXPECT_LE(llm_->probes(), 1 + 5);
}

TEST_F(OpenAiJudgeTest, QueriesThatNeverEndDoNotStopTheOthers) {
  config_.set_timeout_seconds(0.2);
  Start(WithFaults(Faults({})));
  std::vector<std::string> captions = Captions("never", 8);
  for (const std::string& caption : Captions("fine", 100)) captions.push_back(caption);
  AskAll(captions);
  EXPECT_EQ(Ended(v1::OUTCOME_FAILED, 0, 8), 8);
  EXPECT_EQ(Ended(v1::OUTCOME_ANSWERED, 8), 100);
}

TEST_F(OpenAiJudgeTest, QueriesThatHangNarrowNotTheWayForTheOthers) {
  config_.set_timeout_seconds(1);
  Start(WithFaults(Faults({})));
  std::vector<std::string> captions = Captions("never", 3);
  for (const std::string& caption : Captions("fine", 300)) captions.push_back(caption);
  Begin(captions);
  ASSERT_TRUE(Eventually([&] { return Ended(v1::OUTCOME_ANSWERED, 3) == 300; }));
  EXPECT_LE(Requests("timeout"), 3) << "answered beside the first requests that hang";
  EXPECT_GE(Metric("sibyl_annotator_concurrency_limit"), 8);
}

TEST_F(OpenAiJudgeTest, FortyFaultsInFrontOfManyHealthyQueriesHoldUpNobody) {
  config_.set_timeout_seconds(0.2);
  const auto faults = Faults(absl::Milliseconds(20));
  Start(WithFaults(faults));
  std::vector<std::string> captions;
  for (int i = 0; captions.size() < 40; ++i) {
    for (const auto& [name, fault] : faults) captions.push_back(absl::StrCat(name, " #", i));
  }
  const size_t bad = captions.size();
  for (const std::string& caption : Captions("fine", 422)) captions.push_back(caption);
  AskAll(captions);
  EXPECT_EQ(Ended(v1::OUTCOME_ANSWERED, bad), 422);
}

TEST_F(OpenAiJudgeTest, EveryFaultEndsAsItShouldAndItsReasonIsKept) {
  config_.set_timeout_seconds(0.2);
  patience_.most_rate_limited = 4;
  for (const auto& [name, fault] : Faults(absl::Milliseconds(20))) {
    SCOPED_TRACE(name);
    judge_ = nullptr;
    Start(WithFaults({{name, fault}}));
    AskAll({name + " #0", "fine #0", "fine #1"});
    MutexLock lock(mutex_);
    EXPECT_EQ(verdicts_[0].outcome, fault.fate == Fate::kLabelled     ? v1::OUTCOME_ANSWERED
                                    : fault.fate == Fate::kUnparsable ? v1::OUTCOME_UNPARSABLE
                                                                      : v1::OUTCOME_FAILED);
    EXPECT_EQ(verdicts_[0].reason.empty(), fault.fate == Fate::kLabelled);
    EXPECT_EQ(verdicts_[0].raw.empty(), name == "null content");
    EXPECT_EQ(verdicts_[1].outcome, v1::OUTCOME_ANSWERED);
    EXPECT_EQ(verdicts_[2].outcome, v1::OUTCOME_ANSWERED);
    // libcurl sends a request again whose connection was closed before a byte of the answer came.
    EXPECT_LE(llm_->calls(), (2 + 5) * (name == "429" || name == "closed connection" ? 2 : 1));
    if (name == "refusal") {
      EXPECT_EQ(verdicts_[0].raw, "I cannot help with that.");
    }
    if (name == "content filter") {
      EXPECT_THAT(verdicts_[0].raw, HasSubstr("content_filter"));
    }
  }
}

TEST_F(OpenAiJudgeTest, OnlyBadQueriesAreAskedABoundedNumberOfTimes) {
  Start(WithFaults(Faults({})));
  for (const Verdict& verdict : AskAll(Captions("400", 12))) EXPECT_EQ(verdict.outcome, v1::OUTCOME_FAILED);
  EXPECT_LE(llm_->calls(), 12 * 5);
}

// ---- outages

TEST_F(OpenAiJudgeTest, AnOutageOfAnyKindCostsFewRequestsAndLosesNothing) {
  const std::map<std::string, Reply> outages = {
      {"503", {.status = 503, .body = "overloaded"}},
      {"429", {.status = 429, .body = "slow down"}},
      {"429, Retry-After", {.status = 429, .body = "slow down", .headers = "Retry-After: 1\r\n"}},
      {"never", {.hang = true}},
      {"closed connection", {.reset = true}},
      {"garbage", {.body = "<html>"}},
      {"no quota", {.status = 429, .body = R"({"error":{"code":"insufficient_quota"}})"}},
      {"401", {.status = 401, .body = "{}"}}};
  config_.set_timeout_seconds(0.2);
  patience_.first_quota_wait = absl::Milliseconds(20);
  patience_.longest_quota_wait = absl::Milliseconds(50);
  for (const auto& entry : outages) {
    const std::string& name = entry.first;
    const Reply& outage = entry.second;
    SCOPED_TRACE(name);
    judge_ = nullptr;
    std::atomic<bool> down = false;
    std::atomic<int> queries = 0;
    Start([&](const Call& call) {
      if (!call.probe && ++queries == 50) down = true;
      if (down) return outage;
      return call.probe ? FakeLlm::ObeysSchemas() : FakeLlm::Says("Label: helpful");
    });
    Begin(Captions("c", 200));
    ASSERT_TRUE(Eventually([&] { return down.load(); }));
    // Long enough for every one of the pauses between two probes.
    const int before = llm_->probes();
    ASSERT_TRUE(Eventually([&] { return llm_->probes() >= before + (name == "429, Retry-After" ? 0 : 8); }));
    if (name == "429, Retry-After") {
      ASSERT_TRUE(Eventually([&] { return Requests("rate_limited") >= 9; }));
    }
    EXPECT_THAT(judge_->waits_for(), Not(HasSubstr("limits")));
    down = false;
    ASSERT_TRUE(AllDone());
    EXPECT_EQ(Ended(v1::OUTCOME_ANSWERED), 200);
    EXPECT_LE(queries, 200 + 20) << "1.1 requests a query";
  }
}

TEST_F(OpenAiJudgeTest, ARequestThatHangsSinceBeforeTheOutageKeepsNoOtherBack) {
  std::atomic<bool> hang = true;
  Start([&](const Call& call) {
    if (call.probe) return FakeLlm::ObeysSchemas();
    if (FakeLlm::Caption(call) == "hangs") return Reply{.hang = true};
    return hang ? Reply{.status = 500, .body = "down"} : FakeLlm::Says("Label: helpful");
  });
  std::vector<std::string> captions = Captions("c", 20);
  captions.insert(captions.begin(), "hangs");
  Begin(captions);
  ASSERT_TRUE(Eventually([&] { return Requests("unavailable") >= 6; }));
  hang = false;
  EXPECT_TRUE(Eventually([&] { return Ended(v1::OUTCOME_ANSWERED) == 20; }));
}

TEST_F(OpenAiJudgeTest, AnAccountWithoutQuotaIsToldFromTooManyRequests) {
  patience_.first_quota_wait = absl::Hours(1);
  Start(WithProbes([](const Call&) {
    return Reply{.status = 429,
                 .body = R"({"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}})"};
  }));
  Begin(Captions("c", 50));
  ASSERT_TRUE(Eventually([&] { return Metric("sibyl_annotator_asking_paused", "server_quota") == 1; }));
  EXPECT_THAT(judge_->waits_for(), AllOf(HasSubstr("no quota left"), HasSubstr("127.0.0.1")));
  EXPECT_EQ(Requests("rate_limited"), 0);
  EXPECT_LE(llm_->calls(), 8) << "those in flight";
  EXPECT_EQ(done(), 0);
}

// ---- limits

TEST_F(OpenAiJudgeTest, TheMoneyOfADayIsNotExceededAndThePauseIsSaid) {
  config_.add_prices("tiny 1000000 1000000");  // a query of 20 and 4 tokens costs 24, and is expected to cost more
  config_.set_money_per_day(2000);
  Start(WithProbes([](const Call&) { return FakeLlm::Says("Label: helpful"); }));
  std::atomic<double> cost = 0;
  judge_->Report({[&](const RequestEnd& end) { cost = cost + end.cost; }, nullptr}, "",
                 {{absl::StrCat("127.0.0.1:", llm_->port()), 100}});
  Begin(Captions("c", 500));
  ASSERT_TRUE(Eventually([&] { return Metric("sibyl_annotator_asking_paused", "money") == 1 || done() == 500; }));
  EXPECT_LT(done(), 500);
  EXPECT_LE(cost, 2000);
  EXPECT_GT(cost, 1000);
  EXPECT_THAT(judge_->waits_for(), HasSubstr("money_per_day"));
}

TEST_F(OpenAiJudgeTest, RequestsAMinuteAreHeldBackAndSaid) {
  config_.set_requests_per_minute(60);
  Start(WithProbes([](const Call&) { return FakeLlm::Says("Label: helpful"); }));
  Begin(Captions("c", 500));
  ASSERT_TRUE(Eventually([&] { return Metric("sibyl_annotator_asking_paused", "limits") == 1; }));
  EXPECT_THAT(judge_->waits_for(), HasSubstr("limits of requests and tokens a minute"));
  EXPECT_LE(llm_->calls(), 10) << "a twentieth at once";
}

// ---- several servers

TEST_F(OpenAiJudgeTest, ServersShareQueriesByWeightAndOneThatIsAwayLeavesItsShare) {
  std::atomic<bool> down = false;
  const auto handler = [](const Call& call) {
    return call.probe ? FakeLlm::ObeysSchemas() : FakeLlm::Says("Label: helpful");
  };
  FakeLlm small(handler);
  FakeLlm large([&](const Call& call) { return down ? Reply{.status = 503, .body = "away"} : handler(call); });
  config_.add_endpoints(small.url());
  config_.add_endpoints(large.url() + " weight=3 model=other-name");
  Start("");
  ASSERT_TRUE(Eventually([&] { return small.probes() == 1 && large.probes() == 1; }));
  AskAll({"first"});
  const int small_before = small.calls(), large_before = large.calls();
  for (const std::string& caption : Captions("a", 40)) AskOne(caption);
  EXPECT_NEAR(small.calls() - small_before, 10, 2);
  EXPECT_NEAR(large.calls() - large_before, 30, 2);
  AskAll(Captions("a", 400));
  EXPECT_EQ(Ended(v1::OUTCOME_ANSWERED), 400);
  down = true;
  AskAll(Captions("b", 100));
  EXPECT_EQ(Ended(v1::OUTCOME_ANSWERED), 100) << "the other server answers them";
  EXPECT_EQ(judge_->waits_for(), "");
  EXPECT_EQ(judge_->name(), "openai:tiny");
}

TEST_F(OpenAiJudgeTest, EveryRequestsTokensAreReported) {
  config_.add_prices("tiny 1 10");
  Start(WithProbes([](const Call& call) {
    if (FakeLlm::Caption(call) == "empty") return FakeLlm::Says("");
    if (FakeLlm::Caption(call) == "long") {
      return Reply{.status = 400, .body = R"({"error":"too long","usage":{"prompt_tokens":7,"completion_tokens":0}})"};
    }
    return FakeLlm::Says("Label: helpful");
  }));
  Mutex mutex;
  std::map<std::string, std::pair<int, uint64_t>> ends;  // requests and tokens by result
  double cost = 0;
  const auto on_request = [&](const RequestEnd& end) {
    MutexLock lock(mutex);
    auto& [requests, tokens] = ends[end.goal.empty() ? "probe" : end.result];
    ++requests;
    tokens += end.prompt_tokens + end.completion_tokens;
    cost += end.cost;
    EXPECT_EQ(end.model, "tiny");
    if (!end.goal.empty()) {
      EXPECT_EQ(end.goal, "find the ball");
    }
  };
  judge_->Report({on_request, nullptr}, "", {});
  const auto verdicts = AskAll({"empty", "long", "fine"});
  EXPECT_EQ(verdicts[0].prompt_tokens, 60u) << "of its three requests";
  EXPECT_EQ(verdicts[0].completion_tokens, 12u);
  EXPECT_DOUBLE_EQ(verdicts[2].cost, (20 + 40) / 1e6);
  MutexLock lock(mutex);
  EXPECT_EQ(ends["empty"], (std::pair<int, uint64_t>(3, 72)));
  EXPECT_EQ(ends["rejected"], (std::pair<int, uint64_t>(1, 7)));
  EXPECT_EQ(ends["answered"], (std::pair<int, uint64_t>(1, 24)));
}

TEST_F(OpenAiJudgeTest, WhatTheServerSaysOfItsModelIsToldAndAChangeIsToo) {
  std::atomic<bool> down = false;
  llm_ = std::make_unique<FakeLlm>([&](const Call& call) {
    if (down) return Reply{.status = 500, .body = "down"};
    return call.probe ? FakeLlm::ObeysSchemas() : FakeLlm::Says("Label: helpful");
  });
  llm_->set_models(R"({"data":[{"id":"/models/tiny.Q4_1.gguf","meta":{"size":100,"n_params":300}}]})");
  Start(llm_->url());
  Mutex mutex;
  std::vector<std::string> served;
  const auto on_served = [&](const std::string& is) {
    MutexLock lock(mutex);
    served.push_back(is);
  };
  const auto times = [&] {
    MutexLock lock(mutex);
    return served.size();
  };
  judge_->Report({nullptr, on_served}, "", {});
  // The first probe may have been over before.
  const auto outage = [&] {
    down = true;
    Begin(Captions("c", 10));
    Eventually([&] { return Metric("sibyl_annotator_breaker_state") == 2; });
    down = false;
    EXPECT_TRUE(AllDone());
  };
  outage();
  ASSERT_TRUE(Eventually([&] { return times() == 1; }));
  outage();
  llm_->set_models(R"({"data":[{"id":"/models/tiny.Q8_0.gguf","meta":{"size":200,"n_params":300}}]})");
  outage();
  ASSERT_TRUE(Eventually([&] { return times() == 2; }));
  MutexLock lock(mutex);
  EXPECT_THAT(served[0], AllOf(HasSubstr("tiny"), HasSubstr("json_schema"), HasSubstr("tiny.Q4_1.gguf"),
                               HasSubstr("\"size\":100"), Not(HasSubstr("/models"))));
  EXPECT_THAT(served[1], HasSubstr("Q8_0"));
}

TEST_F(OpenAiJudgeTest, AServerOfAnotherModelIsNotAsked) {
  const auto handler = [](const Call& call) {
    return call.probe ? FakeLlm::ObeysSchemas() : FakeLlm::Says("Label: helpful");
  };
  FakeLlm first(handler), second(handler);
  first.set_models(R"({"data":[{"id":"tiny","meta":{"size":100}}]})");
  second.set_models(R"({"data":[{"id":"tiny","meta":{"size":200}}]})");
  config_.add_endpoints(first.url());
  config_.add_endpoints(second.url());
  std::string kept;
  Mutex mutex;
  Start("");
  judge_->Report(
      {nullptr,
       [&](const std::string& is) {
         MutexLock lock(mutex);
         kept = is;
       }},
      R"(tiny; constrained by response_format json_schema, log-probabilities not given; {"id":"tiny","size":100})", {});
  ASSERT_TRUE(Eventually([&] { return first.probes() == 1 && second.probes() == 1; }));
  AskAll(Captions("a", 20));
  const int stray = second.calls();  // until it said what it serves
  AskAll(Captions("b", 100));
  EXPECT_EQ(second.calls(), stray);
  MutexLock lock(mutex);
  EXPECT_EQ(kept, "") << "the first server is what it was";
}

TEST_F(OpenAiJudgeTest, ToldToAskNoMoreItGivesBackWhatItHasNotAsked) {
  std::atomic<bool> release = false;
  config_.set_max_in_flight(2);
  Start(WithProbes([&](const Call&) {
    Eventually([&] { return release.load(); });
    return FakeLlm::Says("Label: helpful");
  }));
  Begin(Captions("c", 50));
  ASSERT_TRUE(Eventually([&] { return llm_->calls() >= 1; }));
  judge_->StopAsking();
  ASSERT_TRUE(Eventually([&] { return done() >= 48; }));
  release = true;
  ASSERT_TRUE(AllDone());
  MutexLock lock(mutex_);
  int asked = 0;
  for (const Verdict& verdict : verdicts_) asked += verdict.asked;
  EXPECT_GE(asked, 1);
  EXPECT_LE(asked, 2);
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
