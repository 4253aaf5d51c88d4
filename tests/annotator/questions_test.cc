// The kinds of questions: what each refuses, and what each reads in an answer.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "annotator/questions/canonical.h"
#include "annotator/questions/choice.h"
#include "annotator/questions/question.h"
#include "tests/annotator/queries.h"

namespace sibyl::annotator {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const std::vector<std::string> kLabels = {"unhelpful", "helpful"};

// ---- labels in answers

std::string Parsed(const std::string& text, const std::vector<std::string>& labels = kLabels) {
  const FoundLabel answer = FindLabel(text, labels);
  if (answer.kind == FoundLabel::kAbstained) return "abstained";
  if (answer.kind == FoundLabel::kUnparsable) return "unparsable";
  EXPECT_TRUE(absl::StartsWithIgnoreCase(text.substr(answer.offset), labels[answer.label])) << text;
  return labels[answer.label];
}

TEST(Answers, AreReadInManyDresses) {
  for (const char* text : {"It is a key.\nKeys open doors.\nLabel: helpful",
                           "label: HELPFUL.",
                           "**Label:** helpful",
                           "**Label: helpful**",
                           "Label: `helpful`",
                           "{\"analysis\": \"unhelpful?\", \"label\": \"helpful\"}",
                           "```json\n{\"label\": \"helpful\"}\n```",
                           "helpful",
                           "I think so.\n\n**helpful**\n",
                           "The label is helpful.",
                           "Label: unhelpful\nOn second thought:\nLabel: helpful",
                           "Answer: helpful because it opens the door",
                           "Label: helpful\nThe answer is because of the door.",
                           "Label = helpful",
                           "Label: \\boxed{helpful}",
                           "The final answer is $\\boxed{\\text{helpful}}$.",
                           "Label\uff1ahelpful",
                           "Label: \u201chelpful\u201d",
                           "Label: \u00abhelpful\u00bb.",
                           "<label>helpful</label>",
                           "Label - helpful",
                           "Label \u2014 helpful",
                           "Label -> helpful",
                           "- **Final answer**: helpful",
                           "## Label\nhelpful",
                           "Here it is: {\"label\": \"helpful\"}",
                           "{\"label\": \"helpful\", \"analysis\": \"Others would write label: unhelpful.\"}",
                           "3. Label: helpful",
                           "Label: helpful\n\n(Note that for other events the correct answer is: unhelpful.)",
                           "Label: helpful\n\nNote that for other events the correct answer is: unhelpful."}) {
    EXPECT_EQ(Parsed(text), "helpful") << text;
  }
}

TEST(Answers, ALabelInsideAnotherWordDoesNotCount) {
  EXPECT_EQ(Parsed("Label: unhelpful"), "unhelpful");
  EXPECT_EQ(Parsed("unhelpful"), "unhelpful");
  EXPECT_EQ(Parsed("Label: \u201cunhelpful\u201d"), "unhelpful");
  EXPECT_EQ(Parsed("Label: helpfulness"), "unparsable");
  EXPECT_EQ(Parsed("Label: helpful-ish"), "unparsable");
  EXPECT_EQ(Parsed("Label: helpful\u00fcber"), "unparsable");
  EXPECT_EQ(Parsed("Label: good boy", {"good", "good boy"}), "good boy");
}

TEST(Answers, WhatSaysNothingIsUnparsable) {
  for (const char* text :
       {"", "\n\n", "It may be helpful.", "This is not helpful", "Label: maybe", "Label:", "Label: not helpful",
        "Label: helpful/unhelpful", "Label: helpful or unhelpful", "Label: helpful\nLabel: dunno",
        "{\"knowledge\": \"k\", \"analysis\": \"the label: unhelpful", "{\"result\": \"helpful\"}",
        "{\"label\": \"\"}"}) {
    EXPECT_EQ(Parsed(text), "unparsable") << text;
  }
  EXPECT_EQ(Parsed("Hard to tell.\nLabel: abstain"), "abstained");
  EXPECT_EQ(Parsed("{\"label\":\"abstain\"}"), "abstained");
  EXPECT_EQ(Parsed("Abstain."), "abstained");
}

TEST(Answers, AReplyThatWasCutOffIsUnparsable) {
  EXPECT_EQ(ReadChoice(kLabels, {.text = "Label: helpful"}).outcome, v1::OUTCOME_ANSWERED);
  EXPECT_EQ(ReadChoice(kLabels, {.text = "Label: helpful", .cut = true}).outcome, v1::OUTCOME_UNPARSABLE);
}

// ---- queries

TEST(Queries, BrokenOnesAreRefusedByName) {
  EXPECT_TRUE(CheckQuery(Classify("a")).ok());
  EXPECT_TRUE(CheckQuery(WithContext(Classify("a"), "b")).ok());
  EXPECT_TRUE(CheckQuery(Compare("a", "b")).ok());
  EXPECT_THAT(CheckQuery(Compare("a", "a")).message(), HasSubstr("must differ"));
  EXPECT_THAT(CheckQuery(Classify("")).message(), HasSubstr("texts.caption is empty"));
  EXPECT_THAT(CheckQuery(Classify("a", "")).message(), HasSubstr("goal is empty"));
  v1::Query query = Classify("a");
  (*query.mutable_texts())["first"] = "b";
  EXPECT_THAT(CheckQuery(query).message(), AllOf(HasSubstr("texts has `first`"), HasSubstr("caption, context")));
  query = Classify("a");
  query.mutable_texts()->clear();
  EXPECT_THAT(CheckQuery(query).message(), HasSubstr("texts has no `caption`"));
  query = Classify("a");
  query.mutable_grammar()->mutable_choice()->add_labels("helpful");
  EXPECT_THAT(CheckQuery(query).message(), HasSubstr("`helpful` twice"));
  query.mutable_grammar()->mutable_choice()->set_labels(2, "Abstain");
  EXPECT_THAT(CheckQuery(query).message(), HasSubstr("by which a judge declines"));
  query = Classify("a");
  query.mutable_grammar()->mutable_choice()->mutable_labels()->RemoveLast();
  EXPECT_THAT(CheckQuery(query).message(), HasSubstr("at least 2"));
  query.set_kind("guess");
  EXPECT_THAT(CheckQuery(query).message(), AllOf(HasSubstr("kind is `guess`"), HasSubstr("classify, compare")));
  EXPECT_THAT(CheckQuery(Classify(std::string(70'000, 'x'))).message(), HasSubstr("70000 bytes"));
}

// ---- compose

v1::Answer Composed(const v1::Grammar& grammar, const std::string& text, v1::Outcome outcome) {
  const v1::Query query = Compose("a", grammar);
  EXPECT_TRUE(CheckQuery(query).ok()) << CheckQuery(query);
  const Reading reading = FindQuestion("compose")->read(query, {.text = text});
  EXPECT_EQ(reading.outcome, outcome) << text;
  return reading.answer;
}

TEST(ComposeQuestion, ReadsATextWithinItsLimit) {
  EXPECT_EQ(Composed(TextGrammar(), "\n Find the key. \n", v1::OUTCOME_ANSWERED).text(), "Find the key.");
  EXPECT_EQ(Composed(TextGrammar(5), "12345", v1::OUTCOME_ANSWERED).text(), "12345");
  Composed(TextGrammar(5), "123456", v1::OUTCOME_UNPARSABLE);
  Composed(TextGrammar(), " \n", v1::OUTCOME_UNPARSABLE);
  Composed(TextGrammar(), "Abstain.", v1::OUTCOME_ABSTAINED);
  const v1::Query query = Compose("a", TextGrammar());
  EXPECT_EQ(FindQuestion("compose")->read(query, {.text = "Find th", .cut = true}).outcome, v1::OUTCOME_UNPARSABLE);
}

TEST(ComposeQuestion, ReadsJsonUnderItsSchema) {
  const v1::Grammar grammar = JsonGrammar(R"({
    "type": "object",
    "properties": {
      "subgoal": {"type": "string", "minLength": 1, "maxLength": 20},
      "steps": {"type": "integer", "minimum": 1, "maximum": 100},
      "order": {"type": "array", "items": {"enum": ["key", "door"]}, "minItems": 1, "maxItems": 2}},
    "required": ["subgoal"],
    "additionalProperties": false})");
  EXPECT_EQ(Composed(grammar, R"({"subgoal": "find the key", "order": ["key", "door"]})", v1::OUTCOME_ANSWERED).json(),
            R"({"order":["key","door"],"subgoal":"find the key"})");
  EXPECT_EQ(
      Composed(grammar, "Here:\n```json\n{\"subgoal\": \"x\", \"steps\": 100}\n```\nGood luck!", v1::OUTCOME_ANSWERED)
          .json(),
      R"({"steps":100,"subgoal":"x"})");
  for (const char* text :
       {"", "Find the key.", "{}", R"({"subgoal": ""})", R"({"subgoal": 3})", R"({"subgoal": "x", "steps": 0})",
        R"({"subgoal": "x", "steps": 1.5})", R"({"subgoal": "x", "order": []})",
        R"({"subgoal": "x", "order": ["box"]})", R"({"subgoal": "x", "order": ["key", "key", "key"]})",
        R"({"subgoal": "x", "other": 1})", R"({"subgoal": "a text of more than twenty letters"})",
        R"({"subgoal": "find the)", R"(["subgoal"])"}) {
    Composed(grammar, text, v1::OUTCOME_UNPARSABLE);
  }
  EXPECT_EQ(Composed(JsonGrammar(R"({"type":"array"})"), "The list is [1, 2].", v1::OUTCOME_ANSWERED).json(), "[1,2]");
}

TEST(ComposeQuestion, RefusesGrammarsThatItCannotCheck) {
  v1::Query query = Compose("a", TextGrammar());
  query.mutable_grammar()->mutable_choice()->add_labels("x");
  EXPECT_THAT(CheckQuery(query).message(), HasSubstr("`compose` needs one of them"));
  const auto refusal = [](const std::string& schema) {
    return std::string(CheckQuery(Compose("a", JsonGrammar(schema))).message());
  };
  EXPECT_THAT(refusal("{"), HasSubstr("no JSON"));
  EXPECT_THAT(refusal("[]"), HasSubstr("$ is no object"));
  EXPECT_THAT(refusal(R"({"properties": {"a": {"oneOf": []}}})"),
              AllOf(HasSubstr("$.properties.a has the keyword `oneOf`"), HasSubstr("use type, enum")));
  EXPECT_THAT(refusal(R"({"type": "thing"})"), HasSubstr("$.type is \"thing\""));
  EXPECT_THAT(refusal(R"({"items": {"minItems": -1}})"), HasSubstr("$.items.minItems is -1"));
}

// ---- canonical bytes

TEST(Canonical, EqualPartsGiveEqualBytesAndComeBack) {
  v1::Query a, b;
  for (const char* name : {"x", "caption", "\u00e4"}) (*a.mutable_texts())[name] = absl::StrCat("of \"", name, "\"\n");
  for (const char* name : {"\u00e4", "caption", "x"}) (*b.mutable_texts())[name] = absl::StrCat("of \"", name, "\"\n");
  EXPECT_EQ(TextsJson(a.texts()), TextsJson(b.texts()));
  v1::Query back;
  ASSERT_TRUE(ParseTextsJson(TextsJson(a.texts()), back.mutable_texts()));
  EXPECT_EQ(back.texts().at("\u00e4"), a.texts().at("\u00e4"));

  for (const char* text : {R"({"choice":["a","b \"c\""]})", R"({"text":{"max_bytes":7}})",
                           R"({"json_schema":{"type":"object","properties":{"z":{},"a":{}}}})"}) {
    v1::Grammar grammar;
    ASSERT_TRUE(ParseGrammarJson(text, &grammar)) << text;
    EXPECT_EQ(GrammarJson(grammar), text);
  }
  v1::Grammar spaced;
  spaced.set_json_schema("{ \"type\" :\n\"object\" }");
  EXPECT_EQ(GrammarJson(spaced), R"({"json_schema":{"type":"object"}})");

  for (const char* text :
       {R"({"distribution":[0.1,0.9],"outside":0.25})", R"({"text":"a\nb"})", R"({"json":{"a":[1]}})"}) {
    v1::Answer answer;
    ASSERT_TRUE(ParseAnswerJson(text, &answer)) << text;
    EXPECT_EQ(AnswerJson(answer), text);
  }
  for (const char* text : {"", "x", "[]", "{}"}) {
    v1::Grammar grammar;
    v1::Answer answer;
    EXPECT_FALSE(ParseGrammarJson(text, &grammar)) << text;
    EXPECT_FALSE(ParseAnswerJson(text, &answer)) << text;
  }
}

}  // namespace
}  // namespace sibyl::annotator
