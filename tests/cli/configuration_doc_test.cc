// docs/configuration.md is made from proto/sibyl/v1/experiment.proto: the comments and rules of its fields. The test
// compares; with UPDATE_DOCS=1 it writes the page.

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/config.h"
#include "common/config_fields.h"
#include "common/runtime/files.h"

namespace sibyl {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr char kPage[] = SIBYL_SOURCE_DIR "/docs/configuration.md";
// What stands above this line is written by hand.
constexpr char kMark[] = "<!-- Made from proto/sibyl/v1/experiment.proto by configuration_doc_test. -->\n";

// The descriptors of experiment.proto with its comments.
class Comments {
 public:
  Comments() {
    google::protobuf::FileDescriptorSet files;
    EXPECT_TRUE(ReadProto(SIBYL_DESCRIPTORS, &files).ok());
    for (const auto& file : files.file()) EXPECT_NE(pool_.BuildFile(file), nullptr) << file.name();
  }
  // The comment above a field, a message or an enum's value, on one line.
  std::string Of(const FieldDescriptor* field) const { return Text(pool_.FindFieldByName(field->full_name())); }
  std::string Of(const google::protobuf::Descriptor* type) const {
    return Text(pool_.FindMessageTypeByName(type->full_name()));
  }
  std::string Of(const google::protobuf::EnumValueDescriptor* value) const {
    return Text(pool_.FindEnumValueByName(value->full_name()));
  }

 private:
  template <typename T>
  static std::string Text(const T* descriptor) {
    google::protobuf::SourceLocation location;
    if (descriptor == nullptr || !descriptor->GetSourceLocation(&location)) return "";
    const std::vector<std::string> words =
        absl::StrSplit(location.leading_comments, absl::ByAnyChar(" \n"), absl::SkipEmpty());
    return absl::StrJoin(words, " ");
  }

  DescriptorPool pool_;
};

std::string DefaultCell(const Message& holder, const FieldDescriptor* field, const std::string& prefix) {
  const v1::FieldRule& rule = RuleOf(field);
  if (rule.required()) return "required";
  if (!rule.computed_default().empty()) return rule.computed_default();
  if (!rule.default_from().empty()) return absl::StrCat("`", prefix, rule.default_from(), "`");
  return FieldText(holder, field);
}

std::string ValuesCell(const FieldDescriptor* field) {
  const v1::FieldRule& rule = RuleOf(field);
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) return "below";
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL) return "true, false";
  if (rule.file()) return "a file";
  const std::string limits = LimitsText(field);
  if (rule.unit().empty()) return limits.empty() ? "any" : limits;
  return limits.empty() ? rule.unit() : absl::StrCat(limits, " (", rule.unit(), ")");
}

std::string Row(const Comments& comments, const Message& holder, const FieldDescriptor* field,
                const std::string& prefix) {
  const v1::FieldRule& rule = RuleOf(field);
  const std::string comment = comments.Of(field);
  EXPECT_FALSE(comment.empty()) << field->full_name() << " has no comment";
  const char* resume = rule.file() ? "by content" : rule.resume() == v1::FieldRule::FREE ? "free" : "";
  std::string row = absl::StrCat("| `", prefix, field->name(), "` | ", DefaultCell(holder, field, prefix), " | ",
                                 ValuesCell(field), " | ", comment, " | ", resume, " |\n");
  if (field->cpp_type() != FieldDescriptor::CPPTYPE_ENUM) return row;
  for (int i = 1; i < field->enum_type()->value_count(); ++i) {
    const auto* value = field->enum_type()->value(i);
    const std::string meaning = comments.Of(value);
    EXPECT_FALSE(meaning.empty()) << value->full_name() << " has no comment";
    absl::StrAppend(&row, "| | | `", value->name(), "` | ", meaning, " | |\n");
  }
  return row;
}

// A heading, prose and the table of a message's own fields, then the same of the messages in it.
void AppendSection(const Comments& comments, const Message& message, const std::string& prefix, int level,
                   std::string* page) {
  const auto* type = message.GetDescriptor();
  absl::StrAppend(page, "| field | default | values | what it does | on resume |\n|---|---|---|---|---|\n");
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      absl::StrAppend(page, Row(comments, message, field, prefix));
    }
  }
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    const std::string of_type = comments.Of(field->message_type());
    absl::StrAppend(page, "\n", std::string(level, '#'), " ", prefix, field->name(), "\n", comments.Of(field),
                    of_type.empty() ? "" : " ", of_type, "\n\n");
    AppendSection(comments, message.GetReflection()->GetMessage(message, field),
                  absl::StrCat(prefix, field->name(), "."), level + 1, page);
  }
}

TEST(ConfigurationPage, IsMadeFromTheProto) {
  v1::Experiment experiment;
  FillDefaults(&experiment);
  std::string made = "\n## The run\n";
  AppendSection(Comments(), experiment, "", 2, &made);

  const auto page = ReadFile(kPage);
  ASSERT_TRUE(page.ok()) << page.status();
  const size_t mark = page->find(kMark);
  ASSERT_NE(mark, std::string::npos) << kPage << " lacks the line " << kMark;
  const std::string by_hand = page->substr(0, mark + sizeof kMark - 1);
  if (std::getenv("UPDATE_DOCS") != nullptr) {
    ASSERT_TRUE(WriteFileDurably(kPage, by_hand + made).ok());
    return;
  }
  EXPECT_TRUE(*page == by_hand + made) << "docs/configuration.md is not what experiment.proto says; write it with\n"
                                       << "  UPDATE_DOCS=1 ctest --test-dir build/release -R configuration_doc_test";
}

}  // namespace
}  // namespace sibyl
