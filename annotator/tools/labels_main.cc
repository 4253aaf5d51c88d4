// sibyl-labels: reads and edits a store of labels. `sibyl labels` goes on as this program.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "annotator/quality/gold.h"
#include "annotator/store/edits.h"
#include "annotator/store/sqlite_connection.h"
#include "annotator/tools/labels_format.h"
#include "annotator/tools/labels_source.h"
#include "annotator/tools/labels_stats.h"
#include "common/runtime/program.h"
#include "common/status_macros.h"

ABSL_FLAG(std::string, format, "", "export, import: jsonl, csv or motif; empty: by the file's ending.");
ABSL_FLAG(std::vector<std::string>, outcome, {},
          "list: only these of answered, abstained, unparsable and failed. retry: those; failed where none is named.");
ABSL_FLAG(std::string, judge, "", "list, export: only this judge's. import: the judge of labels that name none.");
ABSL_FLAG(std::string, prompt, "", "import: the prompt of labels that name none.");
ABSL_FLAG(std::string, goal, "", "list, export: only of this goal. import: the goal of labels that name none.");
ABSL_FLAG(std::string, caption, "", "list, export: only those whose caption holds this.");
ABSL_FLAG(std::vector<std::string>, labels, std::vector<std::string>({"unhelpful", "helpful"}),
          "import: the labels that captions are given, the good one last.");
ABSL_FLAG(std::string, preference, "",
          "import --format=motif: the name of the preferences, e.g. "
          "llama70b_msg_defaultgoal_default.");
ABSL_FLAG(bool, all_attempts, false, "export: every attempt; otherwise the last one at each query.");
ABSL_FLAG(uint32_t, sample, 0, "retry: a random sample of that many; 0: all.");
ABSL_FLAG(std::string, label, "", "override: the right label.");
ABSL_FLAG(std::string, by, "", "override: who says so.");
ABSL_FLAG(std::string, gold, "",
          "stats: captions and right labels, a gold file (.txt, see configs/gold), CSV or lines of JSON.");

namespace sibyl::annotator {
namespace {

constexpr char kUsage[] =
    R"(Reads and edits a store of labels, WHERE: a run's folder, a store's file, postgresql://..., or an annotator's host:port.
A store that an annotator has open is edited through that annotator.

  sibyl labels list WHERE [--outcome=failed,...] [--judge=J] [--goal=G] [--caption=TEXT]
  sibyl labels show WHERE QUERY                    every attempt at one query, word for word
  sibyl labels stats WHERE [--gold=FILE]           how the queries ended, agreement, flips, accuracy, spending
  sibyl labels export WHERE FILE [--format=jsonl|csv] [--all_attempts]
  sibyl labels import WHERE FILE [--format=jsonl|csv|motif] [--judge=J] [--goal=G] [--labels=bad,good]
  sibyl labels retry WHERE [QUERY] [--outcome=failed,...] [--sample=N]
  sibyl labels override WHERE QUERY --label=L --by=NAME
  sibyl labels reparse WHERE                       reads answers that named no label with the present parser
  sibyl labels backup WHERE FILE                   a copy of a SQLite store, also while an annotator writes it
)";

absl::Status Wrong(absl::string_view what) { return UsageError(absl::InvalidArgumentError(what)); }

absl::StatusOr<int64_t> QueryNumber(const std::string& text) {
  int64_t number = 0;
  if (absl::SimpleAtoi(text, &number) && number > 0) return number;
  return absl::InvalidArgumentError(
      absl::StrCat("`", text, "` is no number of a query; `sibyl labels list` shows them"));
}

absl::StatusOr<std::vector<v1::Outcome>> Outcomes() {
  std::vector<v1::Outcome> outcomes;
  for (const std::string& name : absl::GetFlag(FLAGS_outcome)) {
    const auto outcome = OutcomeOf(name);
    if (!outcome.ok()) return absl::InvalidArgumentError(absl::StrCat("--outcome ", outcome.status().message()));
    outcomes.push_back(*outcome);
  }
  return outcomes;
}

std::string FormatOf(const std::string& file) {
  if (!absl::GetFlag(FLAGS_format).empty()) return absl::GetFlag(FLAGS_format);
  return absl::EndsWith(file, ".csv") ? "csv" : "jsonl";
}

bool Wanted(const v1::Label& label, const std::vector<v1::Outcome>& outcomes) {
  const std::string judge = absl::GetFlag(FLAGS_judge), goal = absl::GetFlag(FLAGS_goal),
                    caption = absl::GetFlag(FLAGS_caption);
  if (!outcomes.empty() && std::find(outcomes.begin(), outcomes.end(), label.outcome()) == outcomes.end()) return false;
  if (!judge.empty() && label.judge() != judge) return false;
  if (!goal.empty() && label.query().goal() != goal) return false;
  if (caption.empty()) return true;
  const auto& texts = label.query().texts();
  return std::any_of(texts.begin(), texts.end(),
                     [&](const auto& text) { return absl::StrContains(text.second, caption); });
}

// The last attempt at each query, in the order of the queries.
absl::StatusOr<std::map<int64_t, v1::Label>> LastAttempts(LabelsSource& source) {
  std::map<int64_t, v1::Label> last;
  SIBYL_RETURN_IF_ERROR(source.Read([&](const v1::Label& label) { last[label.query_id()] = label; }));
  return last;
}

absl::Status List(LabelsSource& source) {
  SIBYL_ASSIGN_OR_RETURN(const std::vector<v1::Outcome> outcomes, Outcomes());
  SIBYL_ASSIGN_OR_RETURN(const auto last, LastAttempts(source));
  for (const auto& [id, label] : last) {
    if (!Wanted(label, outcomes)) continue;
    double probability = 0;
    std::string ended = LikeliestLabel(label, &probability);
    ended = ended.empty() ? OutcomeName(label.outcome()) : absl::StrFormat("%s %.2f", ended, probability);
    if (!label.overridden_by().empty()) absl::StrAppend(&ended, " by ", label.overridden_by());
    std::string texts;
    for (const char* name : {"caption", "first", "second", "text", "context"}) {
      const auto text = label.query().texts().find(name);
      if (text != label.query().texts().end()) absl::StrAppend(&texts, texts.empty() ? "" : "  |  ", text->second);
    }
    std::printf("%6lld  %-24s %s%s\n", static_cast<long long>(id), ended.c_str(), texts.c_str(),
                label.reason().empty()
                    ? ""
                    : absl::StrCat("  [attempt ", label.attempt(), ": ", label.reason().substr(0, 160), "]").c_str());
  }
  SIBYL_ASSIGN_OR_RETURN(const v1::DescribeResponse described, source.Describe());
  std::fprintf(stderr, "%zu queries ended, %llu wait%s\n", last.size(),
               static_cast<unsigned long long>(described.waiting()),
               described.waits_for().empty() ? "" : absl::StrCat("; asking pauses: ", described.waits_for()).c_str());
  return absl::OkStatus();
}

absl::Status Show(LabelsSource& source, int64_t query) {
  bool found = false;
  SIBYL_RETURN_IF_ERROR(source.Read([&](const v1::Label& label) {
    if (label.query_id() != query) return;
    found = true;
    std::puts(LabelJson(label).c_str());
  }));
  return found ? absl::OkStatus() : absl::NotFoundError(absl::StrCat("no attempt at query ", query, " has ended"));
}

absl::Status Export(LabelsSource& source, const std::string& file) {
  const std::string format = FormatOf(file);
  if (format != "jsonl" && format != "csv") return Wrong("--format of an export is jsonl or csv");
  SIBYL_ASSIGN_OR_RETURN(const std::vector<v1::Outcome> outcomes, Outcomes());
  std::ofstream out(file, std::ios::binary);
  if (!out) return absl::UnavailableError(absl::StrCat("cannot write ", file));
  if (format == "csv") out << kCsvHeader;
  uint64_t count = 0;
  const auto write = [&](const v1::Label& label) {
    if (!Wanted(label, outcomes)) return;
    ++count;
    out << (format == "csv" ? LabelCsv(label) : LabelJson(label) + "\n");
  };
  if (absl::GetFlag(FLAGS_all_attempts)) {
    SIBYL_RETURN_IF_ERROR(source.Read(write));
  } else {
    SIBYL_ASSIGN_OR_RETURN(const auto last, LastAttempts(source));
    for (const auto& [id, label] : last) write(label);
  }
  out.close();
  if (!out) return absl::UnavailableError(absl::StrCat("cannot write ", file, "; look at the free space"));
  std::fprintf(stderr, "%llu labels written to %s\n", static_cast<unsigned long long>(count), file.c_str());
  return absl::OkStatus();
}

absl::Status ReadFile(const std::string& file, const ImportDefaults& defaults,
                      const std::function<absl::Status(v1::Label)>& on_label) {
  const std::string format = FormatOf(file);
  if (format == "motif") {
    if (absl::GetFlag(FLAGS_preference).empty()) return Wrong("--preference is not set; name the array of preferences");
    return ReadMotif(file, absl::GetFlag(FLAGS_preference), defaults, on_label);
  }
  std::ifstream in(file, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", file));
  absl::Status status = format == "csv"     ? ReadCsv(in, defaults, on_label)
                        : format == "jsonl" ? ReadJsonLines(in, defaults, on_label)
                                            : Wrong("--format of an import is jsonl, csv or motif");
  return status.ok() ? status : absl::Status(status.code(), absl::StrCat(file, ": ", status.message()));
}

absl::Status Import(LabelsSource& source, const std::string& file) {
  const ImportDefaults defaults = {absl::GetFlag(FLAGS_goal), absl::GetFlag(FLAGS_labels), absl::GetFlag(FLAGS_judge),
                                   absl::GetFlag(FLAGS_prompt)};
  uint64_t seen = 0, added = 0;
  v1::EditRequest request;
  const auto send = [&]() -> absl::Status {
    if (request.import().labels().empty()) return absl::OkStatus();
    SIBYL_ASSIGN_OR_RETURN(const v1::EditResponse response, source.Edit(request));
    added += response.changed();
    request.Clear();
    return absl::OkStatus();
  };
  SIBYL_RETURN_IF_ERROR(ReadFile(file, defaults, [&](v1::Label label) {
    ++seen;
    *request.mutable_import()->add_labels() = std::move(label);
    return request.import().labels_size() == kMaxImport ? send() : absl::OkStatus();
  }));
  SIBYL_RETURN_IF_ERROR(send());
  std::fprintf(stderr, "%llu labels read, %llu of them new\n", static_cast<unsigned long long>(seen),
               static_cast<unsigned long long>(added));
  return absl::OkStatus();
}

absl::Status Stats(LabelsSource& source) {
  LabelStats stats;
  if (const std::string gold = absl::GetFlag(FLAGS_gold); absl::EndsWith(gold, ".txt")) {
    const std::vector<std::string> labels = absl::GetFlag(FLAGS_labels);
    const auto items = ReadGold(gold, labels.front(), labels.back());
    if (!items.ok()) return UsageError(items.status());
    for (const GoldItem& item : *items) {
      stats.AddGold(item.caption, item.is == GoldItem::kGood ? labels.back() : labels.front(), item.goal);
    }
  } else if (!gold.empty()) {
    const ImportDefaults defaults = {"gold", absl::GetFlag(FLAGS_labels), "gold", ""};
    SIBYL_RETURN_IF_ERROR(ReadFile(gold, defaults, [&](const v1::Label& label) {
      const auto caption = label.query().texts().find("caption");
      if (caption != label.query().texts().end()) stats.AddGold(caption->second, LikeliestLabel(label));
      return absl::OkStatus();
    }));
  }
  SIBYL_RETURN_IF_ERROR(source.Read([&](const v1::Label& label) { stats.Add(label); }));
  SIBYL_ASSIGN_OR_RETURN(const v1::SpendingResponse spending, source.Spending());
  std::fputs(stats.Text(spending).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status Edit(LabelsSource& source, const v1::EditRequest& request, const char* what) {
  SIBYL_ASSIGN_OR_RETURN(const v1::EditResponse response, source.Edit(request));
  std::fprintf(stderr, "%llu %s\n", static_cast<unsigned long long>(response.changed()), what);
  return absl::OkStatus();
}

absl::Status Override(LabelsSource& source, int64_t query) {
  const std::string wanted = absl::GetFlag(FLAGS_label);
  SIBYL_ASSIGN_OR_RETURN(const auto last, LastAttempts(source));
  const auto found = last.find(query);
  if (found == last.end()) return absl::NotFoundError(absl::StrCat("no attempt at query ", query, " has ended"));
  const auto& labels = found->second.query().grammar().choice().labels();
  if (std::find(labels.begin(), labels.end(), wanted) == labels.end()) {
    return Wrong(absl::StrCat("--label is `", wanted, "`, must be one of ", absl::StrJoin(labels, ", ")));
  }
  if (absl::GetFlag(FLAGS_by).empty()) return Wrong("--by is not set; name who overrides the label");
  v1::EditRequest request;
  request.mutable_override()->set_query_id(query);
  request.mutable_override()->set_by(absl::GetFlag(FLAGS_by));
  for (const std::string& label : labels) {
    request.mutable_override()->mutable_answer()->mutable_choice()->add_distribution(label == wanted ? 1 : 0);
  }
  return Edit(source, request, "label overridden");
}

// VACUUM INTO reads one state of the store, whatever is written meanwhile.
absl::Status Backup(const std::string& store, const std::string& file) {
  if (store.empty()) return Wrong("backup copies SQLite stores, named by folder or file; PostgreSQL has pg_dump");
  if (!std::filesystem::exists(store)) return Wrong(absl::StrCat("there is no label store ", store));
  SIBYL_ASSIGN_OR_RETURN(const auto connection, SqliteConnection::Open(store, ""));
  SIBYL_ASSIGN_OR_RETURN(sqlite3_stmt * copy, connection->Prepare("VACUUM INTO ?"));
  Bind(copy, 1, file);
  SIBYL_RETURN_IF_ERROR(connection->Finish(copy));
  std::fprintf(stderr, "%s is a copy of %s\n", file.c_str(), store.c_str());
  return absl::OkStatus();
}

absl::Status Do(const std::string& command, LabelsSource& source, const std::string& argument) {
  v1::EditRequest request;
  if (command == "list") return List(source);
  if (command == "stats") return Stats(source);
  if (command == "export") return Export(source, argument);
  if (command == "import") return Import(source, argument);
  if (command == "reparse") {
    request.mutable_reparse();
    return Edit(source, request, "answers name a label now");
  }
  int64_t query = 0;
  if (!argument.empty()) {
    const auto number = QueryNumber(argument);
    if (!number.ok()) return UsageError(number.status());
    query = *number;
  }
  if (command == "show") return Show(source, query);
  if (command == "override") return Override(source, query);
  SIBYL_ASSIGN_OR_RETURN(std::vector<v1::Outcome> outcomes, Outcomes());
  if (outcomes.empty() && query > 0) {
    outcomes = {v1::OUTCOME_ANSWERED, v1::OUTCOME_ABSTAINED, v1::OUTCOME_UNPARSABLE, v1::OUTCOME_FAILED};
  }
  if (outcomes.empty()) outcomes = {v1::OUTCOME_FAILED};
  for (const v1::Outcome outcome : outcomes) request.mutable_retry()->add_outcomes(outcome);
  if (query > 0) request.mutable_retry()->add_query_ids(query);
  request.mutable_retry()->set_sample(absl::GetFlag(FLAGS_sample));
  return Edit(source, request, "queries are asked again");
}

absl::Status Run(Program& program) {
  // Commands, and whether they take another argument: 1 must, 0 may not, -1 may.
  static const std::map<std::string, int> commands = {{"list", 0},     {"show", 1},    {"stats", 0},
                                                      {"export", 1},   {"import", 1},  {"retry", -1},
                                                      {"override", 1}, {"reparse", 0}, {"backup", 1}};
  const std::vector<std::string>& arguments = program.arguments;
  const auto command = commands.find(arguments.empty() ? "" : arguments[0]);
  if (command == commands.end()) {
    return Wrong(absl::StrCat(
        arguments.empty() ? "no command is given" : absl::StrCat("there is no command `", arguments[0], "`"),
        "; there are list, show, stats, export, import, retry, override, reparse and backup"));
  }
  const size_t least = 2 + (command->second == 1), most = 2 + (command->second != 0);
  if (arguments.size() < least || arguments.size() > most) {
    return Wrong(absl::StrCat(command->first, " takes ",
                              arguments.size() < 2 ? "a store" : "another number of arguments",
                              "; see `sibyl labels --help`"));
  }
  const Host host = {program.clock, program.metrics, program.heartbeats, program.fail()};
  const std::string argument = arguments.size() > 2 ? arguments[2] : "";
  if (command->first == "backup") {
    const bool folder = !absl::EndsWith(arguments[1], ".sqlite") && !absl::StrContains(arguments[1], "://");
    return Backup(absl::StrContains(arguments[1], "://") ? ""
                  : folder                               ? arguments[1] + "/labels.sqlite"
                                                         : arguments[1],
                  argument);
  }
  absl::StatusOr<std::unique_ptr<LabelsSource>> source = LabelsSource::Open(arguments[1], host);
  if (absl::IsNotFound(source.status())) return UsageError(source.status());
  if (!source.ok()) return source.status();
  absl::Status status = Do(command->first, **source, argument);
  status.Update((*source)->Close());
  return status;
}

}  // namespace
}  // namespace sibyl::annotator

int main(int argc, char** argv) {
  return sibyl::RunMain(argc, argv,
                        {"labels", sibyl::annotator::kUsage, /*takes_overrides=*/false, /*most_arguments=*/3},
                        sibyl::annotator::Run);
}
