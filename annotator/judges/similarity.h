#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "annotator/judges/judge.h"
#include "annotator/judges/server_api.h"
#include "sibyl/v1/experiment.pb.h"

namespace sibyl::annotator {

// Cosine of the angle between two vectors of one length; 0 where one is zero.
double Cosine(absl::Span<const float> a, absl::Span<const float> b);

// The last label has the cosine as its probability, at least 0; the first one has the rest.
Verdict SimilarityVerdict(double cosine, int labels);

// Answers queries that choose a label for a caption, by SimilarityVerdict of a server's embeddings of caption and goal
// (POST /embeddings).
class EmbeddingServer : public ServerApi {
 public:
  explicit EmbeddingServer(const v1::OpenAiConfig& config) : config_(config) {}

  std::string name() const override { return "similarity:" + config_.model(); }
  std::string prompt() const override { return ""; }
  std::string sampling() const override { return ""; }
  std::string Rendered(const v1::Query&) const override { return ""; }
  absl::Status Check(const v1::Query& query) const override;
  const char* path() const override { return "/embeddings"; }
  std::string Request(const v1::Query& query, const Progress& progress) const override;
  Answer Read(const v1::Query& query, const Progress& progress, const std::string& body) const override;
  bool Adapt(const std::string& request, const std::string& body) override { return false; }
  std::string Probe() const override;
  bool IsAnswer(const std::string& body) const override;
  Probed OnProbe(long status, const std::string& body, std::string* found) override;

 private:
  const v1::OpenAiConfig config_;
};

}  // namespace sibyl::annotator
