#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/protocol.h"
#include "common/rpc/server.h"
#include "sibyl/v1/act.pb.h"
#include "tests/actor/test_program.h"

namespace sibyl::actor {

// An actor's session on a thread, with a learner's service that a test plays.
class SessionRun {
 public:
  // The service outlives this.
  SessionRun(grpc::Service* learner, std::function<absl::Status(const std::string&, Program&)> play)
      : server_(*rpc::Server::Start("127.0.0.1:0", {learner})), play_(std::move(play)) {}
  ~SessionRun() { Stop(); }

  void Start() {
    thread_ = std::thread([this] {
      ended = play_(absl::StrCat("127.0.0.1:", server_->port()), program.program);
      over_ = true;
    });
  }
  // Until the actor has ended by itself. It never waits for long between two streams.
  void Join() {
    EXPECT_TRUE(Eventually([&] {
      program.watch.clock.Advance(absl::Milliseconds(100));
      return over_.load();
    }));
    thread_.join();
  }
  void Stop() {
    program.ending.StopBySignal();
    if (thread_.joinable()) thread_.join();
  }

  TestProgram program;
  absl::Status ended = absl::UnknownError("it runs");

 private:
  const std::unique_ptr<rpc::Server> server_;
  const std::function<absl::Status(const std::string&, Program&)> play_;
  std::atomic<bool> over_ = false;
  std::thread thread_;
};

// A welcome to so many environments, whose lease has this token.
inline v1::ActorWelcome TestWelcome(uint64_t token, int environments, int groups) {
  v1::ActorWelcome welcome;
  welcome.set_protocol_version(kProtocolVersion);
  welcome.mutable_lease()->set_token(token);
  welcome.set_environment("debug/Alignment");
  welcome.set_environments(environments);
  welcome.set_groups(groups);
  welcome.mutable_episodes()->set_begin(10);
  welcome.mutable_episodes()->set_end(1000);
  welcome.set_text_memory(100);
  welcome.set_codec(v1::PACKING_CODEC_RAW);
  return welcome;
}

}  // namespace sibyl::actor
