#include "annotator/store/edits.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "annotator/judges/query_key.h"
#include "annotator/judges/thinking.h"
#include "annotator/questions/canonical.h"
#include "annotator/questions/question.h"
#include "common/status_macros.h"

namespace sibyl::annotator {

std::string ImportJudge(const v1::Label& label) {
  return label.judge_identity().empty() ? absl::StrCat("import\n", label.judge()) : label.judge_identity();
}

std::string ImportKey(const v1::Label& label) {
  if (!label.key().empty()) return label.key();
  return Sha256(absl::StrCat("import\n", label.query().kind(), "\n", TextsJson(label.query().texts()), "\n",
                             label.query().goal(), "\n", GrammarJson(label.query().grammar()), "\n", label.judge(),
                             "\n", label.prompt()));
}

absl::Status CheckAnswer(const v1::Query& query, const v1::Answer& answer) {
  const auto invalid = [](absl::string_view what) { return absl::InvalidArgumentError(what); };
  switch (query.grammar().form_case()) {
    case v1::Grammar::kChoice: {
      const int labels = query.grammar().choice().labels_size();
      if (!answer.has_choice() || answer.choice().distribution_size() != labels) {
        return invalid(absl::StrCat("answer has ", answer.choice().distribution_size(),
                                    " probabilities, must have one for each of the ", labels, " labels"));
      }
      double sum = 0;
      for (const float p : answer.choice().distribution()) {
        if (!(p >= 0 && p <= 1)) return invalid(absl::StrCat("answer has the probability ", p, ", must be 0 to 1"));
        sum += p;
      }
      if (sum < 0.99 || sum > 1.01) return invalid(absl::StrCat("answer's probabilities sum to ", sum, ", must be 1"));
      return absl::OkStatus();
    }
    case v1::Grammar::kText:
      return answer.has_text() && !answer.text().empty() ? absl::OkStatus() : invalid("answer must be a text");
    default:
      return answer.has_json() ? absl::OkStatus() : invalid("answer must be JSON");
  }
}

absl::Status CheckEdit(const v1::EditRequest& request) {
  const auto invalid = [](absl::string_view what) { return absl::InvalidArgumentError(what); };
  switch (request.edit_case()) {
    case v1::EditRequest::kRetry:
      if (request.retry().outcomes().empty()) return invalid("retry.outcomes is empty, must name the ways of ending");
      for (const int outcome : request.retry().outcomes()) {
        if (outcome < v1::OUTCOME_ANSWERED || outcome > v1::OUTCOME_FAILED) {
          return invalid(absl::StrCat("retry.outcomes has ", outcome, ", must be an outcome"));
        }
      }
      return absl::OkStatus();
    case v1::EditRequest::kOverride:
      if (request.override().by().empty()) return invalid("override.by is empty, must say who overrides");
      return absl::OkStatus();
    case v1::EditRequest::kImport:
      if (request.import().labels_size() > kMaxImport) {
        return invalid(
            absl::StrCat("import.labels has ", request.import().labels_size(), ", may have at most ", kMaxImport));
      }
      for (int i = 0; i < request.import().labels_size(); ++i) {
        const v1::Label& label = request.import().labels(i);
        absl::Status status = CheckQuery(label.query());
        if (status.ok() && label.outcome() == v1::OUTCOME_UNSPECIFIED) status = invalid("outcome is not set");
        if (status.ok() && label.outcome() == v1::OUTCOME_ANSWERED) {
          status = CheckAnswer(label.query(), label.answer());
        }
        if (status.ok() && label.judge().empty()) status = invalid("judge is empty, must name who answered");
        if (status.ok() && !label.key().empty() && label.key().size() != 32) status = invalid("key must have 32 bytes");
        if (!status.ok()) return invalid(absl::StrCat("import.labels[", i, "]: ", status.message()));
      }
      return absl::OkStatus();
    case v1::EditRequest::kReparse:
      return absl::OkStatus();
    default:
      return invalid("edit is not set");
  }
}

absl::StatusOr<v1::Label> Overridden(const v1::Label& last, const v1::OverrideLabel& override) {
  if (const absl::Status status = CheckAnswer(last.query(), override.answer()); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("override.", status.message()));
  }
  v1::Label label;
  *label.mutable_query() = last.query();
  label.set_outcome(v1::OUTCOME_ANSWERED);
  *label.mutable_answer() = override.answer();
  label.set_judge(last.judge());
  label.set_prompt(last.prompt());
  label.set_overridden_by(override.by());
  return label;
}

std::optional<v1::Label> Reparsed(const v1::Label& label) {
  const Question* question = FindQuestion(label.query().kind());
  // An answer from before version 3 does not say whether it was cut off.
  if (question == nullptr || label.reason().empty() || absl::StartsWith(label.reason(), kCutOff)) return std::nullopt;
  const std::optional<absl::string_view> answer = WithoutThinking(label.raw());
  if (!answer.has_value()) return std::nullopt;
  Reply reply;
  reply.text = std::string(*answer);
  const Reading reading = question->read(label.query(), reply);
  if (reading.outcome != v1::OUTCOME_ANSWERED) return std::nullopt;
  v1::Label again;
  *again.mutable_query() = label.query();
  again.set_outcome(reading.outcome);
  *again.mutable_answer() = reading.answer;
  again.set_judge(label.judge());
  again.set_prompt(label.prompt());
  again.set_raw(label.raw());
  return again;
}

}  // namespace sibyl::annotator
