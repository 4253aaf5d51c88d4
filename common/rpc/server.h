#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace sibyl::rpc {

// Largest message either side takes.
inline constexpr int kMaxMessageBytes = 256 << 20;

// A gRPC server with health, reflection and keep-alive. Any thread.
class Server {
 public:
  // Serves on "host:port"; port 0 takes a free one. The services must outlive the server.
  // AlreadyExists: the port is in use.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const std::string& listen, std::vector<grpc::Service*> services);
  ~Server();

  int port() const { return port_; }
  // What the health service answers; true after Start.
  void SetServing(bool serving);
  // Health says NOT_SERVING, no new calls; calls in progress have until `limit` to end and are cancelled then. Streams
  // that wait for nothing are for their service to close first.
  void Drain(absl::Duration limit);

 private:
  Server() = default;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace sibyl::rpc
