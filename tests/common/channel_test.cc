#include "common/rpc/channel.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "absl/strings/str_cat.h"
#include "common/rpc/server.h"
#include "tests/process.h"

namespace sibyl::rpc {
namespace {

bool Connects(int port) {
  const auto channel = MakeChannel(absl::StrCat("127.0.0.1:", port));
  return channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20 * kPatience));
}

// gRPC reads the variables whenever a channel is made.
TEST(Channel, GoesPastAProxyThatTheEnvironmentNames) {
  const auto server = Server::Start("127.0.0.1:0", {});
  ASSERT_TRUE(server.ok()) << server.status();
  // Nothing listens there.
  for (const char* name : {"http_proxy", "https_proxy", "grpc_proxy"}) setenv(name, "http://127.0.0.1:1", 1);
  for (const char* name : {"no_proxy", "no_grpc_proxy"}) unsetenv(name);
  EXPECT_TRUE(Connects((*server)->port()));
}

}  // namespace
}  // namespace sibyl::rpc
