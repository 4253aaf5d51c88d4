#include "annotator/questions/canonical.h"

#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace sibyl::annotator {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

// The shortest decimal that reads back as the same float.
std::string Shortest(float value) {
  for (int digits = 6; digits < 9; ++digits) {
    std::string text = absl::StrFormat("%.*g", digits, value);
    float back = 0;
    if (absl::SimpleAtof(text, &back) && back == value) return text;
  }
  return absl::StrFormat("%.9g", value);
}

}  // namespace

std::string TextsJson(const google::protobuf::Map<std::string, std::string>& texts) {
  nlohmann::json json = nlohmann::json::object();  // sorts by name
  for (const auto& [name, text] : texts) json[name] = text;
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string GrammarJson(const v1::Grammar& grammar) {
  Json json = Json::object();
  switch (grammar.form_case()) {
    case v1::Grammar::kChoice:
      json["choice"] = Json::array();
      for (const std::string& label : grammar.choice().labels()) json["choice"].push_back(label);
      break;
    case v1::Grammar::kText:
      json["text"] = {{"max_bytes", grammar.text().max_bytes()}};
      break;
    case v1::Grammar::kJsonSchema:
      json["json_schema"] = Json::parse(grammar.json_schema(), nullptr, /*allow_exceptions=*/false);
      if (json["json_schema"].is_discarded()) json["json_schema"] = grammar.json_schema();
      break;
    case v1::Grammar::FORM_NOT_SET:
      break;
  }
  return Dump(json);
}

std::string AnswerJson(const v1::Answer& answer) {
  switch (answer.form_case()) {
    case v1::Answer::kChoice:
      return absl::StrCat("{\"distribution\":[",
                          absl::StrJoin(answer.choice().distribution(), ",",
                                        [](std::string* out, float p) { absl::StrAppend(out, Shortest(p)); }),
                          "],\"outside\":", Shortest(answer.choice().outside()),
                          answer.choice().votes().empty()
                              ? ""
                              : absl::StrCat(",\"votes\":[", absl::StrJoin(answer.choice().votes(), ","), "]"),
                          "}");
    case v1::Answer::kText:
      return Dump(Json{{"text", answer.text()}});
    case v1::Answer::kJson:
      return absl::StrCat("{\"json\":", answer.json(), "}");
    case v1::Answer::FORM_NOT_SET:
      break;
  }
  return "";
}

bool ParseTextsJson(absl::string_view json, google::protobuf::Map<std::string, std::string>* texts) {
  const Json parsed = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) return false;
  for (const auto& [name, text] : parsed.items()) {
    if (!text.is_string()) return false;
    (*texts)[name] = text.get<std::string>();
  }
  return true;
}

bool ParseGrammarJson(absl::string_view json, v1::Grammar* grammar) {
  const Json parsed = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) return false;
  if (const auto choice = parsed.find("choice"); choice != parsed.end() && choice->is_array()) {
    for (const Json& label : *choice) {
      if (!label.is_string()) return false;
      grammar->mutable_choice()->add_labels(label.get<std::string>());
    }
    return grammar->has_choice();
  }
  if (const auto text = parsed.find("text"); text != parsed.end() && text->is_object()) {
    grammar->mutable_text()->set_max_bytes(text->value("max_bytes", 0u));
    return true;
  }
  if (const auto schema = parsed.find("json_schema"); schema != parsed.end()) {
    grammar->set_json_schema(Dump(*schema));
    return true;
  }
  return false;
}

bool ParseAnswerJson(absl::string_view json, v1::Answer* answer) {
  const Json parsed = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) return false;
  if (const auto choice = parsed.find("distribution"); choice != parsed.end() && choice->is_array()) {
    for (const Json& probability : *choice) {
      if (!probability.is_number()) return false;
      answer->mutable_choice()->add_distribution(probability.get<float>());
    }
    answer->mutable_choice()->set_outside(parsed.value("outside", 0.0f));
    if (const auto votes = parsed.find("votes"); votes != parsed.end() && votes->is_array()) {
      for (const Json& count : *votes) {
        if (!count.is_number_unsigned()) return false;
        answer->mutable_choice()->add_votes(count.get<uint32_t>());
      }
    }
    return true;
  }
  if (const auto text = parsed.find("text"); text != parsed.end() && text->is_string()) {
    answer->set_text(text->get<std::string>());
    return true;
  }
  if (const auto value = parsed.find("json"); value != parsed.end()) {
    answer->set_json(Dump(*value));
    return true;
  }
  return false;
}

}  // namespace sibyl::annotator
