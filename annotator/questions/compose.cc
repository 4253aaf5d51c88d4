// "compose": a text, or JSON under a schema, about a text.

#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "annotator/questions/json_schema.h"
#include "annotator/questions/json_text.h"
#include "annotator/questions/kinds.h"

namespace sibyl::annotator {
namespace {

using Json = nlohmann::ordered_json;

// The first value in a text; discarded where there is none. A schema that asks for an object or a list finds it between
// other words.
Json FindJson(absl::string_view text) {
  const absl::string_view body = WithoutFence(text);
  Json json = Json::parse(body.begin(), body.end(), nullptr, /*allow_exceptions=*/false);
  for (const auto& [open, close] : {std::pair{'{', '}'}, std::pair{'[', ']'}}) {
    const size_t begin = body.find(open), end = body.rfind(close);
    if (!json.is_discarded() || begin == absl::string_view::npos || end == absl::string_view::npos || end < begin)
      continue;
    json = Json::parse(body.begin() + begin, body.begin() + end + 1, nullptr, /*allow_exceptions=*/false);
  }
  return json;
}

absl::Status Check(const v1::Query& query) {
  switch (query.grammar().form_case()) {
    case v1::Grammar::kText:
      return absl::OkStatus();
    case v1::Grammar::kJsonSchema: {
      const Json schema = Json::parse(query.grammar().json_schema(), nullptr, /*allow_exceptions=*/false);
      if (schema.is_discarded()) return absl::InvalidArgumentError("grammar.json_schema is no JSON");
      const absl::Status status = CheckJsonSchema(schema);
      if (status.ok()) return status;
      return absl::InvalidArgumentError(absl::StrCat("grammar.json_schema: ", status.message()));
    }
    default:
      return absl::InvalidArgumentError("grammar has neither `text` nor `json_schema`; `compose` needs one of them");
  }
}

AnswerForm Form(const v1::Query& query) { return {.json_schema = query.grammar().json_schema()}; }

Reading Read(const v1::Query& query, const Reply& reply) {
  Reading reading;
  const absl::string_view text = absl::StripAsciiWhitespace(reply.text);
  if (reply.cut || text.empty()) return reading;
  if (absl::EqualsIgnoreCase(text, "abstain") || absl::EqualsIgnoreCase(text, "abstain.")) {
    reading.outcome = v1::OUTCOME_ABSTAINED;
    return reading;
  }
  if (query.grammar().has_text()) {
    const uint32_t most = query.grammar().text().max_bytes();
    if (most > 0 && text.size() > most) return reading;
    reading.answer.set_text(std::string(text));
  } else {
    const Json json = FindJson(text);
    if (json.is_discarded() || !CheckJson(Json::parse(query.grammar().json_schema()), json).ok()) return reading;
    reading.answer.set_json(nlohmann::json(json).dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  reading.outcome = v1::OUTCOME_ANSWERED;
  return reading;
}

}  // namespace

Question Compose() {
  return {.kind = "compose",
          .texts = {{"text"}, {"context", /*required=*/false}},
          .check = Check,
          .form = Form,
          .read = Read,
          .by_labels = nullptr};
}

}  // namespace sibyl::annotator
