#include "annotator/judges/similarity.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace sibyl::annotator {
namespace {

using Json = nlohmann::json;

const std::string& CaptionOf(const v1::Query& query) { return query.texts().at("caption"); }
int LabelsOf(const v1::Query& query) { return query.grammar().choice().labels_size(); }

// Likeness needs a caption and labels to choose from, whatever the kind.
absl::Status CheckAlike(const v1::Query& query) {
  if (query.grammar().has_choice() && query.texts().contains("caption")) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "kind is `", query.kind(), "`; likeness to the goal only chooses among labels for a text named `caption`"));
}

std::string Body(const v1::OpenAiConfig& config, const std::vector<std::string>& texts) {
  return Json({{"model", config.model()}, {"input", texts}, {"encoding_format", "float"}})
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The embeddings in a body, in the order of the texts; none where it is something else.
std::vector<std::vector<float>> Embeddings(const Json& body) {
  std::vector<std::vector<float>> found;
  if (!body.is_object() || !body.contains("data") || !body["data"].is_array()) return {};
  found.resize(body["data"].size());
  for (size_t i = 0; i < found.size(); ++i) {
    const Json& entry = body["data"][i];
    if (!entry.is_object() || !entry.contains("embedding") || !entry["embedding"].is_array()) return {};
    const size_t index =
        entry.contains("index") && entry["index"].is_number_unsigned() ? entry["index"].get<size_t>() : i;
    if (index >= found.size() || !found[index].empty()) return {};
    for (const Json& number : entry["embedding"]) {
      if (!number.is_number()) return {};
      found[index].push_back(number.get<float>());
    }
    if (found[index].empty() || found[index].size() != found[0].size()) {
      if (!found[0].empty()) return {};
    }
  }
  return found;
}

}  // namespace

double Cosine(absl::Span<const float> a, absl::Span<const float> b) {
  double product = 0, square_a = 0, square_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    product += double{a[i]} * b[i];
    square_a += double{a[i]} * a[i];
    square_b += double{b[i]} * b[i];
  }
  return square_a == 0 || square_b == 0 ? 0 : product / std::sqrt(square_a * square_b);
}

Verdict SimilarityVerdict(double cosine, int labels) {
  Verdict verdict;
  verdict.outcome = v1::OUTCOME_ANSWERED;
  const float good = static_cast<float>(std::clamp(cosine, 0.0, 1.0));
  auto& distribution = *verdict.answer.mutable_choice()->mutable_distribution();
  distribution.Resize(labels, 0);
  distribution[labels - 1] = good;
  distribution[0] = 1 - good;
  verdict.raw = absl::StrCat("cosine ", cosine);
  return verdict;
}

absl::Status EmbeddingServer::Check(const v1::Query& query) const { return CheckAlike(query); }

std::string EmbeddingServer::Request(const v1::Query& query, const Progress&) const {
  return Body(config_, {CaptionOf(query), query.goal()});
}

bool EmbeddingServer::IsAnswer(const std::string& body) const {
  return !Embeddings(Json::parse(body, nullptr, /*allow_exceptions=*/false)).empty();
}

ServerApi::Answer EmbeddingServer::Read(const v1::Query& query, const Progress&, const std::string& body) const {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  const auto embeddings = Embeddings(json);
  Answer answer;
  answer.valid = !embeddings.empty();
  if (embeddings.size() != 2) {
    answer.verdict.outcome = v1::OUTCOME_UNPARSABLE;
    answer.verdict.raw = absl::StrCat(embeddings.size(), " embeddings for two texts");
    return answer;
  }
  answer.verdict = SimilarityVerdict(Cosine(embeddings[0], embeddings[1]), LabelsOf(query));
  if (json.contains("usage") && json["usage"].is_object() && json["usage"].contains("prompt_tokens") &&
      json["usage"]["prompt_tokens"].is_number_unsigned()) {
    answer.verdict.prompt_tokens = json["usage"]["prompt_tokens"].get<uint64_t>();
  }
  return answer;
}

std::string EmbeddingServer::Probe() const { return Body(config_, {"a door", "a key"}); }

ServerApi::Probed EmbeddingServer::OnProbe(long status, const std::string& body, std::string* found) {
  if (status != 200) return Probed::kRefused;
  const auto embeddings = Embeddings(Json::parse(body, nullptr, /*allow_exceptions=*/false));
  *found = absl::StrCat("embeddings of ", embeddings[0].size(), " numbers");
  return Probed::kUsable;
}

}  // namespace sibyl::annotator
