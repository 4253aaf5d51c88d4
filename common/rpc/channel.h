#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

namespace sibyl::rpc {

// A channel to "host:port" that notices a silent peer and reconnects quickly. Each call has a connection of its own.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address);

}  // namespace sibyl::rpc
