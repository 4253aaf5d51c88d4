#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "sibyl/v1/options.pb.h"

// What the rules of a configuration's fields (proto/sibyl/v1/options.proto) mean. These functions know the rules and no
// field; `config` is an Experiment or one of its parts, and paths are relative to it ("learner.gamma").
namespace sibyl {

const v1::FieldRule& RuleOf(const google::protobuf::FieldDescriptor* field);

// Visits each field that is no message, in the order of declaration, with the message that holds it.
using FieldVisitor = std::function<void(const google::protobuf::Message& holder,
                                        const google::protobuf::FieldDescriptor* field, const std::string& path)>;
void ForEachField(const google::protobuf::Message& config, const FieldVisitor& visit);
std::vector<std::string> FieldPaths(const google::protobuf::Message& config);

// Sets a field from a word of the command line. A number may be written 0.5, 1e6, 2k, 1M or 1G; one that is not whole
// is no integer. An enum takes a value's name or short name ("CLASSIFICATION"), in any case. A list is "a,b,c".
// InvalidArgument names `path`, the text and what the field takes; `holder` is then unchanged.
absl::Status SetField(const std::string& path, const std::string& text, const google::protobuf::FieldDescriptor* field,
                      google::protobuf::Message* holder);

// Sets every field that is not set to its rule's default. A field with computed_default stays as it is.
void FillFieldDefaults(google::protobuf::Message* config);

// InvalidArgument for the first value that its field's rule or type forbids: "config: learner.gamma is 1.5, must be
// between 0 and 1". Strings must be UTF-8 without control characters.
absl::Status CheckFields(const google::protobuf::Message& config);

// The first field that must not change and differs: "learner.gamma was 0.99 and is now 0.9". "" where there is none.
// Files are compared by name.
std::string FirstDifference(const google::protobuf::Message& was, const google::protobuf::Message& is);

// A value for people: 0.5, true, VALUE_HEADS_TOTAL, `cpu`, [`a`, `b`], not set.
std::string FieldText(const google::protobuf::Message& holder, const google::protobuf::FieldDescriptor* field);

// The values that a field takes: "between 1 and 65536". "" where its type says all.
std::string LimitsText(const google::protobuf::FieldDescriptor* field);

// A value's name without the enum's prefix: CENTRAL for INFERENCE_CENTRAL.
std::string ShortName(const google::protobuf::EnumValueDescriptor* value);

// The value with this name or short name, in any case; nullptr where there is none. The zero value, which stands for a
// field that is not set, is never found.
const google::protobuf::EnumValueDescriptor* FindEnumValue(const google::protobuf::EnumDescriptor* type,
                                                           absl::string_view text);

// "config: FIELD is VALUE, must be REMEDY".
absl::Status InvalidField(absl::string_view path, absl::string_view value, absl::string_view remedy);

}  // namespace sibyl
