#pragma once

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "annotator/host.h"
#include "common/log.h"
#include "common/protocol.h"
#include "sibyl/v1/annotator.pb.h"
#include "tests/process.h"

namespace sibyl::annotator {

// A folder of its own that goes with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "sibyl_annotator_XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& file) const { return path_ + "/" + file; }
  const std::string& path() const { return path_; }
  std::string Write(const std::string& file, const std::string& text) const {
    std::ofstream(*this / file, std::ios::binary) << text;
    return *this / file;
  }

 private:
  std::string path_;
};

// What a process gives to the annotator's parts.
class TestHost {
 public:
  explicit TestHost(Clock& clock) : heartbeats_(clock, metrics), host_{clock, metrics, heartbeats_, Keep()} {
    // Makes the logger before there are threads, as programs do. ThreadSanitizer does not see spdlog's own lock.
    spdlog::default_logger();
  }

  operator const Host&() const { return host_; }  // NOLINT: a host wherever one is wanted
  // The reason that a part gave for ending the process.
  absl::Status failure() {
    MutexLock lock(mutex_);
    return failure_;
  }

  Metrics metrics;

 private:
  std::function<void(absl::Status)> Keep() {
    return [this](absl::Status reason) {
      MutexLock lock(mutex_);
      failure_.Update(reason);
    };
  }
  Heartbeats heartbeats_;
  Host host_;
  Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

inline v1::Query Classify(const std::string& caption, const std::string& goal = "find the ball", double priority = 0) {
  v1::Query query;
  query.set_kind("classify");
  (*query.mutable_texts())["caption"] = caption;
  query.set_goal(goal);
  for (const char* label : {"unhelpful", "helpful"}) query.mutable_grammar()->mutable_choice()->add_labels(label);
  query.set_priority(priority);
  return query;
}

inline v1::Query Compare(const std::string& first, const std::string& second) {
  v1::Query query;
  query.set_kind("compare");
  (*query.mutable_texts())["first"] = first;
  (*query.mutable_texts())["second"] = second;
  query.set_goal("score");
  for (const char* label : {"first", "second", "tie"}) query.mutable_grammar()->mutable_choice()->add_labels(label);
  return query;
}

inline v1::Query Compose(const std::string& text, const v1::Grammar& grammar) {
  v1::Query query;
  query.set_kind("compose");
  (*query.mutable_texts())["text"] = text;
  query.set_goal("find the ball");
  *query.mutable_grammar() = grammar;
  return query;
}
inline v1::Grammar TextGrammar(uint32_t max_bytes = 0) {
  v1::Grammar grammar;
  grammar.mutable_text()->set_max_bytes(max_bytes);
  return grammar;
}
inline v1::Grammar JsonGrammar(const std::string& schema) {
  v1::Grammar grammar;
  grammar.set_json_schema(schema);
  return grammar;
}

inline v1::Query WithContext(v1::Query query, const std::string& context) {
  (*query.mutable_texts())["context"] = context;
  return query;
}

// A query's caption.
inline std::string CaptionOf(const v1::Query& query) {
  const auto it = query.texts().find("caption");
  return it == query.texts().end() ? "" : it->second;
}

// An answer's distribution.
inline std::vector<float> Distribution(const v1::Answer& answer) {
  return {answer.choice().distribution().begin(), answer.choice().distribution().end()};
}

inline v1::AskRequest Request(std::initializer_list<v1::Query> queries) {
  v1::AskRequest request;
  request.set_protocol_version(kProtocolVersion);
  for (const v1::Query& query : queries) *request.add_queries() = query;
  return request;
}

// Looks again and again until it is true; false when that took longer than any machine should need.
inline bool Eventually(const std::function<bool()>& condition, absl::Duration limit = absl::Seconds(20)) {
  const absl::Time until = absl::Now() + kPatience * limit;
  while (!condition()) {
    if (absl::Now() > until) return false;
    std::this_thread::yield();
    absl::SleepFor(absl::Milliseconds(1));  // between two looks; nothing depends on it
  }
  return true;
}

}  // namespace sibyl::annotator
