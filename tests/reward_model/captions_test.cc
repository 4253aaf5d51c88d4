// Which captions are known: the caption book and the requests for texts.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/caption.h"
#include "reward_model/captions/caption_book.h"
#include "reward_model/captions/text_requests.h"

namespace sibyl::reward_model {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(TextRequests, AsksOnceAndAgainOnlyWhenNoAnswerCame) {
  TextRequests requests;
  absl::Time now = absl::UnixEpoch();
  requests.Want(1);
  requests.Want(2);
  requests.Want(1);
  EXPECT_THAT(requests.Next(now), ElementsAre(1, 2));
  requests.Want(1);
  EXPECT_THAT(requests.Next(now), IsEmpty());
  requests.Got(2);
  EXPECT_EQ(requests.missing(), 1);
  now += TextRequests::kRetryAfter;
  EXPECT_THAT(requests.Next(now), ElementsAre(1));
  requests.Got(1);
  EXPECT_THAT(requests.Next(now + TextRequests::kRetryAfter), IsEmpty());
}

TEST(TextRequests, AsksABoundedNumberAtATime) {
  TextRequests requests;
  for (uint64_t id = 1; id <= 2 * TextRequests::kMaxInFlight; ++id) requests.Want(id);
  const absl::Time now = absl::UnixEpoch();
  EXPECT_EQ(requests.Next(now).size(), TextRequests::kMaxInFlight);
  EXPECT_THAT(requests.Next(now), IsEmpty());
  for (uint64_t id = 1; id <= 10; ++id) requests.Got(id);
  EXPECT_EQ(requests.Next(now).size(), 10);
}

TEST(CaptionBook, CountsOverLearnerIncarnationsWithoutCountingTwice) {
  CaptionBook book;
  Caption& caption = book.FindOrAdd(7);
  EXPECT_TRUE(book.SetLearnerCount(caption, 10, 100));
  EXPECT_FALSE(book.SetLearnerCount(caption, 10, 100));
  EXPECT_FALSE(book.SetLearnerCount(caption, 15, 120));
  EXPECT_EQ(caption.count, 15);
  book.StartLearnerIncarnation();
  EXPECT_TRUE(book.SetLearnerCount(caption, 4, 90));
  EXPECT_EQ(caption.count, 19);
  EXPECT_EQ(caption.last_step, 120);
  EXPECT_TRUE(book.SetLearnerCount(caption, 1, 130)) << "the learner forgot the caption and saw it again";
  EXPECT_EQ(caption.count, 20);
}

TEST(CaptionBook, RefusesTextsThatAreNotTheIds) {
  CaptionBook book;
  EXPECT_EQ(book.SetText(CaptionId("a") + 1, "a", ""), CaptionBook::TextOutcome::kMismatch);
  EXPECT_EQ(book.SetText(5, "", ""), CaptionBook::TextOutcome::kMismatch);
  EXPECT_EQ(book.size(), 0);
  EXPECT_EQ(book.SetText(CaptionId("a"), "a", "first"), CaptionBook::TextOutcome::kNew);
  EXPECT_EQ(book.SetText(CaptionId("a"), "a", "second"), CaptionBook::TextOutcome::kSame);
  EXPECT_EQ(book.Find(CaptionId("a"))->context, "first");
}

// Two texts of 16 printable characters with the same id. XXH64 takes 8 bytes at a time by steps that can be undone, so
// for another first half there is always a second half that makes the hashes meet; only few are printable.
std::pair<std::string, std::string> CollidingTexts() {
  constexpr uint64_t p1 = 0x9E3779B185EBCA87u, p2 = 0xC2B2AE3D27D4EB4Fu, p4 = 0x85EBCA77C2B2AE63u,
                     p5 = 0x27D4EB2F165667C5u;
  const auto rotate = [](uint64_t x, int r) { return (x << r) | (x >> (64 - r)); };
  const auto round = [&](uint64_t lane) { return rotate(lane * p2, 31) * p1; };
  const auto inverse = [](uint64_t odd) {
    uint64_t x = odd;
    for (int i = 0; i < 6; ++i) x *= 2 - odd * x;
    return x;
  };
  const auto load = [](const char* text) {
    uint64_t lane;
    std::memcpy(&lane, text, 8);
    return lane;
  };
  const auto after_first = [&](uint64_t lane) { return rotate((p5 + 16) ^ round(lane), 27) * p1 + p4; };
  const std::string one = "the door is open";
  const uint64_t meet = after_first(load(one.data())) ^ round(load(one.data() + 8));
  for (uint64_t i = 0;; ++i) {
    const std::string half = absl::StrCat("x", 1'000'000 + i);
    const uint64_t lane = rotate((after_first(load(half.data())) ^ meet) * inverse(p1), 64 - 31) * inverse(p2);
    std::string other = half + std::string(reinterpret_cast<const char*>(&lane), 8);
    bool printable = true;
    for (unsigned char c : other) printable &= c > 32 && c < 127;
    if (printable) return {one, other};
  }
}

TEST(CaptionBook, KeepsTheFirstOfTwoTextsWithOneId) {
  const auto [one, other] = CollidingTexts();
  ASSERT_NE(one, other);
  ASSERT_EQ(CaptionId(one), CaptionId(other));
  CaptionBook book;
  EXPECT_EQ(book.SetText(CaptionId(one), one, ""), CaptionBook::TextOutcome::kNew);
  EXPECT_EQ(book.SetText(CaptionId(one), other, ""), CaptionBook::TextOutcome::kCollision);
  EXPECT_EQ(book.Find(CaptionId(one))->text(), one);
}

Caption& Add(CaptionBook& book, const std::string& text, uint64_t step = 0) {
  EXPECT_EQ(book.SetText(CaptionId(text), text, ""), CaptionBook::TextOutcome::kNew);
  Caption& caption = *book.Find(CaptionId(text));
  book.SetLearnerCount(caption, 1, step);
  return caption;
}

// Forgets what is over the bounds; gives the texts of what was forgotten.
std::vector<std::string> ForgetExcess(CaptionBook& book, uint64_t held = 0) {
  std::vector<std::string> texts;
  while (Caption* caption = book.Excess([&](const Caption& c) { return c.id == held; })) {
    texts.push_back(caption->text());
    book.Forget(*caption);
  }
  return texts;
}

TEST(CaptionBook, ForgetsTheCaptionReportedLongestAgoFirst) {
  CaptionBook book({.rows = 2});
  Add(book, "a");
  Add(book, "b");
  EXPECT_THAT(ForgetExcess(book), IsEmpty());
  book.SetLearnerCount(*book.Find(CaptionId("a")), 2, 5);
  Add(book, "c");
  EXPECT_THAT(ForgetExcess(book), ElementsAre("b"));
  EXPECT_EQ(book.Find(CaptionId("b")), nullptr);
  EXPECT_EQ(book.size(), 2u);
  EXPECT_EQ(book.forgotten(), 1u);
}

TEST(CaptionBook, ForgetsByBytesOfTextAndContext) {
  CaptionBook book({.bytes = 10});
  book.SetText(CaptionId("abcd"), "abcd", "ef");
  book.SetText(CaptionId("ghij"), "ghij", "");
  EXPECT_EQ(book.text_bytes(), 10u);
  EXPECT_THAT(ForgetExcess(book), IsEmpty());
  book.SetText(CaptionId("k"), "k", "");
  EXPECT_THAT(ForgetExcess(book), ElementsAre("abcd"));
  EXPECT_EQ(book.text_bytes(), 5u);
}

TEST(CaptionBook, ForgetsLabelledCaptionsLastButLeavesAQuarterToNewOnes) {
  CaptionBook book({.rows = 8});
  for (const char* text : {"1", "2", "3", "4", "5", "6"}) book.SetLabelled(Add(book, text), true);
  for (const char* text : {"a", "b", "c"}) Add(book, text);
  EXPECT_THAT(ForgetExcess(book), ElementsAre("a")) << "nine captions; three of them have no label";
  book.SetLabelled(*book.Find(CaptionId("b")), true);
  Add(book, "d");
  EXPECT_THAT(ForgetExcess(book), ElementsAre("1")) << "two without a label are a quarter";
}

TEST(CaptionBook, PassesOverCaptionsThatAreHeld) {
  CaptionBook book({.rows = 1});
  Add(book, "a");
  Add(book, "b");
  EXPECT_THAT(ForgetExcess(book, CaptionId("a")), ElementsAre("b"));
  book.SetLabelled(Add(book, "c"), true);
  EXPECT_THAT(ForgetExcess(book, CaptionId("a")), ElementsAre("c"));
}

TEST(CaptionBook, AForgottenCaptionComesBackAsNewInAFreeSlot) {
  CaptionBook book({.rows = 1});
  book.SetLearnerCount(Add(book, "a"), 7, 3);
  Add(book, "b");
  ForgetExcess(book);
  EXPECT_EQ(book.At(0), nullptr);
  Caption& again = Add(book, "a");
  EXPECT_EQ(book.At(0), &again);
  EXPECT_EQ(book.places(), 2u);
  EXPECT_EQ(again.count, 1u);
  EXPECT_EQ(again.last_step, 0u);
}

// Texts and ids that are saved next, '+' before those whose text goes along.
std::vector<std::string> Unsaved(CaptionBook& book) {
  std::vector<std::string> saved;
  bool with_text = false;
  while (const Caption* caption = book.TakeUnsaved(&with_text)) {
    saved.push_back(absl::StrCat(with_text ? "+" : "", caption->text()));
  }
  return saved;
}

TEST(CaptionBook, SavesWhatHasChangedAndATextOnce) {
  CaptionBook book;
  Caption& a = Add(book, "a");
  Add(book, "b");
  book.BeginFile();
  EXPECT_THAT(Unsaved(book), ElementsAre("+a", "+b"));
  EXPECT_THAT(Unsaved(book), IsEmpty());
  book.Touch(a);
  book.SetLearnerCount(a, 2, 7);
  Add(book, "c");
  EXPECT_THAT(Unsaved(book), ::testing::UnorderedElementsAre("a", "+c"));
  book.BeginFile();
  EXPECT_THAT(Unsaved(book), ElementsAre("+a", "+b", "+c")) << "a new file has all of it";
}

TEST(CaptionBook, SaysWhichSavedCaptionsWereForgotten) {
  CaptionBook book;
  book.BeginFile();
  Add(book, "a");
  Unsaved(book);
  Add(book, "b");
  const uint64_t a = CaptionId("a"), b = CaptionId("b");
  book.Forget(*book.Find(b));
  EXPECT_THAT(book.TakeForgotten(9), IsEmpty()) << "the file never had it";
  EXPECT_THAT(Unsaved(book), IsEmpty());
  book.Forget(*book.Find(a));
  Add(book, "a");
  EXPECT_THAT(book.TakeForgotten(9), ElementsAre(a)) << "what is said before the new one";
  EXPECT_THAT(Unsaved(book), ElementsAre("+a"));
  book.Forget(*book.Find(a));
  book.BeginFile();
  EXPECT_THAT(book.TakeForgotten(9), IsEmpty());
}

TEST(CaptionBook, ANewFileHasEachCaptionThatChangesMeanwhileAtLeastOnce) {
  CaptionBook book;
  for (const char* text : {"a", "b", "c"}) Add(book, text);
  book.BeginFile();
  bool with_text = false;
  EXPECT_EQ(book.TakeUnsaved(&with_text)->text(), "a");
  book.Touch(*book.Find(CaptionId("a")));
  book.Touch(*book.Find(CaptionId("b")));
  book.Forget(*book.Find(CaptionId("c")));
  Add(book, "d");
  EXPECT_THAT(Unsaved(book), ElementsAre("+b", "+d", "a"));
}

TEST(CaptionBook, AfterARestartTheOrderIsThatOfTheLastStep) {
  CaptionBook book({.rows = 2});
  for (const auto& [text, step] : {std::pair("a", 30), {"b", 10}, {"c", 20}}) {
    Caption& caption = Add(book, text);
    book.RestoreCounts(caption, 5, 2, book.learner(), step);
    EXPECT_EQ(book.LearnerCount(caption), 2u);
  }
  book.OrderByLastStep();
  EXPECT_THAT(ForgetExcess(book), ElementsAre("b"));
  book.StartLearnerIncarnation();
  EXPECT_EQ(book.LearnerCount(*book.Find(CaptionId("a"))), 0u);
}

}  // namespace
}  // namespace sibyl::reward_model
