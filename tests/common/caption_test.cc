#include "common/caption.h"

#include <gtest/gtest.h>

namespace sibyl {
namespace {

// Known values of XXH64 with seed 0.
TEST(CaptionId, IsXxh64) {
  EXPECT_EQ(CaptionId("a"), 0xd24ec4f1a98c6e5bu);
  EXPECT_EQ(CaptionId("abc"), 0x44bc2cf5ad770999u);
  EXPECT_EQ(CaptionId("Nobody inspects the spammish repetition"), 0xfbcea83c8a378bf1u);
}

TEST(CaptionId, OfNothingIsZero) { EXPECT_EQ(CaptionId(""), 0u); }

TEST(CanonicalCaption, StripsWhiteSpace) {
  EXPECT_EQ(CanonicalCaption("  hi there \n", v1::CAPTION_RULE_EXACT, 1000), "hi there");
}

TEST(CanonicalCaption, ReplacesRunsOfDigitsWhenToldTo) {
  EXPECT_EQ(CanonicalCaption("23 gold pieces, 4 arrows", v1::CAPTION_RULE_DIGITS, 1000), "# gold pieces, # arrows");
  EXPECT_EQ(CanonicalCaption("23 gold", v1::CAPTION_RULE_EXACT, 1000), "23 gold");
}

TEST(CanonicalCaption, ReplacesBytesThatAreNotUtf8) {
  EXPECT_EQ(CanonicalCaption("a\xff\xc0\x80z", v1::CAPTION_RULE_EXACT, 1000), "a???z");
  EXPECT_EQ(CanonicalCaption("caf\xc3\xa9", v1::CAPTION_RULE_EXACT, 1000), "caf\xc3\xa9");
  EXPECT_EQ(CanonicalCaption("\xed\xa0\x80", v1::CAPTION_RULE_EXACT, 1000), "???");
}

TEST(CanonicalCaption, CutsLongTextBetweenTwoCharacters) {
  EXPECT_EQ(CanonicalCaption("abcdef", v1::CAPTION_RULE_EXACT, 6), "abcdef");
  EXPECT_EQ(CanonicalCaption("abcdef", v1::CAPTION_RULE_EXACT, 4), "abcd");
  EXPECT_EQ(CanonicalCaption("caf\xc3\xa9s", v1::CAPTION_RULE_EXACT, 4), "caf");
  EXPECT_EQ(CanonicalCaption("caf\xc3\xa9s", v1::CAPTION_RULE_EXACT, 5), "caf\xc3\xa9");
  bool cut = false;
  (void)CanonicalCaption("abcd", v1::CAPTION_RULE_EXACT, 4, &cut);
  EXPECT_FALSE(cut);
  (void)CanonicalCaption("abcde", v1::CAPTION_RULE_EXACT, 4, &cut);
  EXPECT_TRUE(cut);
  EXPECT_EQ(CanonicalCaption("12345 coins", v1::CAPTION_RULE_DIGITS, 4), "# co") << "the canonical text is measured";
}

TEST(CanonicalCaption, OfACanonicalTextIsTheText) {
  const std::string once = CanonicalCaption("you see  here", v1::CAPTION_RULE_EXACT, 9);
  EXPECT_EQ(once, "you see");
  EXPECT_EQ(CanonicalCaption(once, v1::CAPTION_RULE_EXACT, 9), once);
}

}  // namespace
}  // namespace sibyl
