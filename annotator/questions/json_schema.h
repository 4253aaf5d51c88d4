#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/status.h"

namespace sibyl::annotator {

// The part of JSON Schema that servers hold answers to and that can be checked here: type, enum, const, properties,
// required, additionalProperties (a boolean), items, minItems, maxItems, minLength, maxLength, minimum and maximum, and
// the remarks title and description.

// InvalidArgument for a schema with other keywords or malformed ones; names the place (`$.properties.a`) and the
// keyword.
absl::Status CheckJsonSchema(const nlohmann::ordered_json& schema);

// Whether a value is valid under a schema that passed CheckJsonSchema; the error names the place in the value.
absl::Status CheckJson(const nlohmann::ordered_json& schema, const nlohmann::ordered_json& value);

}  // namespace sibyl::annotator
