// Likeness of captions to the goal, by the embeddings of a real HTTP server that fakes a model. encoder_test.cc has the
// real one.

#include "annotator/judges/similarity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "annotator/judges/openai_judge.h"
#include "tests/annotator/fake_llm.h"
#include "tests/annotator/queries.h"

namespace sibyl::annotator {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::HasSubstr;

TEST(Cosine, IsTheFormulas) {
  EXPECT_NEAR(Cosine({3, 4}, {3, 4}), 1, 1e-12);
  EXPECT_NEAR(Cosine({3, 4}, {-4, 3}), 0, 1e-12);
  EXPECT_NEAR(Cosine({1, 1}, {-2, -2}), -1, 1e-12);
  EXPECT_NEAR(Cosine({1, 0, 0}, {1, 1, 1}), 1 / std::sqrt(3), 1e-7);
  EXPECT_EQ(Cosine({0, 0}, {1, 2}), 0);
}

TEST(SimilarityVerdict, GivesTheGoodLabelTheCosine) {
  EXPECT_THAT(Distribution(SimilarityVerdict(0.75, 2).answer),
              ElementsAre(FloatNear(0.25, 1e-6), FloatNear(0.75, 1e-6)));
  EXPECT_THAT(Distribution(SimilarityVerdict(-0.5, 2).answer), ElementsAre(1, 0));
  EXPECT_THAT(Distribution(SimilarityVerdict(1.0000001, 3).answer), ElementsAre(0, 0, 1));
}

// A server whose embedding of a text is [its length, 10].
FakeLlm::Reply Lengths(const FakeLlm::Call& call) {
  EXPECT_THAT(call.headers, HasSubstr("POST /v1/embeddings"));
  EXPECT_EQ(call.request["model"], "tiny");
  nlohmann::json body = {{"data", nlohmann::json::array()}, {"usage", {{"prompt_tokens", 9}}}};
  const auto& texts = call.request["input"];
  for (size_t i = texts.size(); i-- > 0;) {  // the other way round, as the index says
    body["data"].push_back({{"index", i}, {"embedding", {texts[i].get<std::string>().size(), 10}}});
  }
  return {.body = body.dump()};
}

class EmbeddingTest : public ::testing::Test {
 protected:
  void Start(FakeLlm::Handler handler) {
    setenv("no_proxy", "127.0.0.1", 1);
    server_ = std::make_unique<FakeLlm>(std::move(handler));
    v1::OpenAiConfig config;
    config.set_url(server_->url());
    config.set_model("tiny");
    config.set_api_key_env("SIBYL_TEST_KEY");
    config.set_max_in_flight(4);
    config.set_timeout_seconds(10);
    OpenAiPatience patience;
    patience.first_wait = absl::Milliseconds(5);
    patience.longest_wait = absl::Milliseconds(50);
    judge_ = *OpenAiJudge::BySimilarity(config, host_, patience);
  }
  Verdict Ask(const std::string& caption, const std::string& goal) {
    v1::Query query = Classify(caption);
    query.set_goal(goal);
    Mutex mutex;
    std::optional<Verdict> verdict;
    judge_->Answer(query, [&](Verdict v) {
      MutexLock lock(mutex);
      verdict = std::move(v);
    });
    EXPECT_TRUE(Eventually([&] {
      MutexLock lock(mutex);
      return verdict.has_value();
    }));
    MutexLock lock(mutex);
    return verdict.value_or(Verdict());
  }

  TestHost host_{Clock::Real()};
  std::unique_ptr<FakeLlm> server_;
  std::unique_ptr<OpenAiJudge> judge_;
};

TEST_F(EmbeddingTest, TheCosineOfTheServersEmbeddingsIsTheLabel) {
  Start(Lengths);
  EXPECT_THAT(std::string(judge_->Check(Compare("a", "b")).message()), HasSubstr("kind is `compare`"));
  EXPECT_EQ(judge_->name(), "similarity:tiny");
  const Verdict verdict = Ask("1234567890", "12345678901234567890123456789012345678901234567890");
  EXPECT_EQ(verdict.outcome, v1::OUTCOME_ANSWERED);
  const double cosine = (10 * 50 + 10 * 10) / std::sqrt(200.0 * 2600);
  EXPECT_THAT(Distribution(verdict.answer), ElementsAre(FloatNear(1 - cosine, 1e-6), FloatNear(cosine, 1e-6)));
  EXPECT_EQ(verdict.prompt_tokens, 9u);
}

TEST_F(EmbeddingTest, AServerThatIsBusyOrTalksOfSomethingElseIsAskedAgain) {
  std::atomic<int> calls = 0;
  Start([&](const FakeLlm::Call& call) {
    switch (calls++) {
      case 0:
        return FakeLlm::Says("hello");  // no list of embeddings
      case 2:
        return FakeLlm::Reply{.status = 429, .body = "{}"};
      default:
        return Lengths(call);
    }
  });
  EXPECT_EQ(Ask("a", "a").outcome, v1::OUTCOME_ANSWERED);
  EXPECT_GE(calls, 4);
}

}  // namespace
}  // namespace sibyl::annotator
