// Motif's way with the real programs: what a run without a judge saw, labels for it, a reward model fitted to them, and
// a run that it rewards.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/runtime/files.h"

namespace sibyl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Ended {
  int status = -1;
  std::string output;  // standard output, and where asked for, standard error
};

Ended Sibyl(const std::string& arguments, bool errors = false) {
  Ended ended;
  FILE* pipe = popen(absl::StrCat(SIBYL_BIN_DIR "/sibyl ", arguments, errors ? " 2>&1" : " 2>/dev/null").c_str(), "r");
  char bytes[4096];
  for (size_t n; (n = fread(bytes, 1, sizeof bytes, pipe)) > 0;) ended.output.append(bytes, n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) ended.status = WEXITSTATUS(status);
  return ended;
}

class OfflineTest : public testing::Test {
 protected:
  OfflineTest() {
    std::filesystem::create_directories(folder_);
    EXPECT_TRUE(
        WriteFileDurably(Path("door.textproto"), absl::StrCat(R"(
        environment { name: "minigrid/DoorKey-5x5" }
        total_steps: 20480
        actor { environments: 16 }
        learner { batch_size: 512 unroll_length: 16 }
        reward_model {
          goal: "open the door"
          training { text_length: 27 learning_rate: 1e-3 passes: 10 }
        }
        annotator { judge: JUDGE_KIND_RULES rules_file: ")",
                                                              SIBYL_SOURCE_DIR, R"(/configs/rules/minigrid.rules" }
    )"))
            .ok());
  }
  ~OfflineTest() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return absl::StrCat(folder_, "/", name); }
  nlohmann::json Summary(const std::string& run) const {
    return nlohmann::json::parse(ReadFile(Path(run + "/summary.json")).value_or("{}"));
  }
  // Trains without a judge once for all tests, and puts the captions that were seen into the test's folder. Gives their
  // number.
  size_t Record() {
    static const std::string captions = Captions();
    EXPECT_TRUE(WriteFileDurably(Path("captions.jsonl"), captions).ok());
    size_t count = 0;
    bool key = false;
    for (absl::string_view line : absl::StrSplit(captions, '\n', absl::SkipEmpty())) {
      const auto json = nlohmann::json::parse(line);
      EXPECT_GT(json["count"].get<int>(), 0);
      key |= std::string(json["caption"]).find("You pick up the") == 0;
      ++count;
    }
    EXPECT_TRUE(key) << captions;
    return count;
  }
  std::string Captions() const {
    const Ended trained = Sibyl(absl::StrCat("train ", Path("door.textproto"), " --run_dir ", Path("seen"),
                                             " --set reward.intrinsic_coefficient=0"));
    EXPECT_EQ(trained.status, 0) << trained.output;
    const Ended captions = Sibyl("captions " + Path("seen"));
    EXPECT_EQ(captions.status, 0);
    return captions.output;
  }

  const std::string folder_ = testing::TempDir() + "offline_test." + std::to_string(getpid());
};

TEST_F(OfflineTest, RecordedCaptionsAreComparedAndWhatIsFittedToThemRewardsARun) {
  const size_t captions = Record();
  ASSERT_GE(captions, 5u);
  const std::string ranking = " --set reward_model.kind=REWARD_MODEL_KIND_RANKING";
  const std::string annotate = absl::StrCat("annotate ", Path("door.textproto"), " --captions ", Path("captions.jsonl"),
                                            " --labels ", Path("labels"), " --pairs 200", ranking);
  const Ended annotated = Sibyl(annotate);
  ASSERT_EQ(annotated.status, 0) << annotated.output;
  const auto said = nlohmann::json::parse(annotated.output);
  EXPECT_EQ(said["captions"], captions);
  EXPECT_EQ(said["asked"], std::min<size_t>(200, captions * (captions - 1) / 2));
  EXPECT_EQ(said["answered"], said["asked"]);
  // Asked again, nothing is.
  const Ended again = Sibyl(annotate);
  EXPECT_EQ(again.output, annotated.output);

  const Ended fitted =
      Sibyl(absl::StrCat("fit-reward ", Path("door.textproto"), " --labels ", Path("labels"), ranking));
  ASSERT_EQ(fitted.status, 0) << fitted.output;
  const auto fit = nlohmann::json::parse(fitted.output);
  EXPECT_EQ(fit["labels"], said["answered"]);
  EXPECT_GT(fit["training_steps"].get<int>(), 0);
  const std::string weights = fit["weights_file"];
  ASSERT_TRUE(std::filesystem::exists(weights));

  const std::string frozen = absl::StrCat("train ", Path("door.textproto"), ranking,
                                          " --set reward_model.weights_file=", weights, " --run_dir ");
  const Ended trained = Sibyl(frozen + Path("frozen"));
  ASSERT_EQ(trained.status, 0) << trained.output;
  const auto summary = Summary("frozen");
  EXPECT_EQ(summary["judge"], "weights:reward_model.safetensors");
  EXPECT_EQ(summary["captions_asked"], 0);
  EXPECT_GT(summary["intrinsic_share_of_reward"].get<double>(), 0);
  EXPECT_FALSE(std::filesystem::exists(Path("frozen/logs/annotator.log"))) << "there is no judge";
  // The run has its own copy, so that it goes on whatever becomes of the file.
  std::filesystem::remove(weights);
  const Ended resumed = Sibyl(absl::StrCat("train --resume --run_dir ", Path("frozen"), " --set total_steps=24576"));
  EXPECT_EQ(resumed.status, 0) << resumed.output;
  EXPECT_GE(Summary("frozen")["steps"].get<int>(), 24576);
}

TEST_F(OfflineTest, AClassifierIsFittedToo) {
  Record();
  const std::string classification = " --set reward_model.kind=REWARD_MODEL_KIND_CLASSIFICATION";
  const std::string config = Path("door.textproto");
  ASSERT_EQ(Sibyl(absl::StrCat("annotate ", config, " --captions ", Path("captions.jsonl"), " --labels ",
                               Path("labels"), classification))
                .status,
            0);
  ASSERT_EQ(
      Sibyl(absl::StrCat("fit-reward ", config, " --labels ", Path("labels"), " --held_out 0", classification)).status,
      0);
  const std::string weights = " --set reward_model.weights_file=" + Path("labels/reward_model.safetensors");
  const Ended trained = Sibyl(absl::StrCat("train ", config, classification, weights, " --run_dir ", Path("frozen")));
  ASSERT_EQ(trained.status, 0) << trained.output;
  EXPECT_GT(Summary("frozen")["intrinsic_share_of_reward"].get<double>(), 0);

  // Weights are of their goal, and of their kind.
  const Ended goal = Sibyl(absl::StrCat("train ", config, classification, weights, " --run_dir ", Path("other"),
                                        " --set 'reward_model.goal=close the door'"),
                           /*errors=*/true);
  EXPECT_EQ(goal.status, 2);
  EXPECT_THAT(goal.output, AllOf(HasSubstr("open the door"), HasSubstr("close the door")));
}

TEST_F(OfflineTest, NamesWhatIsWrongAndTheRemedy) {
  ASSERT_TRUE(WriteFileDurably(Path("captions.jsonl"), "{\"caption\": \"a\"}\nhello\n").ok());
  const std::string config = Path("door.textproto"), labels = " --labels " + Path("labels");
  const struct {
    std::string arguments;
    std::vector<std::string> says;
  } wrong[] = {
      {"captions " + Path("nowhere"), {"nowhere", "no checkpoint"}},
      {"captions", {"sibyl captions runs/NAME"}},
      {"annotate " + config + labels, {"--captions is missing", "sibyl captions"}},
      {"annotate " + config + " --captions x", {"--labels is missing"}},
      {"annotate " + config + labels + " --captions " + Path("none"), {"none", "sibyl captions RUN"}},
      {"annotate " + config + labels + " --captions " + Path("captions.jsonl"), {"line 2", "caption"}},
      {"fit-reward " + config + labels, {"REWARD_MODEL_KIND_RETRIEVAL", "REWARD_MODEL_KIND_RANKING"}},
      {"fit-reward " + config + labels + " --set reward_model.kind=REWARD_MODEL_KIND_RANKING",
       {"open the door", "sibyl annotate"}},
      {"train " + config + " --run_dir " + Path("run") + " --set reward_model.weights_file=/x",
       {"reward_model.weights_file", "REWARD_MODEL_KIND_RANKING"}},
      {"train " + config + " --run_dir " + Path("run") +
           " --set reward_model.weights_file=/x --set reward_model.kind=REWARD_MODEL_KIND_RANKING",
       {"reward_model.weights_file", "/x"}},
      {"train " + config + " --run_dir " + Path("run") + " --set reward_model.weights_file=" + config +
           " --set reward_model.kind=REWARD_MODEL_KIND_RANKING",
       {"reward_model.weights_file", "sibyl fit-reward"}},
  };
  for (const auto& [arguments, says] : wrong) {
    const Ended ended = Sibyl(arguments, /*errors=*/true);
    EXPECT_EQ(ended.status, arguments.find("weights_file=/x --set") == std::string::npos ? 2 : 1) << arguments;
    for (const std::string& text : says) EXPECT_THAT(ended.output, HasSubstr(text)) << arguments;
  }
}

}  // namespace
}  // namespace sibyl
