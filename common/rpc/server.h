#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace sibyl::rpc {

// The largest message that a server or a client takes.
inline constexpr int kMaxMessageBytes = 256 << 20;

// A gRPC server with health, reflection and keep-alive. Any thread.
class Server {
 public:
  // Serves on "host:port"; port 0 takes a free one. The services outlive the server. AlreadyExists: the port is in use,
  // or the address is not this machine's.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const std::string& listen, std::vector<grpc::Service*> services);
  ~Server();

  int port() const { return port_; }
  // Sets what the health service answers. It is SERVING after Start.
  void SetServing(bool serving);
  // Sets health to NOT_SERVING, refuses new calls, and waits for the calls in progress. Calls that have not ended after
  // `limit` are cancelled. A stream does not end by itself: its service closes it before.
  void Drain(absl::Duration limit);

 private:
  Server() = default;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace sibyl::rpc
