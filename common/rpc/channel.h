#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

namespace sibyl::rpc {

// A channel to "host:port" that notices a silent peer and reconnects quickly. Its calls share one connection, which no
// other channel shares. The parts of a run reach each other directly: the channel ignores http_proxy and its like.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address);

}  // namespace sibyl::rpc
