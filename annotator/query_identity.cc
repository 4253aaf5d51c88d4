#include "annotator/query_identity.h"

#include <openssl/sha.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sibyl::annotator {
namespace {

std::string Digest(const std::string& bytes) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

// Length before content, so that no two lists of fields give the same bytes.
void Append(const std::string& field, std::string* bytes) { absl::StrAppend(bytes, field.size(), ":", field); }

absl::Status CheckLength(absl::string_view name, const std::string& text) {
  if (text.size() <= kMaxTextBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " has ", text.size(), " bytes, may have at most ", kMaxTextBytes));
}

}  // namespace

absl::Status CheckQuery(const v1::Query& query) {
  const auto invalid = [](const auto&... parts) { return absl::InvalidArgumentError(absl::StrCat(parts...)); };
  size_t captions = 0;
  switch (query.kind()) {
    case v1::QUERY_KIND_CLASSIFY:
      captions = 1;
      break;
    case v1::QUERY_KIND_COMPARE:
      captions = 2;
      break;
    default:
      return invalid("kind is ", query.kind(), ", must be QUERY_KIND_CLASSIFY or QUERY_KIND_COMPARE");
  }
  if (static_cast<size_t>(query.captions_size()) != captions) {
    return invalid("captions has ", query.captions_size(), " entries, must have ", captions, " for ",
                   v1::QueryKind_Name(query.kind()));
  }
  for (const std::string& caption : query.captions()) {
    if (caption.empty()) return invalid("captions has an empty text; the empty caption is never asked about");
    if (auto status = CheckLength("captions", caption); !status.ok()) return status;
  }
  if (captions == 2 && query.captions(0) == query.captions(1)) {
    return invalid("captions are both `", query.captions(0), "`; captions that are compared must differ");
  }
  if (query.goal().empty()) return invalid("goal is empty; a label belongs to its goal");
  if (auto status = CheckLength("goal", query.goal()); !status.ok()) return status;
  if (auto status = CheckLength("context", query.context()); !status.ok()) return status;
  if (query.label_set_size() < 2) {
    return invalid("label_set is [", absl::StrJoin(query.label_set(), ", "), "], must have at least 2 labels");
  }
  for (int i = 0; i < query.label_set_size(); ++i) {
    const std::string& label = query.label_set(i);
    if (label.empty() || label.size() > 100)
      return invalid("label_set has a label of ", label.size(), " bytes, must have 1 to 100");
    for (unsigned char c : label) {
      if (c < ' ' || c == 0x7f) return invalid("label_set has a control character in `", absl::CEscape(label), "`");
    }
    for (int j = 0; j < i; ++j) {
      if (label == query.label_set(j)) return invalid("label_set has `", label, "` twice");
    }
  }
  if (query.kind() == v1::QUERY_KIND_COMPARE && absl::StrJoin(query.label_set(), ",") != "first,second,tie") {
    return invalid("label_set is [", absl::StrJoin(query.label_set(), ", "),
                   "], must be [first, second, tie] for QUERY_KIND_COMPARE");
  }
  if (!(query.priority() == query.priority())) return invalid("priority is not a number");
  return absl::OkStatus();
}

std::string JudgeIdentity(const Judge& judge) {
  return absl::StrJoin({judge.name(), judge.prompt(), judge.sampling()}, "\n");
}

std::string QueryKey(const v1::Query& query, const std::string& judge_identity) {
  std::string bytes;
  Append(absl::StrCat(query.kind()), &bytes);
  Append(absl::StrCat(query.captions_size()), &bytes);
  for (const std::string& caption : query.captions()) Append(caption, &bytes);
  Append(query.goal(), &bytes);
  Append(absl::StrCat(query.label_set_size()), &bytes);
  for (const std::string& label : query.label_set()) Append(label, &bytes);
  Append(query.context(), &bytes);
  Append(judge_identity, &bytes);
  return Digest(bytes);
}

std::string HexDigest(const std::string& bytes) { return absl::BytesToHexString(Digest(bytes)); }

}  // namespace sibyl::annotator
