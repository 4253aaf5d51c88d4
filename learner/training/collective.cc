#include "learner/training/collective.h"

// LibTorch's wheel has gloo inside, but not its headers; they are Debian's libgloo-dev.
#define USE_C10D_GLOO
#include <cstring>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace sibyl::learner {
namespace {

using std::chrono::milliseconds;

// What gloo and the store throw, as a status.
template <typename Call>
absl::Status Caught(int rank, int ranks, absl::Duration limit, const Call& call) {
  try {
    call();
    return absl::OkStatus();
  } catch (const std::exception& e) {
    const std::string what = e.what();
    if (absl::StrContains(what, "EADDRINUSE")) return absl::AlreadyExistsError(what.substr(0, what.find('\n')));
    return absl::UnavailableError(absl::StrCat("learner ", rank, " of ", ranks,
                                               ": another one is gone, or did not come within ",
                                               absl::FormatDuration(limit), ": ", what.substr(0, what.find('\n'))));
  }
}

}  // namespace

struct Collective::Gloo {
  c10::intrusive_ptr<c10d::TCPStore> store;
  std::unique_ptr<c10d::ProcessGroupGloo> group;
  absl::Duration limit;
};

Collective::Collective(int rank, int ranks, std::unique_ptr<Gloo> gloo)
    : rank_(rank), ranks_(ranks), gloo_(std::move(gloo)) {}
Collective::~Collective() = default;

absl::StatusOr<std::unique_ptr<Collective>> Collective::Join(int rank, int ranks, const std::string& rendezvous,
                                                             absl::Duration limit) {
  const size_t colon = rendezvous.rfind(':');
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(rendezvous.substr(colon + 1), &port) || port < 1 ||
      port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("the learners' rendezvous is `", rendezvous, "`, must be host:port"));
  }
  const std::string host = rendezvous.substr(0, colon);
  auto gloo = std::make_unique<Gloo>();
  gloo->limit = limit;
  const milliseconds wait(absl::ToInt64Milliseconds(limit));
  SIBYL_RETURN_IF_ERROR(Caught(rank, ranks, limit, [&] {
    c10d::TCPStoreOptions store;
    store.port = static_cast<uint16_t>(port);
    store.isServer = rank == 0;
    store.numWorkers = ranks;
    store.waitWorkers = false;
    store.timeout = wait;
    gloo->store = c10::make_intrusive<c10d::TCPStore>(host, store);
    auto options = c10d::ProcessGroupGloo::Options::create(wait);
    // The address by which this machine reaches rank 0's; gloo's connections come to the same network.
    options->devices.push_back(host == "127.0.0.1" || host == "localhost"
                                   ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                                   : c10d::ProcessGroupGloo::createDefaultDevice());
    gloo->group = std::make_unique<c10d::ProcessGroupGloo>(gloo->store, rank, ranks, options);
  }));
  return std::unique_ptr<Collective>(new Collective(rank, ranks, std::move(gloo)));
}

template <typename Call>
absl::Status Collective::Flat(const std::vector<torch::Tensor>& tensors, const Call& call) {
  torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> rows;
  for (const torch::Tensor& tensor : tensors) rows.push_back(tensor.detach().reshape({-1}));
  std::vector<torch::Tensor> flat = {torch::cat(rows).to(torch::kCPU)};
  SIBYL_RETURN_IF_ERROR(Caught(rank_, ranks_, gloo_->limit, [&] { call(flat)->wait(); }));
  int64_t at = 0;
  for (const torch::Tensor& tensor : tensors) {
    tensor.detach().copy_(flat[0].narrow(0, at, tensor.numel()).view(tensor.sizes()));
    at += tensor.numel();
  }
  return absl::OkStatus();
}

absl::Status Collective::Sum(const std::vector<torch::Tensor>& tensors) {
  return Flat(tensors, [&](std::vector<torch::Tensor>& flat) { return gloo_->group->allreduce(flat); });
}

absl::Status Collective::Broadcast(const std::vector<torch::Tensor>& tensors) {
  return Flat(tensors, [&](std::vector<torch::Tensor>& flat) { return gloo_->group->broadcast(flat); });
}

absl::StatusOr<std::vector<std::string>> Collective::Gather(const std::string& mine) {
  torch::Tensor sizes = torch::zeros({ranks_}, torch::kInt64);
  sizes[rank_] = static_cast<int64_t>(mine.size());
  SIBYL_RETURN_IF_ERROR(Sum({sizes}));
  // Where the others write, this rank adds zeros.
  torch::Tensor all = torch::zeros({sizes.sum().item<int64_t>()}, torch::kUInt8);
  const torch::Tensor ends = sizes.cumsum(0);
  const auto begin = [&](int rank) { return ends[rank].item<int64_t>() - sizes[rank].item<int64_t>(); };
  char* const bytes = static_cast<char*>(all.data_ptr());
  if (!mine.empty()) std::memcpy(bytes + begin(rank_), mine.data(), mine.size());
  if (all.numel() > 0) SIBYL_RETURN_IF_ERROR(Sum({all}));
  std::vector<std::string> said;
  for (int rank = 0; rank < ranks_; ++rank)
    said.emplace_back(static_cast<char*>(all.data_ptr()) + begin(rank), sizes[rank].item<int64_t>());
  return said;
}

}  // namespace sibyl::learner
