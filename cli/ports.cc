#include "cli/ports.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/random.h"

namespace sibyl::cli {
namespace {

// Ports below this belong to well-known services.
constexpr int kFirstPort = 10'000;

// Whether bind or connect with 127.0.0.1:`port` succeeds.
bool Succeeds(int (*call)(int, const sockaddr*, socklen_t), int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  const bool done = call(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return done;
}

}  // namespace

absl::StatusOr<std::vector<int>> FreePorts(int count, uint64_t seed) {
  int low = 32768, high = 60999;
  std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> low >> high;
  // Below the kernel's range, or above it where that leaves more room.
  int begin = kFirstPort, end = low;
  if (end - begin < 65536 - (high + 1)) begin = high + 1, end = 65536;

  std::vector<int> ports;
  const int room = end - begin;
  const int start = room > 0 ? static_cast<int>(Random(seed).Below(room)) : 0;
  for (int i = 0; i < room && static_cast<int>(ports.size()) < count; ++i) {
    const int port = begin + (start + i) % room;
    if (Succeeds(bind, port)) ports.push_back(port);
  }
  if (static_cast<int>(ports.size()) < count) {
    return absl::ResourceExhaustedError(
        absl::StrCat("need ", count, " free ports outside net.ipv4.ip_local_port_range (", low, "-", high, "), found ",
                     ports.size(), "; narrow that range with sysctl"));
  }
  return ports;
}

bool Listens(int port) { return Succeeds(connect, port); }

}  // namespace sibyl::cli
