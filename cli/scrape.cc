#include "cli/scrape.h"

#include <curl/curl.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

namespace sibyl::cli {
namespace {

size_t Append(char* bytes, size_t size, size_t count, void* body) {
  static_cast<std::string*>(body)->append(bytes, size * count);
  return size * count;
}

}  // namespace

Samples ParseSamples(absl::string_view text) {
  Samples samples;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    // A label's value may hold spaces, so the series ends at the closing brace where there is one.
    const size_t brace = line.rfind('}');
    const size_t end = brace != absl::string_view::npos ? brace + 1 : line.find_first_of(" \t");
    if (end == absl::string_view::npos) continue;
    const std::vector<absl::string_view> rest =
        absl::StrSplit(line.substr(end), absl::ByAnyChar(" \t"), absl::SkipEmpty());
    double value = 0;
    if (rest.empty() || !absl::SimpleAtod(rest[0], &value)) continue;
    samples[std::string(line.substr(0, end))] = value;
  }
  return samples;
}

std::vector<std::optional<Samples>> Scrape(const std::vector<std::string>& addresses, absl::Duration limit) {
  static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  std::vector<std::optional<Samples>> results(addresses.size());
  if (initialised != CURLE_OK) return results;
  CURLM* multi = curl_multi_init();
  std::vector<CURL*> calls(addresses.size());
  std::vector<std::string> bodies(addresses.size());
  const long limit_ms = std::max<long>(1, absl::ToInt64Milliseconds(limit));
  for (size_t i = 0; i < addresses.size(); ++i) {
    calls[i] = curl_easy_init();
    curl_easy_setopt(calls[i], CURLOPT_URL, absl::StrCat("http://", addresses[i], "/metrics").c_str());
    curl_easy_setopt(calls[i], CURLOPT_PROXY, "");
    curl_easy_setopt(calls[i], CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(calls[i], CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(calls[i], CURLOPT_TIMEOUT_MS, limit_ms);
    curl_easy_setopt(calls[i], CURLOPT_WRITEFUNCTION, Append);
    curl_easy_setopt(calls[i], CURLOPT_WRITEDATA, &bodies[i]);
    curl_multi_add_handle(multi, calls[i]);
  }
  int running = static_cast<int>(calls.size());
  while (running > 0 && curl_multi_perform(multi, &running) == CURLM_OK && running > 0) {
    if (curl_multi_poll(multi, nullptr, 0, static_cast<int>(limit_ms), nullptr) != CURLM_OK) break;
  }
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(multi, &left)) {
    if (message->msg != CURLMSG_DONE || message->data.result != CURLE_OK) continue;
    const size_t i = std::find(calls.begin(), calls.end(), message->easy_handle) - calls.begin();
    results[i] = ParseSamples(bodies[i]);
  }
  for (CURL* call : calls) {
    curl_multi_remove_handle(multi, call);
    curl_easy_cleanup(call);
  }
  curl_multi_cleanup(multi);
  return results;
}

}  // namespace sibyl::cli
