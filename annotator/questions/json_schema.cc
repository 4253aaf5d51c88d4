#include "annotator/questions/json_schema.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/status_macros.h"

namespace sibyl::annotator {
namespace {

using Json = nlohmann::ordered_json;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

bool IsStrings(const Json& json) {
  return json.is_array() && std::all_of(json.begin(), json.end(), [](const Json& entry) { return entry.is_string(); });
}
bool IsCount(const Json& json) { return json.is_number_unsigned(); }

constexpr const char* kTypes[] = {"object", "array", "string", "integer", "number", "boolean", "null"};

bool HasType(const Json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  if (type == "boolean") return value.is_boolean();
  return value.is_null();
}

// Characters, not bytes.
size_t Length(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

absl::Status CheckSchemaAt(const Json& schema, const std::string& at) {
  if (!schema.is_object()) return Invalid(at, " is no object");
  for (const auto& [keyword, value] : schema.items()) {
    bool good = true;
    if (keyword == "type") {
      good = value.is_string() &&
             std::find(std::begin(kTypes), std::end(kTypes), value.get<std::string>()) != std::end(kTypes);
    } else if (keyword == "enum") {
      good = value.is_array() && !value.empty();
    } else if (keyword == "properties") {
      good = value.is_object();
      if (good) {
        for (const auto& [name, property] : value.items()) {
          SIBYL_RETURN_IF_ERROR(CheckSchemaAt(property, absl::StrCat(at, ".properties.", name)));
        }
      }
    } else if (keyword == "items") {
      SIBYL_RETURN_IF_ERROR(CheckSchemaAt(value, at + ".items"));
    } else if (keyword == "required") {
      good = IsStrings(value);
    } else if (keyword == "additionalProperties") {
      good = value.is_boolean();
    } else if (keyword == "minItems" || keyword == "maxItems" || keyword == "minLength" || keyword == "maxLength") {
      good = IsCount(value);
    } else if (keyword == "minimum" || keyword == "maximum") {
      good = value.is_number();
    } else if (keyword != "const" && keyword != "title" && keyword != "description") {
      return Invalid(at, " has the keyword `", keyword,
                     "`, which cannot be checked; use type, enum, const, properties, required, additionalProperties, "
                     "items and limits");
    }
    if (!good) return Invalid(at, ".", keyword, " is ", value.dump(), ", which that keyword does not take");
  }
  return absl::OkStatus();
}

absl::Status CheckAt(const Json& schema, const Json& value, const std::string& at) {
  if (const auto type = schema.find("type"); type != schema.end() && !HasType(value, type->get<std::string>())) {
    return Invalid(at, " is ", value.dump(), ", must be of type ", type->get<std::string>());
  }
  if (const auto allowed = schema.find("enum");
      allowed != schema.end() && std::find(allowed->begin(), allowed->end(), value) == allowed->end()) {
    return Invalid(at, " is ", value.dump(), ", must be one of ", allowed->dump());
  }
  if (const auto constant = schema.find("const"); constant != schema.end() && *constant != value) {
    return Invalid(at, " is ", value.dump(), ", must be ", constant->dump());
  }
  const auto within = [&](const char* low, const char* high, auto measure) -> absl::Status {
    const auto least = schema.find(low), most = schema.find(high);
    if (least != schema.end() && measure < least->get<double>()) return Invalid(at, " is below its ", low);
    if (most != schema.end() && measure > most->get<double>()) return Invalid(at, " is above its ", high);
    return absl::OkStatus();
  };
  if (value.is_number()) SIBYL_RETURN_IF_ERROR(within("minimum", "maximum", value.get<double>()));
  if (value.is_string()) {
    SIBYL_RETURN_IF_ERROR(
        within("minLength", "maxLength", static_cast<double>(Length(value.get_ref<const std::string&>()))));
  }
  if (value.is_array()) {
    SIBYL_RETURN_IF_ERROR(within("minItems", "maxItems", static_cast<double>(value.size())));
    if (const auto items = schema.find("items"); items != schema.end()) {
      for (size_t i = 0; i < value.size(); ++i) {
        SIBYL_RETURN_IF_ERROR(CheckAt(*items, value[i], absl::StrCat(at, "[", i, "]")));
      }
    }
  }
  if (!value.is_object()) return absl::OkStatus();
  if (const auto required = schema.find("required"); required != schema.end()) {
    for (const Json& name : *required) {
      if (!value.contains(name.get<std::string>())) return Invalid(at, " lacks `", name.get<std::string>(), "`");
    }
  }
  const auto properties = schema.find("properties");
  const bool open = schema.value("additionalProperties", true);
  for (const auto& [name, member] : value.items()) {
    if (properties != schema.end() && properties->contains(name)) {
      SIBYL_RETURN_IF_ERROR(CheckAt((*properties)[name], member, absl::StrCat(at, ".", name)));
    } else if (!open) {
      return Invalid(at, " has `", name, "`, which the schema does not know");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckJsonSchema(const Json& schema) { return CheckSchemaAt(schema, "$"); }

absl::Status CheckJson(const Json& schema, const Json& value) { return CheckAt(schema, value, "$"); }

}  // namespace sibyl::annotator
