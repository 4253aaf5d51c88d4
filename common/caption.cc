#include "common/caption.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/ascii.h"
#include "common/utf8.h"

namespace sibyl {
namespace {

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87u, kPrime2 = 0xC2B2AE3D27D4EB4Fu, kPrime3 = 0x165667B19E3779F9u,
                   kPrime4 = 0x85EBCA77C2B2AE63u, kPrime5 = 0x27D4EB2F165667C5u;

uint64_t Rotate(uint64_t x, int r) { return (x << r) | (x >> (64 - r)); }
uint64_t Round(uint64_t acc, uint64_t input) { return Rotate(acc + input * kPrime2, 31) * kPrime1; }
uint64_t MergeRound(uint64_t hash, uint64_t acc) { return (hash ^ Round(0, acc)) * kPrime1 + kPrime4; }

// Little-endian loads; the build supports no other byte order.
uint64_t Load64(const char* p) {
  uint64_t x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
uint32_t Load32(const char* p) {
  uint32_t x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

// XXH64 (xxHash's specification, 64-bit variant) with seed 0.
uint64_t Xxh64(absl::string_view text) {
  const char* p = text.data();
  const char* end = p + text.size();
  uint64_t hash;
  if (text.size() >= 32) {
    uint64_t a = kPrime1 + kPrime2, b = kPrime2, c = 0, d = 0 - kPrime1;
    for (; end - p >= 32; p += 32) {
      a = Round(a, Load64(p));
      b = Round(b, Load64(p + 8));
      c = Round(c, Load64(p + 16));
      d = Round(d, Load64(p + 24));
    }
    hash = Rotate(a, 1) + Rotate(b, 7) + Rotate(c, 12) + Rotate(d, 18);
    for (uint64_t acc : {a, b, c, d}) hash = MergeRound(hash, acc);
  } else {
    hash = kPrime5;
  }
  hash += text.size();
  for (; end - p >= 8; p += 8) hash = Rotate(hash ^ Round(0, Load64(p)), 27) * kPrime1 + kPrime4;
  if (end - p >= 4) {
    hash = Rotate(hash ^ (Load32(p) * kPrime1), 23) * kPrime2 + kPrime3;
    p += 4;
  }
  for (; p < end; ++p) hash = Rotate(hash ^ (static_cast<unsigned char>(*p) * kPrime5), 11) * kPrime1;
  hash ^= hash >> 33;
  hash *= kPrime2;
  hash ^= hash >> 29;
  hash *= kPrime3;
  return hash ^ (hash >> 32);
}

}  // namespace

std::string CanonicalCaption(absl::string_view text, v1::CaptionRule rule, size_t max_length, bool* cut) {
  text = absl::StripAsciiWhitespace(text);
  std::string canonical;
  canonical.reserve(std::min(text.size(), max_length));
  bool in_digits = false;
  while (!text.empty()) {
    const size_t length = Utf8CharacterLength(text);
    const bool digit = rule == v1::CAPTION_RULE_DIGITS && absl::ascii_isdigit(text[0]);
    const absl::string_view character = digit ? "#" : length == 0 ? "?" : text.substr(0, length);
    if (!digit || !in_digits) {
      if (canonical.size() + character.size() > max_length) {
        if (cut != nullptr) *cut = true;
        break;
      }
      canonical.append(character.data(), character.size());
    }
    in_digits = digit;
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  // A cut may stand behind white space.
  absl::StripTrailingAsciiWhitespace(&canonical);
  return canonical;
}

uint64_t CaptionId(absl::string_view canonical_text) {
  if (canonical_text.empty()) return 0;
  const uint64_t hash = Xxh64(canonical_text);
  return hash == 0 ? 1 : hash;
}

}  // namespace sibyl
