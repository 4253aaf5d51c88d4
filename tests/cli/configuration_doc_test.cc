// docs/configuration.md names every field of Experiment, and no other, each with its default and with what
// ResumeDifference lets change.

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/config.h"
#include "common/runtime/files.h"

namespace sibyl {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

// A row of the page: | `field` | default | unit | what it does | on resume |
struct Row {
  std::string standard, on_resume;
};

std::map<std::string, Row> Page() {
  std::map<std::string, Row> rows;
  const auto text = ReadFile(SIBYL_SOURCE_DIR "/docs/configuration.md");
  EXPECT_TRUE(text.ok()) << text.status();
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    if (!absl::StartsWith(line, "| `")) continue;
    std::vector<std::string> cells = absl::StrSplit(line, '|');
    EXPECT_EQ(cells.size(), 7u) << line;
    for (std::string& cell : cells) absl::StripAsciiWhitespace(&cell);
    const std::string field = cells[1].substr(1, cells[1].size() - 2);
    EXPECT_TRUE(rows.emplace(field, Row{cells[2], cells[5]}).second) << field << " is there twice";
    for (const std::string& cell : {cells[2], cells[3], cells[4]}) EXPECT_FALSE(cell.empty()) << line;
  }
  return rows;
}

// Calls with each field that is no message, with its whole name, and the message it is in.
template <typename F>
void ForEachField(Message* message, const std::string& prefix, const F& f) {
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->field(i);
    const std::string name = prefix + field->name();
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      ForEachField(message->GetReflection()->MutableMessage(message, field), name + ".", f);
    } else {
      f(message, field, name);
    }
  }
}

std::string ValueText(const Message& message, const FieldDescriptor* field) {
  std::string text;
  if (!field->is_repeated()) {
    TextFormat::PrintFieldValueToString(message, field, -1, &text);
    return text;
  }
  std::vector<std::string> items;
  for (int i = 0; i < message.GetReflection()->FieldSize(message, field); ++i) {
    TextFormat::PrintFieldValueToString(message, field, i, &items.emplace_back());
  }
  return absl::StrJoin(items, ", ");
}

// Changes the value to another of its type.
void Change(Message* message, const FieldDescriptor* field) {
  const auto* reflection = message->GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      if (field->is_repeated()) {
        reflection->AddString(message, field, "changed");
      } else {
        reflection->SetString(message, field, "changed");
      }
      return;
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->SetBool(message, field, !reflection->GetBool(*message, field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection->SetDouble(message, field, reflection->GetDouble(*message, field) + 1);
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection->SetUInt32(message, field, reflection->GetUInt32(*message, field) + 1);
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection->SetUInt64(message, field, reflection->GetUInt64(*message, field) + 1);
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection->SetEnumValue(message, field, 0);
    default:
      FAIL() << field->full_name() << ": this test does not know its type";
  }
}

TEST(ConfigurationPage, HasEveryFieldWithItsDefaultAndNoOther) {
  std::map<std::string, Row> page = Page();
  v1::Experiment experiment;
  FillDefaults(&experiment);
  std::map<std::string, std::string> values;
  ForEachField(&experiment, "", [&](Message* message, const FieldDescriptor* field, const std::string& name) {
    values[name] = ValueText(*message, field);
  });
  // The page may name another field as the default.
  const auto meant = [&](const std::string& standard) {
    const auto other = values.find(standard);
    return other == values.end() ? standard : other->second;
  };
  ForEachField(&experiment, "", [&](Message*, const FieldDescriptor*, const std::string& name) {
    const auto row = page.find(name);
    if (row == page.end()) {
      ADD_FAILURE() << name << " is not on the page";
      return;
    }
    // Required fields have none, nor have these.
    const std::map<std::string, std::string> without = {
        {"name", "the file's name"}, {"reward_model.goal_file", "not set"}, {"reward_model.weights_file", "not set"}};
    if (values[name] != "\"\"") {
      EXPECT_EQ(meant(row->second.standard), values[name]) << name;
    } else {
      EXPECT_EQ(row->second.standard, without.count(name) ? without.at(name) : "required") << name;
    }
    page.erase(row);
  });
  for (const auto& [name, row] : page) ADD_FAILURE() << name << " is on the page and no field";
}

TEST(ConfigurationPage, SaysWhatMayChangeOnAResume) {
  const std::map<std::string, Row> page = Page();
  v1::Experiment was;
  FillDefaults(&was);
  was.set_name("a");
  v1::Experiment is = was;
  ForEachField(&is, "", [&](Message* message, const FieldDescriptor* field, const std::string& name) {
    std::unique_ptr<Message> before(message->New());
    before->CopyFrom(*message);
    Change(message, field);
    const auto row = page.find(name);
    ASSERT_NE(row, page.end()) << name;
    EXPECT_EQ(ResumeDifference(was, is).empty(), row->second.on_resume == "free") << name;
    message->CopyFrom(*before);
  });
}

}  // namespace
}  // namespace sibyl
