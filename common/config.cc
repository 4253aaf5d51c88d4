#include "common/config.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/runtime/files.h"
#include "common/random.h"
#include "common/status_macros.h"

namespace sibyl {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using google::protobuf::TextFormat;

class Errors : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (!text_.empty()) return;
    text_ = line < 0 ? message : absl::StrCat("line ", line + 1, ", column ", column + 1, ": ", message);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

std::string FieldNames(const google::protobuf::Descriptor* descriptor) {
  std::vector<std::string> names;
  for (int i = 0; i < descriptor->field_count(); ++i) names.push_back(descriptor->field(i)->name());
  return absl::StrJoin(names, ", ");
}

absl::Status SetScalar(const std::string& path, const std::string& value, const FieldDescriptor* field,
                       Message* message) {
  const Reflection* reflection = message->GetReflection();
  if (field->type() == FieldDescriptor::TYPE_STRING) {
    if (field->is_repeated()) {
      reflection->AddString(message, field, value);
    } else {
      reflection->SetString(message, field, value);
    }
    return absl::OkStatus();
  }
  Errors errors;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  if (!parser.ParseFieldValueFromString(value, field, message)) {
    std::string expected = field->cpp_type_name();
    if (field->type() == FieldDescriptor::TYPE_ENUM) {
      std::vector<std::string> names;
      for (int i = 0; i < field->enum_type()->value_count(); ++i) names.push_back(field->enum_type()->value(i)->name());
      expected = absl::StrCat("one of ", absl::StrJoin(names, ", "));
    }
    return absl::InvalidArgumentError(
        absl::StrCat("config: ", path, " cannot be set to `", value, "`: it takes ", expected));
  }
  return absl::OkStatus();
}

absl::Status Invalid(absl::string_view field, const std::string& value, absl::string_view must) {
  return absl::InvalidArgumentError(absl::StrCat("config: ", field, " is ", value, ", must be ", must));
}

template <typename T>
std::string Shown(T value) {
  return absl::StrCat(value);
}
std::string Shown(const std::string& value) { return value.empty() ? "not set" : absl::StrCat("`", value, "`"); }

// CHECK_FIELD(learner(), batch_size, > 0)
#define SIBYL_REQUIRE(section, field, condition, must)                                          \
  if (const auto value = e.section().field(); !(condition)) {                                   \
    return Invalid(absl::StrReplaceAll(#section "." #field, {{"()", ""}}), Shown(value), must); \
  }

std::string Absolute(const std::string& path, const std::filesystem::path& base) {
  if (path.empty() || path[0] == '/') return path;
  return std::filesystem::absolute(base / path).lexically_normal().string();
}

absl::Status ValidateServer(const v1::OpenAiConfig& openai) {
  if (openai.url().empty()) return Invalid("annotator.openai.url", "not set", "e.g. \"http://127.0.0.1:8000/v1\"");
  if (!absl::StartsWith(openai.url(), "http://") && !absl::StartsWith(openai.url(), "https://")) {
    return Invalid("annotator.openai.url", Shown(openai.url()), "an address that begins with http:// or https://");
  }
  if (openai.model().empty()) return Invalid("annotator.openai.model", "not set", "the model's name at the server");
  if (openai.max_in_flight() < 1 || openai.max_in_flight() > 1000) {
    return Invalid("annotator.openai.max_in_flight", Shown(openai.max_in_flight()), "between 1 and 1000");
  }
  if (!(openai.timeout_seconds() > 0)) {
    return Invalid("annotator.openai.timeout_seconds", Shown(openai.timeout_seconds()), "above 0");
  }
  return absl::OkStatus();
}

absl::Status ValidateJudge(const v1::Experiment& e) {
  const auto& openai = e.annotator().openai();
  switch (e.annotator().judge()) {
    case v1::JUDGE_KIND_RULES:
      SIBYL_REQUIRE(annotator, rules_file, !value.empty(),
                    "a file of rules, since annotator.judge is JUDGE_KIND_RULES");
      return absl::OkStatus();
    case v1::JUDGE_KIND_SIMILARITY:
      if (e.reward_model().kind() == v1::REWARD_MODEL_KIND_RANKING) {
        return Invalid(
            "annotator.judge", "JUDGE_KIND_SIMILARITY",
            "another one for REWARD_MODEL_KIND_RANKING: it holds a caption against the goal, not another caption");
      }
      return openai.url().empty() ? absl::OkStatus() : ValidateServer(openai);
    default:
      break;
  }
  SIBYL_RETURN_IF_ERROR(ValidateServer(openai));
  if (openai.prompt_file().empty()) {
    return Invalid("annotator.openai.prompt_file", "not set", "a prompt, e.g. one of configs/prompts");
  }
  if (!(openai.temperature() >= 0 && openai.temperature() <= 2)) {
    return Invalid("annotator.openai.temperature", Shown(openai.temperature()), "between 0 and 2");
  }
  if (openai.max_tokens() < 1) return Invalid("annotator.openai.max_tokens", "0", "at least 1");
  return absl::OkStatus();
}

}  // namespace

absl::Status ApplyOverride(const std::string& override, v1::Experiment* experiment) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(override, absl::MaxSplits('=', 1));
  const std::string& path = parts.first;
  if (!absl::StrContains(override, '=')) {
    return absl::InvalidArgumentError(absl::StrCat("config: --set `", override, "` must be field=value"));
  }
  Message* message = experiment;
  const std::vector<std::string> names = absl::StrSplit(path, '.');
  for (size_t i = 0; i < names.size(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(names[i]);
    if (field == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("config: --set ", path, ": there is no field `", names[i],
                                                     "`; there are: ", FieldNames(message->GetDescriptor())));
    }
    const bool last = i + 1 == names.size();
    const bool is_message = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (!last && !is_message) {
      return absl::InvalidArgumentError(absl::StrCat("config: --set ", path, ": `", names[i], "` has no fields"));
    }
    if (!last) {
      message = message->GetReflection()->MutableMessage(message, field);
    } else if (is_message) {
      return absl::InvalidArgumentError(absl::StrCat(
          "config: --set ", path, " names a group of fields; name one of: ", FieldNames(field->message_type())));
    } else if (field->is_repeated()) {
      message->GetReflection()->ClearField(message, field);
      for (absl::string_view item : absl::StrSplit(parts.second, ',')) {
        SIBYL_RETURN_IF_ERROR(SetScalar(path, std::string(item), field, message));
      }
    } else {
      std::string value = parts.second;
      if (absl::EndsWith(path, "_file")) value = Absolute(value, std::filesystem::current_path());
      SIBYL_RETURN_IF_ERROR(SetScalar(path, value, field, message));
    }
  }
  return absl::OkStatus();
}

void FillDefaults(v1::Experiment* experiment) {
#define SIBYL_DEFAULT(message, field, value) \
  if (!(message)->has_##field()) (message)->set_##field(value)
#define SIBYL_DEFAULT_ENUM(message, field, zero, value) \
  if ((message)->field() == (zero)) (message)->set_##field(value)
  SIBYL_DEFAULT(experiment, seed, 1);
  SIBYL_DEFAULT(experiment, total_steps, 1'000'000);

  auto* environment = experiment->mutable_environment();
  SIBYL_DEFAULT(environment, max_episode_steps, 0);
  SIBYL_DEFAULT_ENUM(environment, caption_rule, v1::CAPTION_RULE_UNSPECIFIED, v1::CAPTION_RULE_EXACT);
  SIBYL_DEFAULT(environment, send_context, false);

  auto* actor = experiment->mutable_actor();
  SIBYL_DEFAULT(actor, processes, 1);
  SIBYL_DEFAULT(actor, environments, 64);
  SIBYL_DEFAULT(actor, groups, 2);
  SIBYL_DEFAULT_ENUM(actor, codec, v1::PACKING_CODEC_UNSPECIFIED, v1::PACKING_CODEC_CHANGES_LZ4);
  SIBYL_DEFAULT(actor, silence_seconds, 30);
  SIBYL_DEFAULT_ENUM(actor, inference, v1::INFERENCE_UNSPECIFIED, v1::INFERENCE_CENTRAL);
  SIBYL_DEFAULT(actor, stagger, true);

  auto* policy = experiment->mutable_policy();
  SIBYL_DEFAULT_ENUM(policy, kind, v1::POLICY_KIND_UNSPECIFIED, v1::POLICY_KIND_AUTO);
  SIBYL_DEFAULT_ENUM(policy, precision, v1::PRECISION_UNSPECIFIED, v1::PRECISION_FLOAT32);
  SIBYL_DEFAULT_ENUM(policy, value_heads, v1::VALUE_HEADS_UNSPECIFIED, v1::VALUE_HEADS_TOTAL);
  SIBYL_DEFAULT(policy, value_bins, 0);
  SIBYL_DEFAULT(policy, value_low, -10);
  SIBYL_DEFAULT(policy, value_high, 10);
  SIBYL_DEFAULT(policy, normalise_returns, false);
  SIBYL_DEFAULT(policy, normalise_observations, false);

  auto* learner = experiment->mutable_learner();
  SIBYL_DEFAULT(learner, unroll_length, 32);
  SIBYL_DEFAULT(learner, batch_size, 1024);
  SIBYL_DEFAULT(learner, epochs, 1);
  SIBYL_DEFAULT(learner, minibatches, 1);
  SIBYL_DEFAULT(learner, learning_rate, 1e-4);
  SIBYL_DEFAULT(learner, final_learning_rate, learner->learning_rate());
  SIBYL_DEFAULT(learner, adam_epsilon, 1e-6);
  SIBYL_DEFAULT(learner, gamma, 0.99);
  SIBYL_DEFAULT(learner, intrinsic_gamma, learner->gamma());
  SIBYL_DEFAULT(learner, vtrace_rho, 1);
  SIBYL_DEFAULT(learner, vtrace_c, 1);
  SIBYL_DEFAULT(learner, ppo_clip, 0.1);
  SIBYL_DEFAULT(learner, value_clip, 1);
  SIBYL_DEFAULT(learner, min_advantage_deviation, 1e-3);
  SIBYL_DEFAULT(learner, value_coefficient, 0.5);
  SIBYL_DEFAULT(learner, entropy_coefficient, 0.003);
  SIBYL_DEFAULT(learner, final_entropy_coefficient, learner->entropy_coefficient());
  SIBYL_DEFAULT(learner, max_gradient_norm, 4);
  SIBYL_DEFAULT(learner, max_policy_lag, 10'000);
  SIBYL_DEFAULT(learner, unroll_slots, 0);
  SIBYL_DEFAULT(learner, inference_batch, 1024);
  SIBYL_DEFAULT(learner, inference_wait_ms, 2);
  SIBYL_DEFAULT(learner, training_threads, 0);
  SIBYL_DEFAULT(learner, inference_threads, 1);
  if (learner->device().empty()) learner->set_device("cpu");
  SIBYL_DEFAULT(learner, checkpoint_seconds, 60);
  SIBYL_DEFAULT(learner, checkpoints_kept, 3);
  SIBYL_DEFAULT(learner, max_captions, 1'000'000);
  SIBYL_DEFAULT(learner, episode_window, 200);
  SIBYL_DEFAULT(learner, ranks, 1);
  SIBYL_DEFAULT(learner, rank_limit_seconds, 60);

  auto* reward = experiment->mutable_reward();
  SIBYL_DEFAULT(reward, extrinsic_coefficient, 1);
  SIBYL_DEFAULT(reward, extrinsic_scale, 1);
  SIBYL_DEFAULT(reward, extrinsic_clip, 10);
  SIBYL_DEFAULT(reward, intrinsic_coefficient, 0.4);
  SIBYL_DEFAULT(reward, count_exponent, 3);
  SIBYL_DEFAULT_ENUM(reward, credit, v1::CREDIT_UNSPECIFIED, v1::CREDIT_ACTION);
  SIBYL_DEFAULT(reward, intrinsic_ceiling, 0);
  SIBYL_DEFAULT_ENUM(reward, shaping, v1::SHAPING_UNSPECIFIED, v1::SHAPING_NONE);

  auto* model = experiment->mutable_reward_model();
  SIBYL_DEFAULT_ENUM(model, kind, v1::REWARD_MODEL_KIND_UNSPECIFIED, v1::REWARD_MODEL_KIND_RETRIEVAL);
  if (model->label_set().empty()) {
    model->add_label_set("unhelpful");
    model->add_label_set("helpful");
  }
  const bool ranking = model->kind() == v1::REWARD_MODEL_KIND_RANKING;
  SIBYL_DEFAULT(model, threshold, ranking ? 0 : 0.5);
  SIBYL_DEFAULT(model, binary, !ranking);
  SIBYL_DEFAULT(model, max_candidates, 100'000);
  SIBYL_DEFAULT(model, ask_after, 1);
  SIBYL_DEFAULT(model, queue_target, 64);
  SIBYL_DEFAULT(model, checkpoint_seconds, 30);
  auto* training = model->mutable_training();
  SIBYL_DEFAULT(training, batch_size, 256);
  SIBYL_DEFAULT(training, learning_rate, 1e-4);
  SIBYL_DEFAULT(training, passes, 80);
  SIBYL_DEFAULT(training, dropout, 0.1);
  SIBYL_DEFAULT(training, text_length, 256);
  SIBYL_DEFAULT(training, balance, true);
  SIBYL_DEFAULT(training, ensemble, 1);
  SIBYL_DEFAULT_ENUM(training, ensemble_score, v1::ENSEMBLE_SCORE_UNSPECIFIED, v1::ENSEMBLE_SCORE_MEAN);
  SIBYL_DEFAULT(training, ensemble_bound, 1);
  SIBYL_DEFAULT(training, cpu_share, 0.25);
  SIBYL_DEFAULT(training, version_seconds, 2);
  SIBYL_DEFAULT(training, rescore_steps, 1'000'000);
  SIBYL_DEFAULT(training, ask_unsure, false);
  auto* pairs = model->mutable_pairs();
  SIBYL_DEFAULT_ENUM(pairs, strategy, v1::PAIR_STRATEGY_UNSPECIFIED, v1::PAIR_STRATEGY_RANDOM);
  SIBYL_DEFAULT(pairs, both_orders, false);
  SIBYL_DEFAULT(pairs, comparisons, 8);

  auto* annotator = experiment->mutable_annotator();
  SIBYL_DEFAULT_ENUM(annotator, judge, v1::JUDGE_KIND_UNSPECIFIED, v1::JUDGE_KIND_RULES);
  if (annotator->store().empty()) annotator->set_store("labels.sqlite");
  SIBYL_DEFAULT(annotator, queue_capacity, 1000);
  SIBYL_DEFAULT(annotator, rules_noise, 0);
  SIBYL_DEFAULT(annotator, rules_seconds, 0);
  auto* openai = annotator->mutable_openai();
  if (openai->api_key_env().empty()) openai->set_api_key_env("OPENAI_API_KEY");
  SIBYL_DEFAULT(openai, temperature, 0.1);
  SIBYL_DEFAULT(openai, seed, 1);
  SIBYL_DEFAULT(openai, max_tokens, 256);
  SIBYL_DEFAULT(openai, max_in_flight, 8);
  SIBYL_DEFAULT(openai, timeout_seconds, 60);
#undef SIBYL_DEFAULT
#undef SIBYL_DEFAULT_ENUM
}

absl::Status Validate(const v1::Experiment& e) {
  const auto finite = [](double x) { return std::isfinite(x); };
  if (e.total_steps() == 0) return Invalid("total_steps", "0", "at least 1");
  SIBYL_REQUIRE(environment, name, !value.empty(), "an environment's name, e.g. \"minigrid/DoorKey-8x8\"");

  SIBYL_REQUIRE(actor, processes, value >= 1 && value <= 65536, "between 1 and 65536");
  SIBYL_REQUIRE(actor, environments, value >= 1 && value <= 65536, "between 1 and 65536");
  SIBYL_REQUIRE(actor, groups, value >= 1 && e.actor().environments() % value == 0,
                absl::StrCat("a divisor of actor.environments (", e.actor().environments(), ")"));
  SIBYL_REQUIRE(actor, silence_seconds, value > 0 && finite(value), "above 0");

  SIBYL_REQUIRE(policy, value_bins, value == 0 || (value >= 5 && value <= 10'000), "0 or between 5 and 10000");
  SIBYL_REQUIRE(policy, value_low, finite(value), "a finite number");
  SIBYL_REQUIRE(policy, value_high, finite(value) && value > e.policy().value_low(),
                absl::StrCat("above policy.value_low (", e.policy().value_low(), ")"));

  SIBYL_REQUIRE(learner, unroll_length, value >= 1, "at least 1");
  SIBYL_REQUIRE(learner, batch_size, value >= 1 && value % e.learner().unroll_length() == 0,
                absl::StrCat("a multiple of learner.unroll_length (", e.learner().unroll_length(), ")"));
  SIBYL_REQUIRE(learner, epochs, value >= 1, "at least 1");
  SIBYL_REQUIRE(learner, learning_rate, value >= 0 && finite(value), "0 or more");
  SIBYL_REQUIRE(learner, final_learning_rate, value >= 0 && finite(value), "0 or more");
  SIBYL_REQUIRE(learner, final_entropy_coefficient, value >= 0 && finite(value), "0 or more");
  SIBYL_REQUIRE(learner, adam_epsilon, value > 0 && finite(value), "above 0");
  SIBYL_REQUIRE(learner, gamma, value >= 0 && value <= 1, "between 0 and 1");
  SIBYL_REQUIRE(learner, intrinsic_gamma,
                value >= 0 && value <= 1 && (ValueCount(e.policy()) > 1 || value == e.learner().gamma()),
                "between 0 and 1, and learner.gamma's value unless policy.value_heads is VALUE_HEADS_SEPARATE");
  SIBYL_REQUIRE(learner, vtrace_rho, value > 0 && finite(value), "above 0");
  SIBYL_REQUIRE(learner, vtrace_c, value > 0 && finite(value), "above 0");
  SIBYL_REQUIRE(learner, ppo_clip, value > 0 && finite(value), "above 0");
  SIBYL_REQUIRE(learner, value_clip, value > 0 && finite(value), "above 0");
  SIBYL_REQUIRE(learner, min_advantage_deviation, value > 0 && finite(value), "above 0");
  SIBYL_REQUIRE(learner, value_coefficient, value >= 0 && finite(value), "0 or more");
  SIBYL_REQUIRE(learner, entropy_coefficient, value >= 0 && finite(value), "0 or more");
  SIBYL_REQUIRE(learner, max_gradient_norm, value > 0 && finite(value), "above 0");
  SIBYL_REQUIRE(learner, max_policy_lag, value >= 1, "at least 1");
  SIBYL_REQUIRE(learner, ranks,
                value >= 1 && e.actor().processes() % value == 0 && UnrollsPerBatch(e.learner()) % value == 0,
                absl::StrCat("a divisor of actor.processes (", e.actor().processes(),
                             ") and of the unrolls of a batch (", UnrollsPerBatch(e.learner()), ")"));
  const int unrolls = UnrollsPerBatch(e.learner()) / static_cast<int>(e.learner().ranks());
  SIBYL_REQUIRE(learner, minibatches, value >= 1 && unrolls % static_cast<int>(value) == 0,
                absl::StrCat("a divisor of the unrolls of a rank's batch (", unrolls, ")"));
  SIBYL_REQUIRE(learner, rank_limit_seconds, value > 0 && finite(value), "above 0");
  const int needed = UnrollSlotsNeeded(e);
  SIBYL_REQUIRE(learner, unroll_slots, value == 0 || static_cast<int>(value) >= needed,
                absl::StrCat("at least ", needed, ", which ", TotalEnvironments(e), " environments and a batch of ",
                             UnrollsPerBatch(e.learner()), " unrolls need; 0 takes what is needed"));
  SIBYL_REQUIRE(learner, inference_batch, value >= 1, "at least 1");
  SIBYL_REQUIRE(learner, inference_wait_ms, value >= 0 && value <= 10'000, "between 0 and 10000");
  SIBYL_REQUIRE(learner, training_threads, value <= 1024, "at most 1024; 0 takes a thread a core");
  SIBYL_REQUIRE(learner, inference_threads, value >= 1 && value <= 1024, "between 1 and 1024");
  SIBYL_REQUIRE(learner, device, value == "cpu" || value == "cuda" || absl::StartsWith(value, "cuda:"),
                "\"cpu\", \"cuda\" or \"cuda:<index>\"");
  SIBYL_REQUIRE(learner, checkpoint_seconds, value > 0 && finite(value), "above 0");
  SIBYL_REQUIRE(learner, checkpoints_kept, value >= 1, "at least 1");
  SIBYL_REQUIRE(learner, max_captions, value >= 1000, "at least 1000");
  SIBYL_REQUIRE(learner, episode_window, value >= 1, "at least 1");

  SIBYL_REQUIRE(reward, extrinsic_coefficient, finite(value), "a finite number");
  SIBYL_REQUIRE(reward, extrinsic_scale, finite(value), "a finite number");
  SIBYL_REQUIRE(reward, extrinsic_clip, value > 0, "above 0");
  SIBYL_REQUIRE(reward, intrinsic_coefficient, value >= 0 && finite(value), "0 or more");
  SIBYL_REQUIRE(reward, count_exponent, value >= 0 && finite(value), "0 or more");
  SIBYL_REQUIRE(reward, intrinsic_ceiling, value >= 0 && finite(value), "0 or more");
  if (e.reward().shaping() != v1::SHAPING_NONE && e.reward().credit() == v1::CREDIT_ONI) {
    return Invalid("reward.credit", "CREDIT_ONI", "left out where reward.shaping pays differences");
  }

  if (e.reward_model().kind() == v1::REWARD_MODEL_KIND_RANKING) {
    SIBYL_REQUIRE(reward_model, threshold, finite(value), "a finite number of deviations");
  } else {
    SIBYL_REQUIRE(reward_model, threshold, value >= 0 && value < 1, "at least 0 and below 1");
  }
  if (e.reward_model().label_set_size() < 2) {
    return Invalid("reward_model.label_set", absl::StrCat("[", absl::StrJoin(e.reward_model().label_set(), ", "), "]"),
                   "at least two labels, the good one last");
  }
  SIBYL_REQUIRE(reward_model, ask_after, value >= 1, "at least 1");
  SIBYL_REQUIRE(reward_model, max_candidates, value >= 1, "at least 1");
  SIBYL_REQUIRE(reward_model, queue_target, value >= 1 && value <= 1000, "between 1 and 1000");
  SIBYL_REQUIRE(reward_model, checkpoint_seconds, value > 0 && finite(value), "above 0");
  SIBYL_REQUIRE(reward_model().training, batch_size, value >= 1, "at least 1");
  SIBYL_REQUIRE(reward_model().training, learning_rate, value >= 0 && finite(value), "0 or more");
  SIBYL_REQUIRE(reward_model().training, passes, value > 0 && finite(value), "above 0");
  SIBYL_REQUIRE(reward_model().training, dropout, value >= 0 && value < 1, "at least 0 and below 1");
  SIBYL_REQUIRE(reward_model().training, text_length, value >= 27 && value <= 4096,
                "between 27 (three times a third of it is kept) and 4096");
  SIBYL_REQUIRE(reward_model().training, ensemble, value >= 1 && value <= 100, "between 1 and 100");
  SIBYL_REQUIRE(reward_model().training, ensemble_bound, value >= 0 && finite(value), "0 or more");
  SIBYL_REQUIRE(reward_model().training, cpu_share, value > 0 && value <= 1, "above 0 and at most 1");
  SIBYL_REQUIRE(reward_model().training, version_seconds, value >= 0 && finite(value), "0 or more");
  SIBYL_REQUIRE(reward_model().pairs, comparisons, value >= 1, "at least 1");
  SIBYL_REQUIRE(annotator, queue_capacity, value >= 1, "at least 1");
  SIBYL_REQUIRE(annotator, rules_noise, value >= 0 && value <= 1, "between 0 and 1");
  SIBYL_REQUIRE(annotator, rules_seconds, value >= 0 && finite(value), "0 or more");
  if (RewardsCaptions(e)) {
    SIBYL_REQUIRE(reward_model, goal, !value.empty(), "the goal in words, since intrinsic_coefficient is above 0");
    const bool retrieval = e.reward_model().kind() == v1::REWARD_MODEL_KIND_RETRIEVAL;
    SIBYL_REQUIRE(reward_model, weights_file, value.empty() || !retrieval,
                  "left out, or reward_model.kind REWARD_MODEL_KIND_CLASSIFICATION or REWARD_MODEL_KIND_RANKING");
    if (AsksJudge(e)) SIBYL_RETURN_IF_ERROR(ValidateJudge(e));
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
  const std::filesystem::path base = std::filesystem::path(path).parent_path();
  if (experiment.has_annotator()) {
    auto* annotator = experiment.mutable_annotator();
    annotator->set_rules_file(Absolute(annotator->rules_file(), base));
    if (annotator->has_openai()) {
      annotator->mutable_openai()->set_prompt_file(Absolute(annotator->openai().prompt_file(), base));
    }
  }
  auto* reward_model = experiment.mutable_reward_model();
  reward_model->set_goal_file(Absolute(reward_model->goal_file(), base));
  reward_model->set_weights_file(Absolute(reward_model->weights_file(), base));
  for (const std::string& override : overrides) SIBYL_RETURN_IF_ERROR(ApplyOverride(override, &experiment));
  if (!reward_model->goal_file().empty()) {
    if (!reward_model->goal().empty()) {
      return Invalid("reward_model.goal_file", Shown(reward_model->goal_file()),
                     "left out where reward_model.goal is set; one of them says what is wanted");
    }
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
  // Where the judge's file lies may change; its name is part of the judge's name, which labels carry.
  for (v1::Experiment* experiment : {&was, &is}) {
    v1::AnnotatorConfig& annotator = *experiment->mutable_annotator();
    for (std::string* path : {annotator.mutable_rules_file(), annotator.mutable_openai()->mutable_prompt_file(),
                              experiment->mutable_reward_model()->mutable_weights_file()}) {
      *path = std::filesystem::path(*path).filename().string();
    }
  }
  google::protobuf::util::MessageDifferencer differencer;
  const auto ignore = [&](const google::protobuf::Descriptor* in, std::initializer_list<const char*> names) {
    for (const char* name : names) differencer.IgnoreField(in->FindFieldByName(name));
  };
  ignore(v1::Experiment::descriptor(), {"total_steps", "name"});
  ignore(v1::PolicyConfig::descriptor(), {"precision"});
  ignore(v1::ActorConfig::descriptor(), {"processes", "codec", "silence_seconds", "inference", "stagger"});
  ignore(v1::LearnerConfig::descriptor(),
         {"unroll_slots", "inference_batch", "inference_wait_ms", "training_threads", "inference_threads", "device",
          "checkpoint_seconds", "checkpoints_kept", "max_captions", "episode_window", "ranks", "rank_limit_seconds"});
  ignore(v1::RewardModelConfig::descriptor(), {"ask_after", "max_candidates", "queue_target", "checkpoint_seconds"});
  ignore(v1::RewardTrainingConfig::descriptor(), {"cpu_share", "version_seconds", "rescore_steps"});
  ignore(v1::AnnotatorConfig::descriptor(), {"store", "queue_capacity", "rules_seconds"});
  ignore(v1::OpenAiConfig::descriptor(), {"url", "api_key_env", "max_in_flight", "timeout_seconds"});
  differencer.set_report_ignores(false);
  std::string report;
  differencer.ReportDifferencesToString(&report);
  if (differencer.Compare(was, is)) return "";
  // Lines read "modified: learner.gamma: 0.99 -> 0.9".
  return std::string(*absl::StrSplit(report, '\n').begin());
}

v1::Experiment RankShare(v1::Experiment experiment, int rank) {
  v1::LearnerConfig& learner = *experiment.mutable_learner();
  experiment.mutable_actor()->set_processes(experiment.actor().processes() / learner.ranks());
  learner.set_batch_size(learner.batch_size() / learner.ranks());
  if (rank > 0) experiment.set_seed(Mix64(experiment.seed() ^ Mix64(static_cast<uint64_t>(rank))));
  return experiment;
}

int TrainingThreads(const v1::LearnerConfig& learner) {
  if (learner.training_threads() > 0) return static_cast<int>(learner.training_threads());
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  const int unrolls = UnrollsPerBatch(learner) / static_cast<int>(learner.minibatches());
  return std::clamp(std::min(cores, unrolls / 4), 1, 8);
}

}  // namespace sibyl
