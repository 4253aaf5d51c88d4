#include "annotator/judges/query_key.h"

#include <openssl/sha.h>

#include <map>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "annotator/questions/canonical.h"

namespace sibyl::annotator {
namespace {

// Length before content, so that no two lists of fields give the same bytes.
void Append(const std::string& field, std::string* bytes) { absl::StrAppend(bytes, field.size(), ":", field); }

}  // namespace

std::string Sha256(const std::string& bytes) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

std::string QueryKey(const v1::Query& query, const Judge& judge, const std::string& served) {
  std::string bytes;
  Append(query.kind(), &bytes);
  Append(absl::StrCat(query.texts().size()), &bytes);
  for (const auto& [name, text] : std::map<std::string, std::string>(query.texts().begin(), query.texts().end())) {
    Append(name, &bytes);
    Append(text, &bytes);
  }
  Append(query.goal(), &bytes);
  Append(GrammarJson(query.grammar()), &bytes);
  Append(judge.name(), &bytes);
  Append(judge.Rendered(query), &bytes);
  Append(judge.sampling(), &bytes);
  if (!served.empty()) Append(served, &bytes);
  return Sha256(bytes);
}

std::string JudgeIdentity(const Judge& judge) { return absl::StrCat(judge.name(), "\n", judge.sampling()); }

std::string HexDigest(const std::string& bytes) { return absl::BytesToHexString(Sha256(bytes)); }

}  // namespace sibyl::annotator
