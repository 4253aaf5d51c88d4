// By hand: build/release/tests/annotator_service_benchmark poison|outages|cost|million|postgres
//
// What the annotator makes of bad queries and of outages, with its usual patience; what it costs beside a bare HTTP
// client; how soon a store of a million labels is open and read; what a second annotator on one database brings.
// annotator/README.md and docs/benchmarks.md have its tables.

#include <curl/curl.h>
#include <sqlite3.h>

#include <cstdio>
#include <fstream>
#include <set>

#include "common/rpc/channel.h"
#include "sibyl/v1/annotator.grpc.pb.h"
#include "tests/annotator/fake_llm.h"
#include "tests/annotator/faults.h"
#include "tests/annotator/postgres_server.h"
#include "tests/annotator/queries.h"
#include "tests/process.h"

namespace sibyl::annotator {
namespace {

using Call = FakeLlm::Call;
using Reply = FakeLlm::Reply;

// The annotator as a process, asking a server at `url`.
class Run {
 public:
  explicit Run(const std::string& url, const std::vector<std::string>& more = {}) {
    setenv("no_proxy", "127.0.0.1", 1);
    folder_.Write("p.txt", "[system]\nYou judge.\n[user]\nGoal: {goal}\nCaption: {caption}\n");
    folder_.Write("a.rules", "default: helpful\n");
    folder_.Write("e.textproto",
                  "environment { name: \"minigrid/DoorKey-8x8\" }\nreward_model { goal: \"find the ball\" }\n"
                  "annotator { rules_file: \"a.rules\" queue_capacity: 2000000 }\n");
    std::vector<std::string> arguments = {SIBYL_BIN_DIR "/sibyl-annotator", "--listen=127.0.0.1:0",
                                          "--metrics_listen=127.0.0.1:0", "--config=" + folder_ / "e.textproto",
                                          "--run_dir=" + folder_ / "run"};
    if (!url.empty()) {
      for (const std::string& set :
           {std::string("annotator.judge=JUDGE_KIND_OPENAI"), "annotator.openai.url=" + url,
            std::string("annotator.openai.model=fake"), "annotator.openai.prompt_file=" + folder_ / "p.txt",
            std::string("annotator.openai.timeout_seconds=6")}) {
        arguments.push_back("--set=" + set);
      }
    }
    for (const std::string& set : more) arguments.push_back("--set=" + set);
    std::filesystem::create_directories(folder_ / "run");
    arguments_ = arguments;
  }
  void Start() {
    process_ = std::make_unique<Process>(arguments_);
    const int port = process_->NumberAfter("(port ");
    stub_ = v1::AnnotatorService::NewStub(rpc::MakeChannel(absl::StrCat("127.0.0.1:", port)));
  }
  void Ask(const std::vector<std::string>& captions) {
    for (size_t at = 0; at < captions.size(); at += 1000) {
      v1::AskRequest request;
      request.set_protocol_version(kProtocolVersion);
      for (size_t i = at; i < std::min(captions.size(), at + 1000); ++i) *request.add_queries() = Classify(captions[i]);
      v1::AskResponse response;
      grpc::ClientContext context;
      context.set_wait_for_ready(true);
      if (!stub_->Ask(&context, request, &response).ok()) std::abort();
    }
  }
  v1::DescribeResponse Describe() {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    v1::DescribeRequest request;
    request.set_protocol_version(kProtocolVersion);
    v1::DescribeResponse response;
    if (!stub_->Describe(&context, request, &response).ok()) std::abort();
    return response;
  }
  // Seconds of CPU that the annotator has used.
  double Cpu() {
    std::ifstream stat(absl::StrCat("/proc/", process_->pid(), "/stat"));
    std::string field;
    double ticks = 0;
    for (int i = 1; i <= 15 && stat >> field; ++i) {
      if (i >= 14) ticks += std::stod(field);
    }
    return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  std::unique_ptr<v1::AnnotatorService::Stub>& stub() { return stub_; }
  Process& process() { return *process_; }
  const TemporaryFolder& folder() const { return folder_; }

 private:
  TemporaryFolder folder_;
  std::vector<std::string> arguments_;
  std::unique_ptr<Process> process_;
  std::unique_ptr<v1::AnnotatorService::Stub> stub_;
};

std::vector<std::string> Captions(const std::string& name, int count) {
  std::vector<std::string> captions;
  for (int i = 0; i < count; ++i) captions.push_back(absl::StrCat(name, " #", i));
  return captions;
}

double Seconds(absl::Time since) { return absl::ToDoubleSeconds(absl::Now() - since); }

// Follows the log until `limit`: when the last of the good captions was answered, and the last bad one ended.
void Poison(const std::string& what, const std::vector<std::string>& bad, const std::vector<std::string>& good,
            absl::Duration between, absl::Duration limit) {
  const std::set<std::string> bad_set(bad.begin(), bad.end());
  std::atomic<int> bad_requests = 0;
  const FakeLlm::Handler faults = WithFaults(Faults(absl::Seconds(3)));
  FakeLlm llm([&](const Call& call) {
    if (!call.probe) bad_requests += bad_set.contains(FakeLlm::Asked(call));
    return faults(call);
  });
  Run run(llm.url());
  run.Start();
  const absl::Time start = absl::Now();
  run.Ask(bad);
  absl::SleepFor(between);
  const absl::Time good_asked = absl::Now();
  if (!good.empty()) run.Ask(good);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + limit));
  v1::LabelsRequest request;
  request.set_protocol_version(kProtocolVersion);
  const auto stream = run.stub()->Labels(&context, request);
  size_t good_ended = 0, bad_ended = 0;
  double last_good = 0, last_bad = 0;
  v1::LabelBatch batch;
  while ((good_ended < good.size() || bad_ended < bad.size()) && stream->Read(&batch)) {
    for (const v1::Label& label : batch.labels()) {
      if (bad_set.contains(CaptionOf(label.query()))) {
        ++bad_ended;
        last_bad = Seconds(start);
      } else {
        ++good_ended;
        last_good = Seconds(good_asked);
      }
    }
  }
  context.TryCancel();
  std::printf("| %s | %zu of %zu, last after %.1f s | %zu of %zu after %.1f s | %d | %d |\n", what.c_str(), good_ended,
              good.size(), last_good, bad_ended, bad.size(), last_bad, bad_requests.load(), llm.probes());
  std::fflush(stdout);
}

void PoisonTable() {
  std::printf(
      "| queries | healthy ones answered | bad ones ended | requests for the bad | probes |\n|---|---|---|---|---|\n");
  Poison("8 x 500 and 100 healthy", Captions("500", 8), Captions("fine", 100), {}, absl::Seconds(100));
  Poison("7 x 500 and 100 healthy", Captions("500", 7), Captions("fine", 100), {}, absl::Seconds(100));
  Poison("1 x 500 alone", Captions("500", 1), {}, {}, absl::Seconds(60));
  Poison("3 x never and 100 healthy", Captions("never", 3), Captions("fine", 100), {}, absl::Seconds(100));
  std::vector<std::string> mixed;
  const auto faults = Faults({});
  for (int i = 0; mixed.size() < 40; ++i) {
    for (const auto& [name, fault] : faults) mixed.push_back(absl::StrCat(name, " #", i));
  }
  Poison("40 faults, then 422 healthy", mixed, Captions("fine", 422), absl::Seconds(1), absl::Seconds(150));
  for (const auto& [name, fault] : faults) {
    Poison(absl::StrCat("1 x ", name, " and 10 healthy"), {name + " #0"}, Captions("fine", 10), {}, absl::Seconds(90));
  }
}

void Outage(const std::string& name, const Reply& reply) {
  std::atomic<bool> down = false;
  std::atomic<int> requests = 0;
  FakeLlm llm([&](const Call& call) {
    requests += !call.probe;
    if (down) return reply;
    if (call.probe) return FakeLlm::ObeysSchemas();
    Reply good = FakeLlm::Says("Label: helpful");
    good.delay = absl::Milliseconds(20);
    return good;
  });
  Run run(llm.url());
  run.Start();
  run.Ask(Captions("c", 200));
  Eventually([&] { return run.Describe().labels() >= 50; });
  down = true;
  absl::SleepFor(absl::Seconds(25));
  const uint64_t before = run.Describe().labels();
  const int probes = llm.probes();
  down = false;
  const absl::Time back = absl::Now();
  double first = 0;
  while (run.Describe().labels() < 200 && Seconds(back) < 90) {
    if (first == 0 && run.Describe().labels() > before) first = Seconds(back);
    absl::SleepFor(absl::Milliseconds(5));
  }
  const double last = Seconds(back);
  std::printf("| %s | %llu | %.1f s | %.1f s | %.2f | %d |\n", name.c_str(),
              static_cast<unsigned long long>(run.Describe().labels()), first, last, requests / 200.0, probes);
  std::fflush(stdout);
}

void OutageTable() {
  std::printf(
      "| fault | labelled | first label after the return | last | requests a query | probes while away |\n"
      "|---|---|---|---|---|---|\n");
  Outage("503", {.status = 503, .body = "overloaded"});
  Outage("429 without Retry-After", {.status = 429, .body = "slow down"});
  Outage("429, Retry-After 2", {.status = 429, .body = "slow down", .headers = "Retry-After: 2\r\n"});
  Outage("never", {.hang = true});
  Outage("aborted connection", {.reset = true});
  Outage("garbage", {.body = "<html>"});
  Outage("half a body", {.body = FakeLlm::Completion("Label: helpful"), .close = true});
  Outage("401", {.status = 401, .body = "{}"});
}

// Requests of a bare client, `in_flight` at a time, over connections that are kept.
double BareRate(const std::string& url, int count, int in_flight) {
  const std::string body =
      R"({"model":"fake","temperature":0.1,"seed":1,"max_tokens":256,"logprobs":true,"top_logprobs":10,"messages":[{"role":"system","content":"You judge."},{"role":"user","content":"Goal: find the ball\nCaption: fine #0"}],"response_format":{"type":"json_schema","json_schema":{"name":"verdict","strict":true,"schema":{"type":"object","properties":{"knowledge":{"type":"string"},"analysis":{"type":"string"},"label":{"type":"string","enum":["unhelpful","helpful","abstain"]}},"required":["knowledge","analysis","label"],"additionalProperties":false}}}})";
  CURLM* multi = curl_multi_init();
  curl_slist* headers = curl_slist_append(nullptr, "Content-Type: application/json");
  headers = curl_slist_append(headers, "Expect:");
  std::string sink;
  int sent = 0, done = 0;
  const auto send = [&](CURL* easy) {
    ++sent;
    curl_easy_setopt(easy, CURLOPT_URL, (url + "/chat/completions").c_str());
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body.data());
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &sink);
    curl_easy_setopt(
        easy, CURLOPT_WRITEFUNCTION, +[](char*, size_t size, size_t n, void*) -> size_t { return size * n; });
    curl_multi_add_handle(multi, easy);
  };
  const absl::Time start = absl::Now();
  std::vector<CURL*> handles;
  for (int i = 0; i < in_flight; ++i) handles.push_back(curl_easy_init());
  for (CURL* easy : handles) send(easy);
  while (done < count) {
    int running = 0, left = 0;
    curl_multi_perform(multi, &running);
    while (CURLMsg* message = curl_multi_info_read(multi, &left)) {
      CURL* easy = message->easy_handle;
      curl_multi_remove_handle(multi, easy);
      ++done;
      if (sent < count) send(easy);
    }
    if (done < count) curl_multi_poll(multi, nullptr, 0, 1000, nullptr);
  }
  const double rate = count / Seconds(start);
  for (CURL* easy : handles) curl_easy_cleanup(easy);
  curl_slist_free_all(headers);
  curl_multi_cleanup(multi);
  return rate;
}

void Cost(int count) {
  for (const int delay_ms : {0, 20}) {
    FakeLlm llm([&](const Call& call) {
      if (call.probe) return FakeLlm::ObeysSchemas();
      Reply reply = FakeLlm::Says("{\"knowledge\":\"k\",\"analysis\":\"a\",\"label\":\"helpful\"}");
      reply.delay = absl::Milliseconds(delay_ms);
      return reply;
    });
    const int queries = delay_ms == 0 ? count : count / 5;
    for (int pair = 0; pair < 3; ++pair) {
      const double bare = BareRate(llm.url(), queries, 8);
      Run run(llm.url());
      run.Start();
      run.Ask({"first"});
      Eventually([&] { return run.Describe().labels() == 1; });
      const double cpu = run.Cpu();
      const absl::Time start = absl::Now();
      run.Ask(Captions("c", queries));
      while (run.Describe().labels() < static_cast<uint64_t>(queries) + 1) absl::SleepFor(absl::Milliseconds(10));
      const double rate = queries / Seconds(start);
      std::printf("server of %d ms: bare client %.0f/s, annotator %.0f/s (%.2f), %.0f us CPU a query\n", delay_ms, bare,
                  rate, rate / bare, (run.Cpu() - cpu) / queries * 1e6);
      std::fflush(stdout);
    }
  }
}

void Million() {
  Run run("");
  run.Start();
  run.Ask({"first"});
  Eventually([&] { return run.Describe().labels() == 1; });
  run.process().Signal(SIGTERM);
  run.process().Wait();
  const std::string store = run.folder() / "run/labels.sqlite";
  sqlite3* db = nullptr;
  sqlite3_open(store.c_str(), &db);
  const char* fill =
      "PRAGMA synchronous=OFF; BEGIN;"
      "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) INSERT INTO queries(id, key, "
      "judge, kind, texts, goal, grammar, priority, accepted_unix_micros, waits, attempts, sequence) SELECT i, "
      "randomblob(32), q.judge, 'classify', '{\"caption\":\"caption ' || i || '\"}', q.goal, q.grammar, 0, 0, 0, 1, i "
      "FROM n, queries q WHERE q.id = 1;"
      "INSERT INTO attempts(sequence, query, attempt, outcome, answer, judge, prompt, raw, prompt_tokens, "
      "completion_tokens, committed_unix_micros) SELECT q.id, q.id, 1, 1, a.answer, a.judge, a.prompt, "
      "hex(randomblob(75)), 200, 20, 0 FROM queries q, attempts a WHERE q.id > 1 AND a.sequence = 1; COMMIT;";
  char* error = nullptr;
  if (sqlite3_exec(db, fill, nullptr, nullptr, &error) != SQLITE_OK) std::printf("%s\n", error);
  sqlite3_close(db);
  for (int i = 0; i < 3; ++i) {
    const absl::Time start = absl::Now();
    run.Start();
    if (run.Describe().labels() != 1'000'000) std::printf("not a million labels\n");
    const double opened = Seconds(start);
    grpc::ClientContext context;
    v1::LabelsRequest request;
    request.set_protocol_version(kProtocolVersion);
    const auto stream = run.stub()->Labels(&context, request);
    v1::LabelBatch batch;
    const absl::Time reading = absl::Now();
    uint64_t labels = 0;
    while (labels < 1'000'000 && stream->Read(&batch)) labels += batch.labels_size();
    std::printf("a store of %.0f MB with a million labels: served after %.2f s, read in %.1f s\n",
                static_cast<double>(std::filesystem::file_size(store)) / 1e6, opened, Seconds(reading));
    std::fflush(stdout);
    context.TryCancel();
    run.process().Signal(SIGKILL);
    run.process().Wait();
  }
}

// One annotator and then two on one database, against a server that takes 50 ms and has room for all.
void Postgres() {
  FakeLlm llm([](const Call& call) {
    if (call.probe) return FakeLlm::ObeysSchemas();
    Reply reply = FakeLlm::Says("Label: helpful");
    reply.delay = absl::Milliseconds(50);
    return reply;
  });
  for (const int annotators : {1, 2, 1, 2}) {
    const std::string store = "annotator.store=" + PostgresServer::Get().NewDatabase();
    std::vector<std::unique_ptr<Run>> runs;
    for (int i = 0; i < annotators; ++i) {
      runs.push_back(std::make_unique<Run>(llm.url(), std::vector<std::string>{store}));
      runs.back()->Start();
    }
    runs[0]->Ask(Captions("warm", 100));
    Eventually([&] { return runs[0]->Describe().labels() == 100; });
    const absl::Time start = absl::Now();
    runs[0]->Ask(Captions("c", 2000));
    while (runs[0]->Describe().labels() < 2100) absl::SleepFor(absl::Milliseconds(10));
    std::printf("%d annotators: %.0f queries/s\n", annotators, 2000 / Seconds(start));
    std::fflush(stdout);
  }
}

int Main(const std::string& what) {
  if (what == "poison") PoisonTable();
  if (what == "outages") OutageTable();
  if (what == "cost") Cost(20'000);
  if (what == "million") Million();
  if (what == "postgres") Postgres();
  return 0;
}

}  // namespace
}  // namespace sibyl::annotator

int main(int argc, char** argv) { return sibyl::annotator::Main(argc > 1 ? argv[1] : ""); }
