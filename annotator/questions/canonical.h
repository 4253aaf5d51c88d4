#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "google/protobuf/map.h"
#include "sibyl/v1/annotator.pb.h"

namespace sibyl::annotator {

// Canonical bytes of the parts of queries and answers, as JSON: equal parts give equal bytes, in every process and
// build. The store keeps them and a query's identity is made of them. The texts must be UTF-8, as protobuf's are.

// {"caption":"You open the door."}; names sorted.
std::string TextsJson(const google::protobuf::Map<std::string, std::string>& texts);
// {"choice":["unhelpful","helpful"]}, {"text":{"max_bytes":100}} or {"json_schema":{...}}. A schema keeps the order of
// its keys, in which servers write them, and loses its blanks.
std::string GrammarJson(const v1::Grammar& grammar);
// {"distribution":[0.1,0.9],"outside":0}, with "votes":[1,4] where there are some, {"text":"..."} or {"json":...}; empty where no form is set.
std::string AnswerJson(const v1::Answer& answer);

// The reverse; false where the bytes are none of these.
bool ParseTextsJson(absl::string_view json, google::protobuf::Map<std::string, std::string>* texts);
bool ParseGrammarJson(absl::string_view json, v1::Grammar* grammar);
bool ParseAnswerJson(absl::string_view json, v1::Answer* answer);

}  // namespace sibyl::annotator
