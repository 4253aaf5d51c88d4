#pragma once

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/mutex.h"

namespace sibyl::annotator {

// A fake LLM: an HTTP server on 127.0.0.1 whose answers a test decides. One thread a connection.
class FakeLlm {
 public:
  struct Reply {
    int status = 200;
    std::string body;
    std::string headers;   // whole lines, e.g. "Retry-After: 1\r\n"
    bool hang = false;     // keeps the connection open and says nothing
    bool close = false;    // closes the connection in the middle of the answer
    bool reset = false;    // aborts the connection without an answer
    absl::Duration delay;  // before the answer
  };
  struct Call {
    nlohmann::json request;
    std::string headers;
    bool probe = false;
  };
  using Handler = std::function<Reply(const Call&)>;

  // `port` 0: a free one.
  explicit FakeLlm(Handler handler, int port = 0) : handler_(std::move(handler)) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int yes = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) std::abort();
    socklen_t size = sizeof address;
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    listen(listener_, 64);
    accepter_ = std::thread([this] { Accept(); });
  }
  ~FakeLlm() {
    stop_ = true;
    accepter_.join();
    close(listener_);
    for (std::thread& thread : connections_) thread.join();
  }

  int port() const { return port_; }
  std::string url() const { return absl::StrCat("http://127.0.0.1:", port_, "/v1"); }
  int calls() const { return calls_; }
  int probes() const { return probes_; }
  // What it says of its models (GET /v1/models) from now on; nothing at first.
  void set_models(const std::string& body) {
    MutexLock lock(models_mutex_);
    models_ = body;
  }
  int most_at_once() const { return most_; }

  static std::string Completion(const std::string& content, const std::string& finish_reason = "stop") {
    nlohmann::json choice;
    choice["message"]["role"] = "assistant";
    choice["message"]["content"] = content;
    choice["finish_reason"] = finish_reason;
    nlohmann::json body;
    body["choices"] = nlohmann::json::array();
    body["choices"].push_back(choice);
    body["usage"]["prompt_tokens"] = 20;
    body["usage"]["completion_tokens"] = 4;
    return body.dump();
  }
  static Reply Says(const std::string& content) { return {.body = Completion(content)}; }
  // The caption of a request whose prompt ends with it.
  static std::string Caption(const Call& call) {
    const std::string content = call.request["messages"].back()["content"];
    return content.substr(content.rfind(": ") + 2);
  }
  // The caption that a chat is about, also in a second try.
  static std::string Asked(const Call& call) {
    const std::string content = call.request["messages"][1]["content"];
    return content.substr(content.rfind(": ") + 2);
  }
  // Answers a probe as a server that obeys JSON schemas does.
  static Reply ObeysSchemas() { return Says("{\"label\": \"maple\"}"); }

 private:
  void Accept() {
    while (!stop_) {
      pollfd ready = {listener_, POLLIN, 0};
      if (poll(&ready, 1, 20) <= 0) continue;
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd >= 0) connections_.emplace_back([this, fd] { Serve(fd); });
    }
  }
  // Until there are `wanted` bytes behind `from`, or the end of headers when wanted is npos.
  bool Fill(int fd, std::string* buffer, const std::function<bool()>& enough) {
    while (!enough()) {
      if (stop_) return false;
      pollfd ready = {fd, POLLIN, 0};
      if (poll(&ready, 1, 20) <= 0) continue;
      char bytes[65536];
      const ssize_t n = recv(fd, bytes, sizeof bytes, 0);
      if (n <= 0) return false;
      buffer->append(bytes, n);
    }
    return true;
  }
  void Serve(int fd) {
    std::string buffer;
    while (true) {
      if (!Fill(fd, &buffer, [&] { return buffer.find("\r\n\r\n") != std::string::npos; })) break;
      const size_t end = buffer.find("\r\n\r\n") + 4;
      Call call;
      call.headers = buffer.substr(0, end);
      const std::string lower = absl::AsciiStrToLower(call.headers);
      const size_t at = lower.find("content-length:");
      size_t length = 0;
      if (at != std::string::npos) length = std::strtoul(lower.c_str() + at + 15, nullptr, 10);
      if (!Fill(fd, &buffer, [&] { return buffer.size() >= end + length; })) break;
      if (absl::StartsWith(call.headers, "GET ")) {
        buffer.erase(0, end);
        std::string models;
        {
          MutexLock lock(models_mutex_);
          models = models_;
        }
        const std::string answer = absl::StrCat("HTTP/1.1 ", models.empty() ? 404 : 200,
                                                " Status\r\nContent-Length: ", models.size(), "\r\n\r\n", models);
        if (send(fd, answer.data(), answer.size(), MSG_NOSIGNAL) < 0) break;
        continue;
      }
      call.request = nlohmann::json::parse(buffer.substr(end, length), nullptr, false);
      buffer.erase(0, end + length);
      call.probe = absl::StrContains(call.request.dump(), "two and two");
      ++(call.probe ? probes_ : calls_);
      const int now = ++at_once_;
      for (int most = most_; now > most && !most_.compare_exchange_weak(most, now);) {
      }
      const Reply reply = handler_(call);
      if (reply.delay > absl::ZeroDuration()) {
        const absl::Time until = absl::Now() + reply.delay;
        while (!stop_ && absl::Now() < until) absl::SleepFor(absl::Milliseconds(5));
      }
      --at_once_;
      if (reply.reset) {
        const linger abort = {1, 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
        break;
      }
      if (reply.hang) {
        std::string nothing;
        Fill(fd, &nothing, [] { return false; });  // until the client gives up
        break;
      }
      const std::string answer =
          absl::StrCat("HTTP/1.1 ", reply.status, " Status\r\nContent-Type: application/json\r\n", reply.headers,
                       "Content-Length: ", reply.body.size(), "\r\n\r\n", reply.body);
      const size_t sent = reply.close ? answer.size() / 2 : answer.size();
      if (send(fd, answer.data(), sent, MSG_NOSIGNAL) < 0 || reply.close) break;
    }
    close(fd);
  }

  const Handler handler_;
  Mutex models_mutex_;
  std::string models_ ABSL_GUARDED_BY(models_mutex_);
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> stop_ = false;
  std::atomic<int> calls_ = 0, probes_ = 0, at_once_ = 0, most_ = 0;
  std::vector<std::thread> connections_;  // the accepting thread's until it has ended
  std::thread accepter_;
};

}  // namespace sibyl::annotator
