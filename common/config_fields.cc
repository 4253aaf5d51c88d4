#include "common/config_fields.h"

#include <google/protobuf/text_format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <regex>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/nearest.h"
#include "common/status_macros.h"
#include "common/utf8.h"

namespace sibyl {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// std::regex takes stack in proportion to a text. No pattern means longer texts than this.
constexpr size_t kLongestMatch = 1000;

bool IsMessage(const FieldDescriptor* field) { return field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE; }

void Visit(const Message& message, const std::string& prefix, const FieldVisitor& visit) {
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    const std::string path = prefix + field->name();
    if (IsMessage(field)) {
      Visit(message.GetReflection()->GetMessage(message, field), path + ".", visit);
    } else {
      visit(message, field, path);
    }
  }
}

// A number of the command line that is whole and not negative: "1000", "1e6", "2.5k", "1M". nullopt where the text is
// none, or too large.
std::optional<uint64_t> WholeNumber(absl::string_view text) {
  int exponent = 0;
  if (!text.empty()) {
    switch (text.back()) {
      case 'k':
        exponent = 3;
        break;
      case 'M':
        exponent = 6;
        break;
      case 'G':
        exponent = 9;
        break;
      default:
        break;
    }
    if (exponent > 0) text.remove_suffix(1);
  }
  if (const size_t e = text.find_first_of("eE"); e != absl::string_view::npos) {
    int written = 0;
    if (exponent > 0 || !absl::SimpleAtoi(text.substr(e + 1), &written) || std::abs(written) > 100) return {};
    exponent = written;
    text = text.substr(0, e);
  }
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits('.', 1));
  std::string digits = absl::StrCat(parts.first, parts.second);
  exponent -= static_cast<int>(std::min<size_t>(parts.second.size(), 1000));
  const auto is_digit = [](char c) { return absl::ascii_isdigit(c); };
  if (digits.empty() || !std::all_of(digits.begin(), digits.end(), is_digit)) return {};
  for (; exponent < 0; ++exponent) {
    if (digits.empty() || digits.back() != '0') return {};
    digits.pop_back();
  }
  digits.append(static_cast<size_t>(exponent), '0');
  uint64_t value = 0;
  if (digits.empty() || !absl::SimpleAtoi(digits, &value)) return {};
  return value;
}

std::vector<std::string> ShortNames(const google::protobuf::EnumDescriptor* type) {
  std::vector<std::string> names;
  for (int i = 1; i < type->value_count(); ++i) names.push_back(ShortName(type->value(i)));
  return names;
}

// False where the text is no value of the field's type.
bool ParseNumber(const std::string& text, const FieldDescriptor* field, Message* holder) {
  const Reflection* reflection = holder->GetReflection();
  const std::optional<uint64_t> whole = WholeNumber(text);
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
      if (!whole.has_value() || *whole > std::numeric_limits<uint32_t>::max()) return false;
      reflection->SetUInt32(holder, field, static_cast<uint32_t>(*whole));
      return true;
    case FieldDescriptor::CPPTYPE_UINT64:
      if (!whole.has_value()) return false;
      reflection->SetUInt64(holder, field, *whole);
      return true;
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      if (!absl::SimpleAtod(text, &value)) return false;
      reflection->SetDouble(holder, field, value);
      return true;
    }
    default:
      return false;
  }
}

// As --set takes it: 0.5, 65536, 1e15.
std::string NumberText(double value) {
  if (value != std::floor(value) || std::abs(value) > 9e18) return absl::StrCat(value);
  int64_t whole = static_cast<int64_t>(value);
  if (whole < 1'000'000'000) return absl::StrCat(whole);
  int zeros = 0;
  for (; whole % 10 == 0; whole /= 10) ++zeros;
  return absl::StrCat(whole, "e", zeros);
}

absl::Status CheckText(const std::string& path, const std::string& value, const FieldDescriptor* field) {
  const v1::FieldRule& rule = RuleOf(field);
  const auto is_control = [&](char c) {
    return absl::ascii_iscntrl(c) && !(rule.multiline() && (c == '\n' || c == '\t'));
  };
  if (!IsUtf8(value) || std::any_of(value.begin(), value.end(), is_control)) {
    return InvalidField(path, absl::StrCat("`", absl::CEscape(value), "`"), "UTF-8 text without control characters");
  }
  if (value.empty() && rule.required()) return InvalidField(path, "not set", rule.must());
  if (!value.empty() && !rule.pattern().empty() &&
      (value.size() > kLongestMatch || !std::regex_match(value, std::regex(rule.pattern())))) {
    return InvalidField(path, absl::StrCat("`", value, "`"), rule.must());
  }
  return absl::OkStatus();
}

bool IsWithinLimits(double value, const v1::FieldRule& rule) {
  if (!std::isfinite(value)) return false;
  if (rule.or_zero() && value == 0) return true;
  return (!rule.has_min() || value >= rule.min()) && (!rule.has_above() || value > rule.above()) &&
         (!rule.has_max() || value <= rule.max()) && (!rule.has_below() || value < rule.below());
}

absl::Status CheckField(const Message& holder, const FieldDescriptor* field, const std::string& path) {
  const Reflection* reflection = holder.GetReflection();
  double number = 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      if (!field->is_repeated()) return CheckText(path, reflection->GetString(holder, field), field);
      for (int i = 0; i < reflection->FieldSize(holder, field); ++i) {
        SIBYL_RETURN_IF_ERROR(CheckText(path, reflection->GetRepeatedString(holder, field, i), field));
      }
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_ENUM: {
      const int value = reflection->GetEnumValue(holder, field);
      if (value != 0 && field->enum_type()->FindValueByNumber(value) != nullptr) return absl::OkStatus();
      return InvalidField(path, FieldText(holder, field), LimitsText(field));
    }
    case FieldDescriptor::CPPTYPE_UINT32:
      number = reflection->GetUInt32(holder, field);
      break;
    case FieldDescriptor::CPPTYPE_UINT64:
      number = static_cast<double>(reflection->GetUInt64(holder, field));
      break;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      number = reflection->GetDouble(holder, field);
      break;
    default:
      return absl::OkStatus();
  }
  if (IsWithinLimits(number, RuleOf(field))) return absl::OkStatus();
  return InvalidField(path, FieldText(holder, field), LimitsText(field));
}

// Whether a resumed run may have the second value. The messages are of the same type.
bool MayFollow(const Message& was, const Message& is, const FieldDescriptor* field) {
  if (RuleOf(field).resume() == v1::FieldRule::FREE) return true;
  if (RuleOf(field).file()) {
    const auto name = [&](const Message& holder) {
      return std::filesystem::path(holder.GetReflection()->GetString(holder, field)).filename();
    };
    return name(was) == name(is);
  }
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
    return was.GetReflection()->GetDouble(was, field) == is.GetReflection()->GetDouble(is, field);
  }
  return FieldText(was, field) == FieldText(is, field);
}

std::string Difference(const Message& was, const Message& is, const std::string& prefix) {
  for (int i = 0; i < was.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = was.GetDescriptor()->field(i);
    const std::string path = prefix + field->name();
    if (IsMessage(field)) {
      const std::string inside = Difference(was.GetReflection()->GetMessage(was, field),
                                            is.GetReflection()->GetMessage(is, field), path + ".");
      if (!inside.empty()) return inside;
    } else if (!MayFollow(was, is, field)) {
      return absl::StrCat(path, " was ", FieldText(was, field), " and is now ", FieldText(is, field));
    }
  }
  return "";
}

}  // namespace

const v1::FieldRule& RuleOf(const FieldDescriptor* field) { return field->options().GetExtension(v1::rule); }

void ForEachField(const Message& config, const FieldVisitor& visit) { Visit(config, "", visit); }

std::vector<std::string> FieldPaths(const Message& config) {
  std::vector<std::string> paths;
  ForEachField(config, [&](const Message&, const FieldDescriptor*, const std::string& path) { paths.push_back(path); });
  return paths;
}

absl::Status SetField(const std::string& path, const std::string& text, const FieldDescriptor* field, Message* holder) {
  const Reflection* reflection = holder->GetReflection();
  const auto refuse = [&](absl::string_view takes) {
    return absl::InvalidArgumentError(
        absl::StrCat("config: ", path, " cannot be set to `", absl::CEscape(text), "`: it takes ", takes));
  };
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      // protobuf would keep bytes that it cannot send.
      if (!IsUtf8(text)) return refuse("UTF-8 text");
      if (!field->is_repeated()) {
        reflection->SetString(holder, field, text);
        return absl::OkStatus();
      }
      reflection->ClearField(holder, field);
      for (absl::string_view item : absl::StrSplit(text, ',')) reflection->AddString(holder, field, std::string(item));
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_ENUM: {
      const EnumValueDescriptor* value = FindEnumValue(field->enum_type(), text);
      if (value == nullptr) {
        const std::vector<std::string> names = ShortNames(field->enum_type());
        return refuse(absl::StrCat("one of ", absl::StrJoin(names, ", "), DidYouMean(text, names)));
      }
      reflection->SetEnum(holder, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      bool value = false;
      if (!absl::SimpleAtob(text, &value)) return refuse("true or false");
      reflection->SetBool(holder, field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return ParseNumber(text, field, holder) ? absl::OkStatus() : refuse("a number, e.g. 0.5 or 1e-4");
    default:
      return ParseNumber(text, field, holder) ? absl::OkStatus()
                                              : refuse("a whole number of 0 or more, e.g. 512, 1e6 or 2k");
  }
}

void FillFieldDefaults(Message* config) {
  const Descriptor* type = config->GetDescriptor();
  const Reflection* reflection = config->GetReflection();
  const auto is_set = [&](const FieldDescriptor* field) {
    return field->is_repeated() ? reflection->FieldSize(*config, field) > 0 : reflection->HasField(*config, field);
  };
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    if (IsMessage(field)) {
      FillFieldDefaults(reflection->MutableMessage(config, field));
    } else if (const std::string& text = RuleOf(field).default_(); !text.empty() && !is_set(field)) {
      if (const absl::Status status = SetField(field->full_name(), text, field, config); !status.ok()) {
        std::fprintf(stderr, "experiment.proto: the default is no value: %s\n", status.ToString().c_str());
        std::abort();
      }
    }
  }
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    const std::string& other = RuleOf(field).default_from();
    if (other.empty() || is_set(field)) continue;
    reflection->SetDouble(config, field, reflection->GetDouble(*config, type->FindFieldByName(other)));
  }
}

absl::Status CheckFields(const Message& config) {
  absl::Status status;
  ForEachField(config, [&](const Message& holder, const FieldDescriptor* field, const std::string& path) {
    if (status.ok()) status = CheckField(holder, field, path);
  });
  return status;
}

std::string FirstDifference(const Message& was, const Message& is) { return Difference(was, is, ""); }

std::string FieldText(const Message& holder, const FieldDescriptor* field) {
  const Reflection* reflection = holder.GetReflection();
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    const auto quoted = [](const std::string& text) { return absl::StrCat("`", text, "`"); };
    if (!field->is_repeated()) {
      const std::string value = reflection->GetString(holder, field);
      return value.empty() ? "not set" : quoted(value);
    }
    std::vector<std::string> items;
    for (int i = 0; i < reflection->FieldSize(holder, field); ++i) {
      items.push_back(quoted(reflection->GetRepeatedString(holder, field, i)));
    }
    return absl::StrCat("[", absl::StrJoin(items, ", "), "]");
  }
  std::string text;
  google::protobuf::TextFormat::PrintFieldValueToString(holder, field, -1, &text);
  return text;
}

std::string LimitsText(const FieldDescriptor* field) {
  const v1::FieldRule& rule = RuleOf(field);
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return rule.must();
    case FieldDescriptor::CPPTYPE_ENUM:
      return absl::StrCat("one of ", absl::StrJoin(ShortNames(field->enum_type()), ", "));
    case FieldDescriptor::CPPTYPE_BOOL:
      return "";
    default:
      break;
  }
  const std::string zero = rule.or_zero() ? "0 or " : "";
  if (rule.has_min() && rule.has_max()) {
    return absl::StrCat(zero, "between ", NumberText(rule.min()), " and ", NumberText(rule.max()));
  }
  std::vector<std::string> limits;
  if (rule.has_min()) limits.push_back(absl::StrCat("at least ", NumberText(rule.min())));
  if (rule.has_above()) limits.push_back(absl::StrCat("above ", NumberText(rule.above())));
  if (rule.has_max()) limits.push_back(absl::StrCat("at most ", NumberText(rule.max())));
  if (rule.has_below()) limits.push_back(absl::StrCat("below ", NumberText(rule.below())));
  if (!limits.empty()) return zero + absl::StrJoin(limits, " and ");
  return field->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE ? "a finite number" : "";
}

std::string ShortName(const EnumValueDescriptor* value) {
  const absl::string_view prefix = absl::StripSuffix(value->type()->value(0)->name(), "UNSPECIFIED");
  return std::string(absl::StripPrefix(value->name(), prefix));
}

const EnumValueDescriptor* FindEnumValue(const google::protobuf::EnumDescriptor* type, absl::string_view text) {
  for (int i = 1; i < type->value_count(); ++i) {
    const EnumValueDescriptor* value = type->value(i);
    if (absl::EqualsIgnoreCase(text, value->name()) || absl::EqualsIgnoreCase(text, ShortName(value))) return value;
  }
  return nullptr;
}

absl::Status InvalidField(absl::string_view path, absl::string_view value, absl::string_view remedy) {
  return absl::InvalidArgumentError(absl::StrCat("config: ", path, " is ", value, ", must be ", remedy));
}

}  // namespace sibyl
