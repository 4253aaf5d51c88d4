#include "policy/weights.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "random_observations.h"

namespace sibyl {
namespace {

class WeightsTest : public testing::Test {
 protected:
  WeightsTest() {
    std::string folder = testing::TempDir() + "/weights.XXXXXX";
    folder_ = mkdtemp(folder.data());
    path_ = folder_ + "/weights.safetensors";
  }
  ~WeightsTest() override { std::filesystem::remove_all(folder_); }

  absl::Status Write(const Policy& policy) {
    NamedTensors tensors;
    for (const auto& parameter : policy.named_parameters()) {
      tensors.emplace_back("policy/" + parameter.key(), parameter.value().detach());
    }
    return WriteTensors(path_, tensors, {});
  }

  std::string folder_, path_;
};

TEST_F(WeightsTest, ReadsBackExactlyWhatWasWritten) {
  const NamedTensors tensors = {{"floats", torch::randn({3, 4})},
                                {"numbers", torch::randint(1000, {2, 2, 2})},
                                {"flags", torch::randint(2, {5}).to(torch::kBool)},
                                {"bytes", torch::randint(256, {7}).to(torch::kUInt8)},
                                {"scalar", torch::tensor(3.5f)},
                                {"empty", torch::zeros({0, 4})}};
  ASSERT_TRUE(WriteTensors(path_, tensors, {{"made by", "a test"}}).ok());
  const auto file = ReadTensors(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata.at("made by"), "a test");
  const std::map<std::string, torch::Tensor> read(file->tensors.begin(), file->tensors.end());
  ASSERT_EQ(read.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(read.at(name).sizes(), tensor.sizes()) << name;
    EXPECT_TRUE(torch::equal(read.at(name), tensor)) << name;
  }
}

TEST_F(WeightsTest, EncodesAPolicyAsBytesAndBack) {
  torch::manual_seed(1);
  const auto sent = *MakePolicy({}, MinigridSpec());
  const auto received = *MakePolicy({}, MinigridSpec());
  const auto other = *MakePolicy(PolicyOf(v1::POLICY_KIND_MLP), MinigridSpec());
  const auto bytes = EncodePolicy(*sent);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  ASSERT_TRUE(DecodePolicy("here", *bytes, *received).ok());
  for (size_t i = 0; i < sent->parameters().size(); ++i) {
    EXPECT_TRUE(torch::equal(sent->parameters()[i], received->parameters()[i]));
  }
  EXPECT_EQ(DecodePolicy("here", *bytes, *other).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(DecodePolicy("here", bytes->substr(0, 100), *received).code(), absl::StatusCode::kDataLoss);
}

TEST_F(WeightsTest, LoadsAPolicy) {
  torch::manual_seed(1);
  const auto saved = *MakePolicy({}, MinigridSpec());
  const auto loaded = *MakePolicy({}, MinigridSpec());
  ASSERT_TRUE(Write(*saved).ok());
  ASSERT_TRUE(LoadPolicy(path_, *loaded).ok());
  for (size_t i = 0; i < saved->parameters().size(); ++i) {
    EXPECT_TRUE(torch::equal(saved->parameters()[i], loaded->parameters()[i]));
  }
}

TEST_F(WeightsTest, RefusesAnotherNetworkAndNamesTheFirstTensorBothShapesAndTheFile) {
  v1::EnvironmentSpec more_actions = MinigridSpec();
  more_actions.mutable_action()->mutable_discrete()->mutable_parts(0)->add_choices("dance");
  ASSERT_TRUE(Write(**MakePolicy({}, more_actions)).ok());
  const auto policy = *MakePolicy({}, MinigridSpec());
  const torch::Tensor before = policy->parameters()[0].detach().clone();
  const absl::Status status = LoadPolicy(path_, *policy);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  for (const char* part : {"policy/actor.weight", "[7, 128]", "[8, 128]", path_.c_str()}) {
    EXPECT_NE(status.message().find(part), std::string::npos) << part << " in " << status;
  }
  EXPECT_TRUE(torch::equal(policy->parameters()[0], before));
}

TEST_F(WeightsTest, NamesATensorThatIsMissing) {
  ASSERT_TRUE(Write(**MakePolicy(PolicyOf(v1::POLICY_KIND_MLP), MinigridSpec())).ok());
  const absl::Status status = LoadPolicy(path_, **MakePolicy({}, MinigridSpec()));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("policy/conv1.weight"), std::string::npos) << status;
}

TEST_F(WeightsTest, SaysWhichFileIsNotThere) {
  EXPECT_NE(ReadTensors(path_).status().message().find(path_), std::string::npos);
}

}  // namespace
}  // namespace sibyl
