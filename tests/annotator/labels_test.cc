// `sibyl labels`: its formats and statistics, and the program on stores that are open and that are not.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "absl/strings/str_split.h"
#include "annotator/tools/labels_format.h"
#include "annotator/tools/labels_stats.h"
#include "common/protocol.h"
#include "common/rpc/channel.h"
#include "common/runtime/files.h"
#include "sibyl/v1/annotator.grpc.pb.h"
#include "tests/annotator/queries.h"
#include "tests/process.h"
#include "tests/served_metrics.h"

namespace sibyl::annotator {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::Label Labelled(const v1::Query& query, float good, int64_t id) {
  v1::Label label;
  *label.mutable_query() = query;
  label.set_outcome(v1::OUTCOME_ANSWERED);
  label.mutable_answer()->mutable_choice()->add_distribution(1 - good);
  label.mutable_answer()->mutable_choice()->add_distribution(good);
  label.set_judge("openai:m");
  label.set_prompt("p.txt@1");
  label.set_raw("Label: \"x\",\nyes");
  label.set_query_id(id);
  label.set_cost(0.5);
  return label;
}

std::vector<v1::Label> ReadAll(const std::string& text, bool csv, const ImportDefaults& defaults,
                               absl::Status* status) {
  std::vector<v1::Label> labels;
  std::istringstream in(text);
  const auto keep = [&](v1::Label label) {
    labels.push_back(std::move(label));
    return absl::OkStatus();
  };
  *status = csv ? ReadCsv(in, defaults, keep) : ReadJsonLines(in, defaults, keep);
  return labels;
}

TEST(LabelFormats, WhatIsExportedIsImportedAsItWas) {
  v1::Label label = Labelled(WithContext(Classify("a \"red, door\"\nopens"), "night"), 0.75, 3);
  label.set_key(std::string(32, '\xfe'));
  label.set_judge_identity("openai:m\ntemperature=0.1");
  absl::Status status;
  const auto json = ReadAll(LabelJson(label) + "\n", false, {}, &status);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(json.size(), 1u);
  label.clear_query_id();
  EXPECT_EQ(json[0].ShortDebugString(), label.ShortDebugString());
  const auto csv = ReadAll(kCsvHeader + LabelCsv(label), true, {}, &status);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(csv.size(), 1u);
  EXPECT_EQ(csv[0].query().ShortDebugString(), label.query().ShortDebugString());
  EXPECT_EQ(csv[0].raw(), label.raw());
  EXPECT_THAT(Distribution(csv[0].answer()), ElementsAre(0.25, 0.75));
}

TEST(LabelFormats, RowsOfLessAreReadAndWhatIsMissingIsNamedWithItsLine) {
  const ImportDefaults defaults = {"win", {"bad", "good"}, "person:ann", ""};
  absl::Status status;
  auto labels = ReadAll("caption,label\na key,good\n\"a, wall\",bad\n", true, defaults, &status);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(labels.size(), 2u);
  EXPECT_EQ(CaptionOf(labels[1].query()), "a, wall");
  EXPECT_THAT(Distribution(labels[1].answer()), ElementsAre(1, 0));
  EXPECT_EQ(labels[0].judge(), "person:ann");
  labels = ReadAll(R"({"first":"a","second":"b","label":"tie"})", false, defaults, &status);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(labels[0].query().kind(), "compare");
  EXPECT_THAT(Distribution(labels[0].answer()), ElementsAre(0, 0, 1));
  ReadAll("caption,label\na,good\nb,great\n", true, defaults, &status);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("line 3"), HasSubstr("great"), HasSubstr("bad, good")));
  ReadAll("caption,label\na\n", true, defaults, &status);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("line 2"), HasSubstr("1 fields")));
  ReadAll("[]\n", false, defaults, &status);
  EXPECT_THAT(status.message(), HasSubstr("line 1 is no JSON object"));
  ReadAll(R"({"caption":"a","label":"good"})", false, {"", {"bad", "good"}, "j", ""}, &status);
  EXPECT_THAT(status.message(), HasSubstr("--goal"));
}

// A NumPy array as numpy.save writes it.
std::string Npy(const std::string& type, const std::string& shape, const std::string& bytes) {
  std::string header = absl::StrCat("{'descr': '", type, "', 'fortran_order': False, 'shape': ", shape, ", }");
  header.resize((10 + header.size() + 64) / 64 * 64 - 10 - 1, ' ');
  header += '\n';
  std::string npy = "\x93NUMPY";
  npy += '\1';
  npy += '\0';
  npy += static_cast<char>(header.size() & 0xff);
  npy += static_cast<char>(header.size() >> 8);
  return npy + header + bytes;
}

TEST(LabelFormats, MotifsPreferencesBecomeComparisons) {
  TemporaryFolder folder;
  std::filesystem::create_directories(folder / "data");
  std::filesystem::create_directories(folder / "preference");
  std::string messages;
  for (const char* message :
       {"You kill the rat!", "", "It's solid stone.", "You see here a ring.", "Same.", "Same.", "A.", "B."}) {
    std::string bytes = message;
    bytes.resize(32, '\0');
    messages += bytes;
  }
  folder.Write("data/message.npy", Npy("|u1", "(4, 2, 1, 32)", messages));
  folder.Write("preference/llama.npy", Npy("|i1", "(4,)", std::string("\0\1\0\2", 4)));
  std::vector<v1::Label> labels;
  const auto keep = [&](v1::Label label) {
    labels.push_back(std::move(label));
    return absl::OkStatus();
  };
  const ImportDefaults defaults = {"score", {}, "openai:llama70b", ""};
  ASSERT_TRUE(ReadMotif(folder.path(), "llama", defaults, keep).ok());
  ASSERT_EQ(labels.size(), 2u) << "without the empty message and the equal ones";
  EXPECT_EQ(labels[0].query().texts().at("second"), "You see here a ring.");
  EXPECT_THAT(Distribution(labels[0].answer()), ElementsAre(0, 1, 0));
  EXPECT_THAT(Distribution(labels[1].answer()), ElementsAre(0, 0, 1));
  folder.Write("preference/short.npy", Npy("|i1", "(3,)", std::string(3, '\0')));
  EXPECT_THAT(std::string(ReadMotif(folder.path(), "short", defaults, keep).message()),
              AllOf(HasSubstr("short.npy"), HasSubstr("[3]"), HasSubstr("[4]")));
  folder.Write("preference/wide.npy", Npy("<f4", "(4,)", std::string(16, '\0')));
  EXPECT_THAT(std::string(ReadMotif(folder.path(), "wide", defaults, keep).message()), HasSubstr("bytes"));
}

TEST(LabelStatistics, RepeatsOrdersPersonsAndGoldAreCounted) {
  LabelStats stats;
  stats.AddGold("key", "helpful");
  stats.AddGold("wall", "unhelpful");
  stats.Add(Labelled(Classify("key"), 0.9, 1));
  stats.Add(Labelled(Classify("wall"), 0.6, 2));
  stats.Add(Labelled(Classify("key"), 0.2, 1));  // a repeat that differs
  v1::Label person = Labelled(Classify("wall"), 0, 2);
  person.set_overridden_by("ann");
  stats.Add(person);
  v1::Label compared = Labelled(Compare("a", "b"), 1, 3);
  compared.mutable_answer()->mutable_choice()->add_distribution(0);
  stats.Add(compared);  // the second, b, is better
  *compared.mutable_query() = Compare("b", "a");
  compared.set_query_id(4);
  stats.Add(compared);  // and now a is
  v1::Label voted = Labelled(Classify("door"), 0.9, 5);
  voted.mutable_answer()->mutable_choice()->add_votes(1);
  voted.mutable_answer()->mutable_choice()->add_votes(4);
  stats.Add(voted);
  stats.Add(Labelled(Classify("door"), 0.8, 6));  // the same question under another identity
  const std::string text = stats.Text({});
  EXPECT_THAT(text, AllOf(HasSubstr("openai:m, p.txt@1"), HasSubstr("agrees with itself    0.000 of 1"),
                          HasSubstr("agrees with persons   0.000 of 1"), HasSubstr("flips with the order  1.000 of 1"),
                          HasSubstr("right by gold         0.000 of 2"), HasSubstr("overridden            1"),
                          HasSubstr("votes for the label   0.800 of 5"), HasSubstr("after a model changed 1.000 of 1"),
                          HasSubstr("AUC by gold           0.000 (95 %"), HasSubstr("calibration error     ")));
}

// ---- the program

class LabelsProgramTest : public ::testing::Test {
 protected:
  LabelsProgramTest() {
    folder_.Write("a.rules", "helpful: key\nabstain: ^Hm\ndefault: unhelpful\n");
    WriteConfig();
  }
  void WriteConfig() {
    config_ = folder_.Write(
        "experiment.textproto",
        absl::StrCat("environment { name: \"debug/counter\" }\nreward_model { goal: \"find the ball\" }\n"
                     "annotator { rules_file: \"a.rules\" ",
                     gold_, " }\n"));
  }
  // Runs `sibyl-labels` and gives what it prints; its status goes to `status_`.
  std::string Labels(const std::string& arguments) {
    const std::string out = folder_ / "out.txt";
    status_ = std::system(absl::StrCat(SIBYL_BIN_DIR "/sibyl-labels ", arguments, " > ", out, " 2>&1").c_str());
    status_ = WEXITSTATUS(status_);
    return *ReadFile(out);
  }
  // The labels of a gold file are the rules' but one.
  std::string WriteGold() {
    gold_ = "gold_file: \"gold.txt\"";
    WriteConfig();
    return folder_.Write("gold.txt",
                         "goal: find the ball\nhelpful: a key\nhelpful: a red key\nunhelpful: a wall\n"
                         "goal: win\nhelpful: a door\n");
  }
  std::unique_ptr<Process> StartAnnotator() {
    auto process = std::make_unique<Process>(std::vector<std::string>{
        SIBYL_BIN_DIR "/sibyl-annotator", "--config=" + config_, "--run_dir=" + folder_ / "run", "--listen=127.0.0.1:0",
        "--metrics_listen=127.0.0.1:0"});
    port_ = process->NumberAfter("(port ");
    EXPECT_GT(port_, 0) << process->log();
    return process;
  }
  void AskAndWait(std::initializer_list<v1::Query> queries) {
    const auto stub = v1::AnnotatorService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", port_)));
    v1::AskResponse response;
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    ASSERT_TRUE(stub->Ask(&context, Request(queries), &response).ok());
    ASSERT_TRUE(Eventually([&] {
      grpc::ClientContext describing;
      v1::DescribeRequest describe;
      describe.set_protocol_version(kProtocolVersion);
      v1::DescribeResponse description;
      return stub->Describe(&describing, describe, &description).ok() && description.waiting() == 0;
    }));
  }
  std::string Run() { return folder_ / "run"; }

  TemporaryFolder folder_;
  std::string config_, gold_;
  int port_ = 0;
  int status_ = 0;
};

TEST_F(LabelsProgramTest, EditsAStoreThatIsOpenThroughItsAnnotatorAndAClosedOneItself) {
  auto annotator = StartAnnotator();
  AskAndWait({Classify("a key"), Classify("a wall"), Classify("Hm.")});
  EXPECT_THAT(Labels("list " + Run()), AllOf(HasSubstr("helpful 1.00"), HasSubstr("a key"), HasSubstr("abstained"),
                                             HasSubstr("the judge abstained"), HasSubstr("3 queries ended, 0 wait")));
  EXPECT_THAT(Labels("override " + Run() + " 2 --label=helpful --by=ann"), HasSubstr("1 label overridden"));
  EXPECT_THAT(Labels("retry " + Run() + " --outcome=abstained"), HasSubstr("1 queries are asked again"));
  EXPECT_THAT(Labels("backup " + Run() + " " + folder_ / "copy.sqlite"), HasSubstr("is a copy"));
  EXPECT_EQ(status_, 0);
  annotator->Signal(SIGTERM);
  EXPECT_EQ(annotator->Wait(), 143);

  EXPECT_THAT(Labels("show " + Run() + " 2"),
              AllOf(HasSubstr("\"overridden_by\":\"ann\""), HasSubstr("\"attempt\":1")));
  EXPECT_THAT(Labels("stats " + Run()),
              AllOf(HasSubstr("rules:a.rules@"), HasSubstr("agrees with persons   0.000 of 1")));
  EXPECT_THAT(Labels("list " + folder_ / "copy.sqlite"), HasSubstr("3 queries ended"));
  EXPECT_THAT(Labels("export " + Run() + " " + folder_ / "labels.jsonl"), HasSubstr("3 labels written"));
  EXPECT_THAT(Labels("export " + Run() + " " + folder_ / "labels.csv"), HasSubstr("3 labels written"));
  // Another store learns all of it, and its annotator asks none of it again.
  std::filesystem::remove_all(Run());
  StartAnnotator()->Signal(SIGTERM);
  EXPECT_THAT(Labels("import " + Run() + " " + folder_ / "labels.jsonl"), HasSubstr("3 labels read, 3 of them new"));
  annotator = StartAnnotator();
  const auto stub = v1::AnnotatorService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", port_)));
  v1::AskResponse response;
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  ASSERT_TRUE(stub->Ask(&context, Request({Classify("a wall")}), &response).ok());
  ASSERT_EQ(response.outcomes(0).kind(), v1::AskOutcome::KIND_KNOWN);
  EXPECT_EQ(response.outcomes(0).label().overridden_by(), "ann");
}

TEST_F(LabelsProgramTest, GoldCaptionsAreAskedAboutOnceAndCounted) {
  const std::string gold = WriteGold();
  auto annotator = StartAnnotator();
  const auto right = [&](Process& process, double count) {
    const int port = process.NumberAfter("metrics on port ");
    return Eventually([&] {
      const std::string text = ServedMetrics(port);
      return absl::StrContains(text, absl::StrCat("sibyl_annotator_gold_captions{right=\"yes\"} ", count)) &&
             absl::StrContains(text, "sibyl_annotator_gold_captions{right=\"no\"} 1");
    });
  };
  EXPECT_TRUE(right(*annotator, 3)) << annotator->log();
  annotator->Signal(SIGTERM);
  EXPECT_EQ(annotator->Wait(), 143);
  EXPECT_THAT(Labels("stats " + Run() + " --gold=" + gold),
              AllOf(HasSubstr("ended                 4 answered"), HasSubstr("right by gold         0.750 of 4"),
                    HasSubstr("AUC by gold           0.833")));
  annotator = StartAnnotator();
  EXPECT_TRUE(right(*annotator, 3)) << "known answers count after a restart";
  EXPECT_THAT(Labels("stats " + Run()), HasSubstr("ended                 4 answered"));
}

TEST_F(LabelsProgramTest, WhatIsWrongIsNamed) {
  EXPECT_THAT(Labels("burn " + Run()), HasSubstr("there is no command `burn`"));
  EXPECT_EQ(status_, 2);
  EXPECT_THAT(Labels("list " + folder_ / "nowhere"), AllOf(HasSubstr("nowhere"), HasSubstr("host:port")));
  EXPECT_EQ(status_, 2);
  EXPECT_THAT(Labels("show"), HasSubstr("takes a store"));
  EXPECT_EQ(status_, 2);
}

}  // namespace
}  // namespace sibyl::annotator
