#include "common/config.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <filesystem>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/config_fields.h"
#include "common/nearest.h"
#include "common/runtime/files.h"
#include "common/status_macros.h"

namespace sibyl {
namespace {

// What deploy/requirements-llm.txt installs.
constexpr char kDefaultEmbeddedModel[] = "SmolLM2-135M-Instruct.Q4_1";
constexpr char kDefaultEncoder[] = "all-MiniLM-L6-v2";

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

// Environments of all actors together: far more than one learner serves, and few enough that sums of sizes fit an int.
constexpr uint64_t kMaxEnvironments = 1'000'000;

// Adds to protobuf's message about a name that it does not know what the author of the file may have meant.
std::string Explained(const std::string& message) {
  const std::vector<std::string> parts = absl::StrSplit(message, '"');
  if (parts.size() == 5 && absl::StrContains(message, "has no field named")) {
    const Descriptor* type = google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(parts[1]);
    if (type == nullptr) return message;
    std::vector<std::string> names;
    for (int i = 0; i < type->field_count(); ++i) names.push_back(type->field(i)->name());
    return absl::StrCat(message, DidYouMean(parts[3], names));
  }
  if (parts.size() == 5 && absl::StartsWith(message, "Unknown enumeration value")) {
    // Several fields may have this name.
    std::vector<std::string> names;
    std::string meant;
    ForEachField(v1::Experiment(), [&](const Message&, const FieldDescriptor* field, const std::string&) {
      if (field->name() != parts[3] || field->enum_type() == nullptr) return;
      for (int i = 1; i < field->enum_type()->value_count(); ++i) names.push_back(field->enum_type()->value(i)->name());
      if (const auto* value = FindEnumValue(field->enum_type(), parts[1]); value != nullptr) meant = value->name();
    });
    if (!meant.empty()) return absl::StrCat(message, " A file names it in full: ", meant, ".");
    return absl::StrCat(message, " It takes one of ", absl::StrJoin(names, ", "), ".");
  }
  return message;
}

class Errors : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (!text_.empty()) return;
    text_ = line < 0 ? message : absl::StrCat("line ", line + 1, ", column ", column + 1, ": ", Explained(message));
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

std::string Absolute(const std::string& path, const std::filesystem::path& base) {
  if (path.empty() || path[0] == '/') return path;
  return std::filesystem::absolute(base / path).lexically_normal().string();
}

// Makes the path of every field that names a file absolute.
void ResolveFiles(Message* message, const std::filesystem::path& base) {
  const auto* reflection = message->GetReflection();
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->field(i);
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      ResolveFiles(reflection->MutableMessage(message, field), base);
    } else if (RuleOf(field).file()) {
      reflection->SetString(message, field, Absolute(reflection->GetString(*message, field), base));
    }
  }
}

// The network that reads MiniGrid's view. The policy's AUTO chooses it by the same name.
bool UsesMiniGridNetwork(const v1::Experiment& e) {
  const v1::PolicyKind kind = e.policy().kind();
  return kind == v1::POLICY_KIND_MINIGRID_CONV_GRU ||
         (kind == v1::POLICY_KIND_AUTO && absl::StartsWith(e.environment().name(), "minigrid/"));
}

absl::Status Require(bool holds, absl::string_view path, const absl::AlphaNum& value, absl::string_view remedy) {
  return holds ? absl::OkStatus() : InvalidField(path, value.Piece(), remedy);
}

absl::Status CheckActors(const v1::Experiment& e) {
  const uint64_t processes = e.actor().processes(), environments = e.actor().environments();
  SIBYL_RETURN_IF_ERROR(Require(environments % e.actor().groups() == 0, "actor.groups", e.actor().groups(),
                                absl::StrCat("a divisor of actor.environments (", environments, ")")));
  SIBYL_RETURN_IF_ERROR(
      Require(processes * environments <= kMaxEnvironments, "actor.processes", processes,
              absl::StrCat("at most ", kMaxEnvironments / environments, ", which with actor.environments (",
                           environments, ") makes no more than ", kMaxEnvironments, " environments")));
  const uint64_t room = uint64_t{e.learner().max_actors()} * e.learner().ranks();
  return Require(processes <= room, "actor.processes", processes,
                 absl::StrCat("at most ", room, ", the actors that learner.max_actors (", e.learner().max_actors(),
                              ") lets in; raise that"));
}

absl::Status CheckPolicy(const v1::Experiment& e) {
  const v1::PolicyConfig& policy = e.policy();
  SIBYL_RETURN_IF_ERROR(Require(policy.value_high() > policy.value_low(), "policy.value_high", policy.value_high(),
                                absl::StrCat("above policy.value_low (", policy.value_low(), ")")));
  return Require(policy.normalise_observations() || !UsesMiniGridNetwork(e), "policy.normalise_observations", "false",
                 "true or left out: MiniGrid's network reads normalised numbers");
}

absl::Status CheckLearner(const v1::Experiment& e) {
  const v1::LearnerConfig& learner = e.learner();
  SIBYL_RETURN_IF_ERROR(Require(learner.batch_size() % learner.unroll_length() == 0, "learner.batch_size",
                                learner.batch_size(),
                                absl::StrCat("a multiple of learner.unroll_length (", learner.unroll_length(), ")")));
  SIBYL_RETURN_IF_ERROR(
      Require(e.policy().value_heads() != v1::VALUE_HEADS_TOTAL || learner.intrinsic_gamma() == learner.gamma(),
              "learner.intrinsic_gamma", learner.intrinsic_gamma(),
              absl::StrCat("learner.gamma's value (", learner.gamma(),
                           ") unless policy.value_heads is VALUE_HEADS_SEPARATE or VALUE_HEADS_EACH")));
  const uint32_t unrolls = learner.batch_size() / learner.unroll_length(), ranks = learner.ranks();
  SIBYL_RETURN_IF_ERROR(Require(e.actor().processes() % ranks == 0 && unrolls % ranks == 0, "learner.ranks", ranks,
                                absl::StrCat("a divisor of actor.processes (", e.actor().processes(),
                                             ") and of the unrolls of a batch (", unrolls, ")")));
  return Require(unrolls / ranks % learner.minibatches() == 0, "learner.minibatches", learner.minibatches(),
                 absl::StrCat("a divisor of the unrolls of a rank's batch (", unrolls / ranks, ")"));
}

absl::Status CheckReward(const v1::Experiment& e) {
  return Require(e.reward().shaping() == v1::SHAPING_NONE || e.reward().credit() != v1::CREDIT_ONI, "reward.credit",
                 "CREDIT_ONI", "left out where reward.shaping pays differences");
}

absl::Status CheckRewardModel(const v1::Experiment& e) {
  const v1::RewardModelConfig& model = e.reward_model();
  const bool absolute = model.threshold_kind() == v1::THRESHOLD_KIND_ABSOLUTE;
  const bool any =
      model.kind() == v1::REWARD_MODEL_KIND_RANKING || model.threshold_kind() == v1::THRESHOLD_KIND_NEUTRAL;
  SIBYL_RETURN_IF_ERROR(Require(any || (model.threshold() >= 0 && model.threshold() < 1), "reward_model.threshold",
                                model.threshold(), "at least 0 and below 1"));
  SIBYL_RETURN_IF_ERROR(Require(
      absolute || (model.kind() != v1::REWARD_MODEL_KIND_RANKING && model.weights_file().empty()),
      "reward_model.threshold_kind", v1::ThresholdKind_Name(model.threshold_kind()),
      "THRESHOLD_KIND_ABSOLUTE: the others follow labels of single captions, which a ranking and a weights_file lack"));
  const auto& labels = model.label_set();
  const std::set<std::string> distinct(labels.begin(), labels.end());
  SIBYL_RETURN_IF_ERROR(
      Require(labels.size() >= 2 && static_cast<int>(distinct.size()) == labels.size() && !distinct.contains(""),
              "reward_model.label_set", absl::StrCat("[", absl::StrJoin(labels, ", "), "]"),
              "at least two labels that differ, the good one last"));
  if (!RewardsCaptions(e)) return absl::OkStatus();
  SIBYL_RETURN_IF_ERROR(Require(!model.goal().empty(), "reward_model.goal", "not set",
                                "the goal in words, since reward.intrinsic_coefficient is above 0"));
  return Require(model.weights_file().empty() || model.kind() != v1::REWARD_MODEL_KIND_RETRIEVAL,
                 "reward_model.weights_file", absl::StrCat("`", model.weights_file(), "`"),
                 "left out, or reward_model.kind REWARD_MODEL_KIND_CLASSIFICATION or REWARD_MODEL_KIND_RANKING");
}

absl::Status CheckServer(const v1::OpenAiConfig& openai) {
  SIBYL_RETURN_IF_ERROR(Require(!openai.url().empty() || !openai.endpoints().empty(), "annotator.openai.url", "not set",
                                "e.g. \"http://127.0.0.1:8000/v1\""));
  return Require(!openai.model().empty(), "annotator.openai.model", "not set", "the model's name at the server");
}

absl::Status CheckJudge(const v1::Experiment& e) {
  if (!AsksJudge(e)) return absl::OkStatus();
  const v1::AnnotatorConfig& annotator = e.annotator();
  SIBYL_RETURN_IF_ERROR(
      Require(annotator.gold_file().empty() || e.reward_model().kind() != v1::REWARD_MODEL_KIND_RANKING,
              "annotator.gold_file", annotator.gold_file(),
              "empty for REWARD_MODEL_KIND_RANKING: it has labels of single captions, and pairs are asked about"));
  switch (annotator.judge()) {
    case v1::JUDGE_KIND_RULES:
      return Require(!annotator.rules_file().empty(), "annotator.rules_file", "not set",
                     "a file of rules, since annotator.judge is JUDGE_KIND_RULES");
    case v1::JUDGE_KIND_SIMILARITY:
      SIBYL_RETURN_IF_ERROR(Require(
          e.reward_model().kind() != v1::REWARD_MODEL_KIND_RANKING, "annotator.judge", "JUDGE_KIND_SIMILARITY",
          "another one for REWARD_MODEL_KIND_RANKING: it holds a caption against the goal, not another caption"));
      return RunsBesideTraining(annotator) ? absl::OkStatus() : CheckServer(annotator.openai());
    default:
      // The address and the name of an embedded model are known only where it is started.
      if (!RunsBesideTraining(annotator)) SIBYL_RETURN_IF_ERROR(CheckServer(annotator.openai()));
      SIBYL_RETURN_IF_ERROR(
          Require(annotator.openai().votes() <= 1 || annotator.openai().temperature() > 0, "annotator.openai.votes",
                  absl::StrCat(annotator.openai().votes()),
                  "1, or annotator.openai.temperature above 0: votes at temperature 0 are all the same"));
      return Require(!annotator.openai().prompt_file().empty(), "annotator.openai.prompt_file", "not set",
                     "a prompt, e.g. one of configs/prompts");
  }
}

std::string FieldNames(const Descriptor* type) {
  std::vector<std::string> names;
  for (int i = 0; i < type->field_count(); ++i) names.push_back(type->field(i)->name());
  return absl::StrJoin(names, ", ");
}

}  // namespace

absl::Status ApplyOverride(const std::string& override, v1::Experiment* experiment) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(override, absl::MaxSplits('=', 1));
  const std::string& path = parts.first;
  if (!absl::StrContains(override, '=')) {
    return absl::InvalidArgumentError(absl::StrCat("config: --set `", override, "` must be field=value"));
  }
  Message* holder = experiment;
  const std::vector<std::string> names = absl::StrSplit(path, '.');
  for (size_t i = 0; i < names.size(); ++i) {
    const FieldDescriptor* field = holder->GetDescriptor()->FindFieldByName(names[i]);
    if (field == nullptr) {
      const std::string meant = DidYouMean(path, FieldPaths(*experiment));
      return absl::InvalidArgumentError(
          absl::StrCat("config: --set ", path, ": there is no field `", names[i], "`",
                       meant.empty() ? absl::StrCat("; there are: ", FieldNames(holder->GetDescriptor())) : meant));
    }
    const bool last = i + 1 == names.size();
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (last) {
        return absl::InvalidArgumentError(absl::StrCat(
            "config: --set ", path, " names a group of fields; name one of: ", FieldNames(field->message_type())));
      }
      holder = holder->GetReflection()->MutableMessage(holder, field);
    } else if (!last) {
      return absl::InvalidArgumentError(absl::StrCat("config: --set ", path, ": `", names[i], "` has no fields"));
    } else {
      const bool file = RuleOf(field).file();
      SIBYL_RETURN_IF_ERROR(
          SetField(path, file ? Absolute(parts.second, std::filesystem::current_path()) : parts.second, field, holder));
    }
  }
  return absl::OkStatus();
}

void FillDefaults(v1::Experiment* experiment) {
  FillFieldDefaults(experiment);
  if (auto* policy = experiment->mutable_policy(); !policy->has_normalise_observations()) {
    policy->set_normalise_observations(UsesMiniGridNetwork(*experiment));
  }
  if (auto* annotator = experiment->mutable_annotator();
      RunsBesideTraining(*annotator) && annotator->openai().model().empty()) {
    const std::string& file = annotator->embedded().model_file();
    const bool similarity = annotator->judge() == v1::JUDGE_KIND_SIMILARITY;
    annotator->mutable_openai()->set_model(!file.empty() ? std::filesystem::path(file).stem().string()
                                           : similarity  ? kDefaultEncoder
                                                         : kDefaultEmbeddedModel);
  }
  auto* model = experiment->mutable_reward_model();
  const bool ranking = model->kind() == v1::REWARD_MODEL_KIND_RANKING;
  if (model->threshold_kind() == v1::THRESHOLD_KIND_UNSPECIFIED) {
    const bool neutral =
        experiment->annotator().judge() == v1::JUDGE_KIND_EMBEDDED && !ranking && model->weights_file().empty();
    model->set_threshold_kind(neutral ? v1::THRESHOLD_KIND_NEUTRAL : v1::THRESHOLD_KIND_ABSOLUTE);
  }
  if (!model->has_threshold()) {
    const v1::ThresholdKind kind = model->threshold_kind();
    model->set_threshold(ranking || kind == v1::THRESHOLD_KIND_GAP ? 0
                         : kind == v1::THRESHOLD_KIND_NEUTRAL      ? 0.2
                                                                   : 0.5);
  }
  if (!model->has_binary()) model->set_binary(!ranking);
}

absl::Status Validate(const v1::Experiment& experiment) {
  SIBYL_RETURN_IF_ERROR(CheckFields(experiment));
  for (const auto check : {CheckActors, CheckPolicy, CheckLearner, CheckReward, CheckRewardModel, CheckJudge}) {
    SIBYL_RETURN_IF_ERROR(check(experiment));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Experiment> LoadExperiment(const std::string& path, const std::vector<std::string>& overrides) {
  SIBYL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  v1::Experiment experiment;
  Errors errors;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  if (!parser.ParseFromString(text, &experiment)) {
    return absl::InvalidArgumentError(absl::StrCat("config: ", path, ": ", errors.text()));
  }
  ResolveFiles(&experiment, std::filesystem::path(path).parent_path());
  for (const std::string& override : overrides) SIBYL_RETURN_IF_ERROR(ApplyOverride(override, &experiment));
  auto* reward_model = experiment.mutable_reward_model();
  if (!reward_model->goal_file().empty()) {
    SIBYL_RETURN_IF_ERROR(Require(reward_model->goal().empty(), "reward_model.goal_file",
                                  absl::StrCat("`", reward_model->goal_file(), "`"),
                                  "left out where reward_model.goal is set; one of them says what is wanted"));
    SIBYL_ASSIGN_OR_RETURN(const std::string goal, ReadFile(reward_model->goal_file()));
    reward_model->set_goal(std::string(absl::StripAsciiWhitespace(goal)));
    reward_model->clear_goal_file();
  }
  if (experiment.name().empty()) experiment.set_name(std::filesystem::path(path).stem().string());
  FillDefaults(&experiment);
  SIBYL_RETURN_IF_ERROR(Validate(experiment));
  return experiment;
}

std::string ExperimentText(const v1::Experiment& experiment) {
  std::string text;
  TextFormat::PrintToString(experiment, &text);
  return text;
}

std::string ResumeDifference(v1::Experiment was, v1::Experiment is) {
  // A run of an older release lacks the fields that came since.
  FillDefaults(&was);
  FillDefaults(&is);
  return FirstDifference(was, is);
}

}  // namespace sibyl
