#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace sibyl {

// What a process serves at /metrics of this port of this machine; empty when it cannot be had.
inline std::string ServedMetrics(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  std::string text;
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
      write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
    char bytes[4096];
    for (ssize_t n; (n = read(fd, bytes, sizeof bytes)) > 0;) text.append(bytes, n);
  }
  close(fd);
  return text;
}

// One figure without labels; -1 when it cannot be had.
inline double ServedMetric(int port, const std::string& name) {
  for (absl::string_view line : absl::StrSplit(ServedMetrics(port), '\n')) {
    if (absl::StartsWith(line, name + " ")) return std::atof(std::string(line.substr(name.size() + 1)).c_str());
  }
  return -1;
}

}  // namespace sibyl
