#include "annotator/tools/labels_format.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "annotator/questions/canonical.h"
#include "common/status_macros.h"
#include "common/utf8.h"

namespace sibyl::annotator {
namespace {

using Json = nlohmann::ordered_json;

const std::pair<v1::Outcome, const char*> kOutcomes[] = {{v1::OUTCOME_ANSWERED, "answered"},
                                                         {v1::OUTCOME_ABSTAINED, "abstained"},
                                                         {v1::OUTCOME_UNPARSABLE, "unparsable"},
                                                         {v1::OUTCOME_FAILED, "failed"}};

// The columns of CSV; those of lines of JSON that are no objects.
const char* const kColumns[] = {"query",   "kind",   "caption", "first",         "second",
                                "context", "goal",   "outcome", "label",         "probability",
                                "judge",   "prompt", "attempt", "prompt_tokens", "completion_tokens",
                                "cost",    "reason", "run",     "overridden_by", "committed",
                                "raw"};

std::map<std::string, std::string> Row(const v1::Label& label) {
  double probability = 0;
  std::map<std::string, std::string> row;
  row["query"] = absl::StrCat(label.query_id());
  row["kind"] = label.query().kind();
  for (const auto& [name, text] : label.query().texts()) row[name] = text;
  row["goal"] = label.query().goal();
  row["outcome"] = OutcomeName(label.outcome());
  row["label"] = LikeliestLabel(label, &probability);
  if (!row["label"].empty()) row["probability"] = absl::StrCat(probability);
  row["judge"] = label.judge();
  row["prompt"] = label.prompt();
  row["attempt"] = absl::StrCat(label.attempt());
  row["prompt_tokens"] = absl::StrCat(label.prompt_tokens());
  row["completion_tokens"] = absl::StrCat(label.completion_tokens());
  row["cost"] = absl::StrCat(label.cost());
  row["reason"] = label.reason();
  row["run"] = label.run();
  row["overridden_by"] = label.overridden_by();
  row["committed"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromUnixMicros(label.committed_unix_micros()),
                                      absl::UTCTimeZone());
  row["raw"] = label.raw();
  return row;
}

std::string Quoted(const std::string& field) {
  if (field.find_first_of(",\"\r\n") == std::string::npos) return field;
  return absl::StrCat("\"", absl::StrReplaceAll(field, {{"\"", "\"\""}}), "\"");
}

// A label of a row of named fields.
absl::StatusOr<v1::Label> LabelOfRow(const std::map<std::string, std::string>& row, const ImportDefaults& defaults) {
  const auto field = [&](const char* name, const std::string& otherwise = "") {
    const auto it = row.find(name);
    return it == row.end() || it->second.empty() ? otherwise : it->second;
  };
  v1::Label label;
  v1::Query& query = *label.mutable_query();
  const bool compares = !field("first").empty();
  query.set_kind(field("kind", compares ? "compare" : "classify"));
  for (const char* name : {"caption", "first", "second", "context", "text"}) {
    if (!field(name).empty()) (*query.mutable_texts())[name] = field(name);
  }
  query.set_goal(field("goal", defaults.goal));
  if (query.goal().empty()) return absl::InvalidArgumentError("has no goal; name one with --goal");
  const std::vector<std::string> labels =
      compares ? std::vector<std::string>{"first", "second", "tie"} : defaults.labels;
  for (const std::string& name : labels) query.mutable_grammar()->mutable_choice()->add_labels(name);
  label.set_judge(field("judge", defaults.judge));
  label.set_prompt(field("prompt", defaults.prompt));
  if (label.judge().empty()) return absl::InvalidArgumentError("has no judge; name one with --judge");
  label.set_raw(field("raw"));
  label.set_reason(field("reason"));
  label.set_run(field("run"));
  label.set_overridden_by(field("overridden_by"));
  SIBYL_ASSIGN_OR_RETURN(const v1::Outcome outcome, OutcomeOf(field("outcome", "answered")));
  label.set_outcome(outcome);
  if (outcome != v1::OUTCOME_ANSWERED) return label;
  const auto chosen = std::find(labels.begin(), labels.end(), field("label"));
  if (chosen == labels.end()) {
    return absl::InvalidArgumentError(absl::StrCat("has the label `", field("label"), "`, must be one of ",
                                                   absl::StrJoin(labels, ", "), "; --labels names others"));
  }
  double probability = 1;
  if (!field("probability").empty() &&
      (!absl::SimpleAtod(field("probability"), &probability) || !(probability >= 0 && probability <= 1))) {
    return absl::InvalidArgumentError(absl::StrCat("has the probability `", field("probability"), "`, must be 0 to 1"));
  }
  for (size_t i = 0; i < labels.size(); ++i) {
    const bool is_chosen = i == static_cast<size_t>(chosen - labels.begin());
    label.mutable_answer()->mutable_choice()->add_distribution(
        static_cast<float>(is_chosen ? probability : (1 - probability) / static_cast<double>(labels.size() - 1)));
  }
  return label;
}

absl::Status AtLine(int line, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("line ", line, " ", status.message()));
}

// One record of CSV; false at the end. A quoted field may hold line breaks.
bool NextRecord(std::istream& in, std::vector<std::string>* fields, int* lines) {
  fields->assign(1, "");
  bool quoted = false, any = false;
  for (int c; (c = in.get()) != EOF;) {
    any = true;
    if (c == '\n') ++*lines;
    if (quoted) {
      if (c != '"') {
        fields->back() += static_cast<char>(c);
      } else if (in.peek() == '"') {
        fields->back() += static_cast<char>(in.get());
      } else {
        quoted = false;
      }
    } else if (c == '"' && fields->back().empty()) {
      quoted = true;
    } else if (c == ',') {
      fields->emplace_back();
    } else if (c == '\n') {
      return true;
    } else if (c != '\r') {
      fields->back() += static_cast<char>(c);
    }
  }
  return any;
}

// A NumPy array of bytes (format versions 1 and 2), in C order.
struct ByteArray {
  std::vector<size_t> shape;
  std::string bytes;
};
absl::StatusOr<ByteArray> ReadNpy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  const auto invalid = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(path, " ", what));
  };
  char start[8];
  if (!file.read(start, 8) || std::string(start, 6) != "\x93NUMPY") return invalid("is no NumPy array");
  unsigned char size[4] = {};
  if (!file.read(reinterpret_cast<char*>(size), start[6] == 1 ? 2 : 4)) return invalid("is cut short");
  const size_t length = size[0] | size[1] << 8 | size[2] << 16 | static_cast<size_t>(size[3]) << 24;
  if (length > 1 << 20) return invalid("has a header that is too long");
  std::string header(length, '\0');
  if (!file.read(header.data(), static_cast<std::streamsize>(length))) return invalid("is cut short");
  if (!absl::StrContains(header, "'|u1'") && !absl::StrContains(header, "'|i1'")) {
    return invalid("must be an array of bytes (uint8 or int8)");
  }
  if (!absl::StrContains(header, "'fortran_order': False")) return invalid("must be in C order");
  ByteArray array;
  const size_t open = header.find('('), close = header.find(')');
  if (open == std::string::npos || close == std::string::npos) return invalid("has no shape");
  size_t count = 1;
  for (absl::string_view part :
       absl::StrSplit(header.substr(open + 1, close - open - 1), ',', absl::SkipWhitespace())) {
    size_t extent = 0;
    if (!absl::SimpleAtoi(part, &extent)) return invalid("has no shape");
    array.shape.push_back(extent);
    count *= extent;
  }
  array.bytes.resize(count);
  if (!file.read(array.bytes.data(), static_cast<std::streamsize>(count))) return invalid("is cut short");
  return array;
}

}  // namespace

std::string OutcomeName(v1::Outcome outcome) {
  for (const auto& [value, name] : kOutcomes) {
    if (value == outcome) return name;
  }
  return "unspecified";
}

absl::StatusOr<v1::Outcome> OutcomeOf(const std::string& name) {
  for (const auto& [value, known] : kOutcomes) {
    if (known == name) return value;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("has the outcome `", name, "`, must be answered, abstained, unparsable or failed"));
}

std::string LikeliestLabel(const v1::Label& label, double* probability) {
  const auto& distribution = label.answer().choice().distribution();
  const auto& labels = label.query().grammar().choice().labels();
  if (label.outcome() != v1::OUTCOME_ANSWERED || distribution.empty() || distribution.size() != labels.size())
    return "";
  const auto best = std::max_element(distribution.begin(), distribution.end());
  if (probability != nullptr) *probability = *best;
  return labels[static_cast<int>(best - distribution.begin())];
}

std::string LabelJson(const v1::Label& label) {
  const auto row = Row(label);
  Json json;
  json["sequence"] = label.sequence();
  json["query"] = label.query_id();
  json["kind"] = label.query().kind();
  json["texts"] = Json::parse(TextsJson(label.query().texts()));
  json["goal"] = label.query().goal();
  json["grammar"] = Json::parse(GrammarJson(label.query().grammar()));
  json["outcome"] = OutcomeName(label.outcome());
  if (label.outcome() == v1::OUTCOME_ANSWERED) {
    json["answer"] = Json::parse(AnswerJson(label.answer()));
    double probability = 0;
    if (const std::string name = LikeliestLabel(label, &probability); !name.empty()) {
      json["label"] = name;
      json["probability"] = probability;
    }
  }
  json["judge"] = label.judge();
  json["prompt"] = label.prompt();
  json["attempt"] = label.attempt();
  json["prompt_tokens"] = label.prompt_tokens();
  json["completion_tokens"] = label.completion_tokens();
  json["cost"] = label.cost();
  if (!label.reason().empty()) json["reason"] = label.reason();
  json["run"] = label.run();
  if (!label.overridden_by().empty()) json["overridden_by"] = label.overridden_by();
  json["committed"] = row.at("committed");
  json["raw"] = label.raw();
  if (!label.key().empty()) {
    json["key"] = absl::BytesToHexString(label.key());
    json["judge_identity"] = label.judge_identity();
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

const char kCsvHeader[] =
    "query,kind,caption,first,second,context,goal,outcome,label,probability,judge,prompt,attempt,prompt_tokens,"
    "completion_tokens,cost,reason,run,overridden_by,committed,raw\r\n";

std::string LabelCsv(const v1::Label& label) {
  const auto row = Row(label);
  std::string line;
  for (const char* column : kColumns) {
    const auto field = row.find(column);
    absl::StrAppend(&line, line.empty() ? "" : ",", field == row.end() ? "" : Quoted(field->second));
  }
  return line + "\r\n";
}

absl::Status ReadJsonLines(std::istream& in, const ImportDefaults& defaults,
                           const std::function<absl::Status(v1::Label)>& on_label) {
  std::string text;
  for (int line = 1; std::getline(in, text); ++line) {
    if (absl::StripAsciiWhitespace(text).empty()) continue;
    const Json json = Json::parse(text, nullptr, false);
    if (!json.is_object()) return AtLine(line, absl::InvalidArgumentError("is no JSON object"));
    std::map<std::string, std::string> row;
    for (const auto& [name, value] : json.items()) {
      row[name] = value.is_string() ? value.get<std::string>() : value.dump();
    }
    const bool whole = json.contains("texts") && json.contains("grammar");
    v1::Label label;
    if (whole) {
      label.mutable_query()->set_kind(row["kind"]);
      label.mutable_query()->set_goal(row["goal"]);
      label.set_judge(row["judge"]);
      label.set_prompt(row["prompt"]);
      label.set_raw(row["raw"]);
      label.set_reason(row["reason"]);
      label.set_run(row["run"]);
      label.set_overridden_by(row["overridden_by"]);
      label.set_judge_identity(row["judge_identity"]);
      label.set_key(absl::HexStringToBytes(row["key"]));
      const auto number = [&](const char* name) {
        return json.contains(name) && json[name].is_number() ? json[name].get<double>() : 0;
      };
      label.set_prompt_tokens(static_cast<uint64_t>(number("prompt_tokens")));
      label.set_completion_tokens(static_cast<uint64_t>(number("completion_tokens")));
      label.set_cost(number("cost"));
      const auto outcome = OutcomeOf(row["outcome"]);
      if (!outcome.ok()) return AtLine(line, outcome.status());
      label.set_outcome(*outcome);
      if (!ParseTextsJson(json["texts"].dump(), label.mutable_query()->mutable_texts()) ||
          !ParseGrammarJson(json["grammar"].dump(), label.mutable_query()->mutable_grammar()) ||
          (*outcome == v1::OUTCOME_ANSWERED && !ParseAnswerJson(row["answer"], label.mutable_answer()))) {
        return AtLine(line, absl::InvalidArgumentError("has texts, a grammar or an answer that were not exported"));
      }
    } else {
      auto read = LabelOfRow(row, defaults);
      if (!read.ok()) return AtLine(line, read.status());
      label = *std::move(read);
    }
    if (const absl::Status status = on_label(std::move(label)); !status.ok()) return AtLine(line, status);
  }
  return absl::OkStatus();
}

absl::Status ReadCsv(std::istream& in, const ImportDefaults& defaults,
                     const std::function<absl::Status(v1::Label)>& on_label) {
  std::vector<std::string> names, fields;
  int lines = 0;
  if (!NextRecord(in, &names, &lines)) return absl::InvalidArgumentError("line 1 has no names of columns");
  for (int line = lines + 1; NextRecord(in, &fields, &lines); line = lines + 1) {
    if (fields.size() == 1 && fields[0].empty()) continue;
    if (fields.size() != names.size()) {
      return AtLine(line, absl::InvalidArgumentError(
                              absl::StrCat("has ", fields.size(), " fields, the first line has ", names.size())));
    }
    std::map<std::string, std::string> row;
    for (size_t i = 0; i < names.size(); ++i) row[names[i]] = fields[i];
    auto label = LabelOfRow(row, defaults);
    if (!label.ok()) return AtLine(line, label.status());
    if (const absl::Status status = on_label(*std::move(label)); !status.ok()) return AtLine(line, status);
  }
  return absl::OkStatus();
}

absl::Status ReadMotif(const std::string& folder, const std::string& preference, const ImportDefaults& defaults,
                       const std::function<absl::Status(v1::Label)>& on_label) {
  SIBYL_ASSIGN_OR_RETURN(const ByteArray messages, ReadNpy(folder + "/data/message.npy"));
  const std::string preference_path = absl::StrCat(folder, "/preference/", preference, ".npy");
  SIBYL_ASSIGN_OR_RETURN(const ByteArray preferences, ReadNpy(preference_path));
  const std::vector<size_t>& shape = messages.shape;
  if (shape.size() != 4 || shape[1] != 2 || shape[2] != 1 || shape[3] == 0) {
    return absl::InvalidArgumentError(absl::StrCat(folder, "/data/message.npy has the shape [",
                                                   absl::StrJoin(shape, ", "),
                                                   "], must be [N, 2, 1, bytes]: single observations"));
  }
  if (preferences.shape.size() != 1 || preferences.shape[0] != shape[0]) {
    return absl::InvalidArgumentError(absl::StrCat(
        preference_path, " has the shape [", absl::StrJoin(preferences.shape, ", "), "], must be [", shape[0], "]"));
  }
  const auto message = [&](size_t pair, size_t which) {
    const absl::string_view bytes = absl::string_view(messages.bytes).substr((pair * 2 + which) * shape[3], shape[3]);
    return ValidUtf8(absl::StripAsciiWhitespace(bytes.substr(0, bytes.find('\0'))));
  };
  const char* const names[] = {"first", "second", "tie"};
  for (size_t pair = 0; pair < shape[0]; ++pair) {
    const auto better = static_cast<unsigned char>(preferences.bytes[pair]);
    std::map<std::string, std::string> row = {{"first", message(pair, 0)}, {"second", message(pair, 1)}};
    if (better > 2 || row["first"].empty() || row["second"].empty() || row["first"] == row["second"]) continue;
    row["label"] = names[better];
    SIBYL_ASSIGN_OR_RETURN(v1::Label label, LabelOfRow(row, defaults));
    SIBYL_RETURN_IF_ERROR(on_label(std::move(label)));
  }
  return absl::OkStatus();
}

}  // namespace sibyl::annotator
