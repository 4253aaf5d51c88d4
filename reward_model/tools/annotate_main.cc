// sibyl-annotate: asks an annotator about recorded captions and waits for the labels. `sibyl annotate` starts both.

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/container/flat_hash_set.h"
#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/caption.h"
#include "common/config.h"
#include "common/random.h"
#include "common/runtime/program.h"
#include "common/runtime/stop.h"
#include "common/status_macros.h"
#include "reward_model/annotator_client.h"
#include "reward_model/questions.h"
#include "reward_model/tally/comparisons.h"
#include "reward_model/tools/label_log.h"

ABSL_FLAG(std::string, config, "", "The experiment, protobuf text format. Required.");
ABSL_FLAG(std::string, annotator, "", "Address of the annotator, host:port. Required.");
ABSL_FLAG(std::string, captions, "", "Captions, a line of JSON each, as `sibyl captions` prints them. Required.");
ABSL_FLAG(uint64_t, pairs, 10'000, "Pairs of captions to ask about, where reward_model.kind is RANKING.");

namespace sibyl::reward_model {
namespace {

constexpr int kQueriesAnAsk = 1000;
constexpr absl::Duration kPoll = absl::Milliseconds(200);

// The distinct captions of a file, in its order.
absl::StatusOr<std::vector<std::string>> ReadCaptions(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path, "; make it with: sibyl captions RUN"));
  std::vector<std::string> captions;
  absl::flat_hash_set<uint64_t> found;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("caption") || !json["caption"].is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": line ", number, " must be an object with a `caption`, as sibyl captions prints it"));
    }
    const auto& text = json["caption"].get_ref<const std::string&>();
    if (!text.empty() && found.insert(CaptionId(text)).second) captions.push_back(text);
  }
  return captions;
}

// `wanted` pairs of `count` things, each once, or all there are: the lower index first.
std::vector<std::pair<size_t, size_t>> DrawPairs(size_t count, size_t wanted, Random& random) {
  std::vector<std::pair<size_t, size_t>> pairs;
  const size_t all = count * (count - (count > 0)) / 2;
  if (2 * wanted >= all) {
    for (size_t a = 0; a < count; ++a) {
      for (size_t b = a + 1; b < count; ++b) pairs.emplace_back(a, b);
    }
    for (size_t i = pairs.size(); i > 1; --i) std::swap(pairs[i - 1], pairs[random.Below(i)]);
    pairs.resize(std::min(pairs.size(), wanted));
    return pairs;
  }
  absl::flat_hash_set<std::pair<size_t, size_t>> drawn;
  while (pairs.size() < wanted) {
    const size_t a = random.Below(count), b = random.Below(count);
    if (a != b && drawn.insert(std::minmax(a, b)).second) pairs.push_back(std::minmax(a, b));
  }
  return pairs;
}

std::vector<v1::Query> MakeQueries(const v1::Experiment& experiment, const std::vector<std::string>& captions) {
  const v1::RewardModelConfig& config = experiment.reward_model();
  std::vector<v1::Query> queries;
  if (!Compares(config)) {
    for (const std::string& caption : captions) queries.push_back(MakeQuery(config, caption, nullptr));
    return queries;
  }
  Random random(experiment.seed());
  for (auto [a, b] : DrawPairs(captions.size(), absl::GetFlag(FLAGS_pairs), random)) {
    if (random.Below(2) == 1) std::swap(a, b);
    queries.push_back(MakeQuery(config, captions[a], &captions[b]));
    if (config.pairs().both_orders()) queries.push_back(MakeQuery(config, captions[b], &captions[a]));
  }
  return queries;
}

void ShowProgress(size_t asked, size_t waiting, size_t all) {
  std::fprintf(stderr, "%zu of %zu asked, %zu wait for an answer\n", asked, all, waiting);
}

// Until every query is answered, or a stop is requested.
absl::Status AskAll(AnnotatorClient& annotator, const std::vector<v1::Query>& queries, const Program& program) {
  absl::Time shown = absl::InfinitePast();
  const auto show = [&](size_t asked) -> absl::Status {
    if (program.clock.Now() - shown < absl::Seconds(5)) return absl::OkStatus();
    shown = program.clock.Now();
    SIBYL_ASSIGN_OR_RETURN(const v1::DescribeResponse described, annotator.Describe());
    ShowProgress(asked, described.waiting(), queries.size());
    return absl::OkStatus();
  };
  for (size_t next = 0; next < queries.size();) {
    v1::AskRequest request;
    for (size_t i = next; i < std::min(queries.size(), next + kQueriesAnAsk); ++i) *request.add_queries() = queries[i];
    SIBYL_ASSIGN_OR_RETURN(const v1::AskResponse response, annotator.Ask(request));
    // What is full is full from some query on.
    size_t taken = 0;
    for (const v1::AskOutcome& outcome : response.outcomes()) {
      if (outcome.kind() == v1::AskOutcome::KIND_FULL) break;
      ++taken;
    }
    next += taken;
    SIBYL_RETURN_IF_ERROR(show(next));
    if (taken == static_cast<size_t>(request.queries_size())) continue;
    if (WaitForStop(program.stop(), program.clock, kPoll)) return absl::OkStatus();
  }
  while (true) {
    SIBYL_ASSIGN_OR_RETURN(const v1::DescribeResponse described, annotator.Describe());
    if (described.waiting() == 0) return absl::OkStatus();
    SIBYL_RETURN_IF_ERROR(show(queries.size()));
    if (WaitForStop(program.stop(), program.clock, kPoll)) return absl::OkStatus();
  }
}

absl::Status Annotate(Program& program) {
  SIBYL_ASSIGN_OR_RETURN(const v1::Experiment experiment,
                         LoadExperiment(absl::GetFlag(FLAGS_config), program.overrides));
  const v1::RewardModelConfig& config = experiment.reward_model();
  SIBYL_ASSIGN_OR_RETURN(const std::vector<std::string> captions, ReadCaptions(absl::GetFlag(FLAGS_captions)));
  const std::vector<v1::Query> queries = MakeQueries(experiment, captions);
  if (queries.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(absl::GetFlag(FLAGS_captions), " has ", captions.size(),
                                                   " captions; nothing can be asked about so few"));
  }
  AnnotatorClient annotator(absl::GetFlag(FLAGS_annotator));
  SIBYL_RETURN_IF_ERROR(AskAll(annotator, queries, program));
  if (program.stop().stop_requested()) return absl::OkStatus();

  const auto key = [](const v1::Query& query) {
    const std::vector<std::string> captions = Captions(query);
    return OrderedPair(CaptionId(captions[0]), captions.size() > 1 ? CaptionId(captions[1]) : 0);
  };
  absl::flat_hash_set<OrderedPair> asked;
  for (const v1::Query& query : queries) asked.insert(key(query));
  std::map<v1::Outcome, uint64_t> outcomes;
  Comparisons comparisons;
  double good = 0;
  uint64_t tokens = 0;
  SIBYL_RETURN_IF_ERROR(ReadLabelLog(absl::GetFlag(FLAGS_annotator), config, [&](const v1::Label& label) {
    if (!asked.contains(key(label.query()))) return;
    ++outcomes[label.outcome()];
    tokens += label.prompt_tokens() + label.completion_tokens();
    if (label.outcome() != v1::OUTCOME_ANSWERED) return;
    good += Goodness(config, label);
    if (Compares(config)) comparisons.Add(key(label.query()), {true, Goodness(config, label)});
  }));
  const uint64_t answered = outcomes[v1::OUTCOME_ANSWERED];
  nlohmann::ordered_json line = {{"captions", captions.size()},
                                 {"asked", queries.size()},
                                 {"answered", answered},
                                 {"abstained", outcomes[v1::OUTCOME_ABSTAINED]},
                                 {"unparsable", outcomes[v1::OUTCOME_UNPARSABLE]},
                                 {"failed", outcomes[v1::OUTCOME_FAILED]},
                                 {"tokens", tokens}};
  line[Compares(config) ? "first_better" : "good"] = answered == 0 ? 0 : good / static_cast<double>(answered);
  if (comparisons.both_orders() > 0) {
    line["flip_rate"] = static_cast<double>(comparisons.flips()) / static_cast<double>(comparisons.both_orders());
  }
  std::printf("%s\n", line.dump().c_str());
  return absl::OkStatus();
}

// Errors of flags, configuration and captions are the user's.
absl::Status Run(Program& program) {
  const absl::Status status = Annotate(program);
  return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ? UsageError(status) : status;
}

}  // namespace
}  // namespace sibyl::reward_model

int main(int argc, char** argv) {
  return sibyl::RunMain(argc, argv,
                        {"annotate",
                         "Asks about captions: sibyl-annotate --config=FILE [--set field=value ...] "
                         "--annotator=host:port --captions=FILE",
                         /*takes_overrides=*/true},
                        sibyl::reward_model::Run);
}
