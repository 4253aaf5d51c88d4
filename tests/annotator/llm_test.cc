// A real language model behind the real server: SmolLM2-135M through sibyl-llm-server, asked in every form. `make
// test-llm` asks it 2,000 queries; the ordinary tests, a few (SIBYL_LLM_QUERIES).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "annotator/judges/embedded.h"
#include "annotator/judges/openai_judge.h"
#include "common/config.h"
#include "tests/annotator/queries.h"
#include "tests/process.h"

namespace sibyl::annotator {
namespace {

using ::testing::HasSubstr;

int Queries() {
  const char* queries = std::getenv("SIBYL_LLM_QUERIES");
  return queries == nullptr ? 24 : std::atoi(queries);
}

constexpr char kWords[] = "[words]\nunhelpful: no\nhelpful: yes\n";
constexpr char kExamples[] =
    "[example]\ngoal: Bake bread.\ncaption: You buy flour.\nreasoning: Bread is made of flour.\nanswer: helpful\n"
    "[example]\ngoal: Bake bread.\ncaption: You drop the dough.\nreasoning: Dough on the floor is lost.\nanswer: "
    "unhelpful\n";

// One server for all tests: loading the model takes a second of processor time.
class LlmTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = new Process({SIBYL_BIN_DIR "/sibyl-llm-server", "--port=0", "--nice=5", "--context=1024"});
    port_ = server_->NumberAfter("at http://127.0.0.1:");
    ASSERT_GT(port_, 0) << server_->log();
  }
  static void TearDownTestSuite() {
    server_->Signal(SIGTERM);
    EXPECT_EQ(server_->Wait(), 0) << server_->log();
    delete server_;
    server_ = nullptr;
  }

  // Verdicts of all captions, by a prompt.
  std::vector<Verdict> Ask(const std::string& prompt, const std::vector<std::string>& captions) {
    v1::Experiment experiment;
    experiment.mutable_annotator()->set_judge(v1::JUDGE_KIND_EMBEDDED);
    FillDefaults(&experiment);
    auto& config = *experiment.mutable_annotator();
    config.mutable_openai()->set_prompt_file(folder_.Write("p.txt", prompt));
    config.mutable_openai()->set_max_tokens(40);
    auto judge = OpenAiJudge::ByPrompt(EmbeddedServer(config, absl::StrCat("127.0.0.1:", port_)), host_);
    EXPECT_TRUE(judge.ok()) << judge.status();
    Mutex mutex;
    std::vector<Verdict> verdicts(captions.size());
    size_t done = 0;
    for (size_t i = 0; i < captions.size(); ++i) {
      const v1::Query query = Classify(captions[i], "Bake bread.");
      EXPECT_TRUE((*judge)->Check(query).ok()) << (*judge)->Check(query);
      (*judge)->Answer(query, [&, i](Verdict verdict) {
        MutexLock lock(mutex);
        verdicts[i] = std::move(verdict);
        ++done;
      });
    }
    const absl::Time until = absl::Now() + kPatience * absl::Minutes(10);
    bool all = false;
    while (!all && absl::Now() < until) {
      absl::SleepFor(absl::Milliseconds(5));
      MutexLock lock(mutex);
      all = done == captions.size();
    }
    judge->reset();  // nothing calls back from here on
    EXPECT_TRUE(all) << done << " of " << captions.size() << " queries were answered";
    return verdicts;
  }

  static Process* server_;
  static int port_;
  TemporaryFolder folder_;
  TestHost host_{Clock::Real()};
};
Process* LlmTest::server_ = nullptr;
int LlmTest::port_ = 0;

double Good(const Verdict& verdict) {
  EXPECT_EQ(verdict.outcome, v1::OUTCOME_ANSWERED) << verdict.raw;
  const std::vector<float> distribution = Distribution(verdict.answer);
  return distribution.size() == 2 ? distribution[1] : -1;
}

TEST_F(LlmTest, NoneOfManyQueriesIsLostAndEachHasASoftLabel) {
  std::vector<std::string> captions;
  for (int i = 0; i < Queries(); ++i) captions.push_back(absl::StrCat("You buy ", i, " eggs."));
  const auto verdicts =
      Ask(absl::StrCat(kWords, kExamples, "[text]\nGoal: {goal}\nEvent: {caption}\nHelpful: {answer}\n"), captions);
  for (const Verdict& verdict : verdicts) {
    const double good = Good(verdict);
    EXPECT_GT(good, 0);
    EXPECT_LT(good, 1);
    EXPECT_LT(verdict.answer.choice().outside(), 0.2) << "the examples make the model answer with the words";
    EXPECT_EQ(verdict.completion_tokens, 1u);
  }
}

TEST_F(LlmTest, ATextWithExamplesTellsAHelpfulEventFromAHarmfulOne) {
  const auto verdicts =
      Ask(absl::StrCat(kWords, kExamples, "[text]\nGoal: {goal}\nEvent: {caption}\nHelpful: {answer}\n"),
          {"You knead the dough.", "You burn the dough."});
  EXPECT_GT(Good(verdicts[0]), Good(verdicts[1]));
}

TEST_F(LlmTest, AChatIsHeldToTheSchemaAndGivesLogProbabilities) {
  const auto verdicts =
      Ask("[system]\nYou judge events.\n[user]\nGoal: {goal}\nEvent: {caption}\nOf {labels}, which is it? Write at "
          "most five "
          "words in each field.\n",
          {"You knead the dough."});
  // What so small a model writes may end nowhere; then it is asked for the label alone.
  EXPECT_THAT(verdicts[0].raw, HasSubstr("\"label\"")) << "the server holds it to the schema";
  const double good = Good(verdicts[0]);
  EXPECT_GT(good, 0) << "a soft label: log-probabilities are found inside the JSON, whatever fence is around it";
  EXPECT_LT(good, 1);
}

TEST_F(LlmTest, ADirectVerdictInAChat) {
  const auto verdicts =
      Ask(absl::StrCat(kWords, kExamples, "[user]\nGoal: {goal}\nEvent: {caption}\nHelpful?\n[assistant]\n{answer}\n"),
          {"You knead the dough."});
  const double good = Good(verdicts[0]);
  EXPECT_GT(good, 0);
  EXPECT_LT(good, 1);
}

TEST_F(LlmTest, AReasonedVerdict) {
  for (const char* sections :
       {"[text]\nGoal: {goal}\nEvent: {caption}\nReason: {reasoning}\nHelpful: {answer}\n",
        "[user]\nGoal: {goal}\nEvent: "
        "{caption}\nWhy?\n[assistant]\n{reasoning}\n[user]\nHelpful?\n[assistant]\n{answer}\n"}) {
    const auto verdicts = Ask(absl::StrCat(kWords, kExamples, sections), {"You knead the dough."});
    Good(verdicts[0]);
    EXPECT_GT(verdicts[0].completion_tokens, 1u);
    EXPECT_THAT(verdicts[0].raw, HasSubstr("\n")) << "its reasons, and then its verdict";
  }
}

}  // namespace
}  // namespace sibyl::annotator
