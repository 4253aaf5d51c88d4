#pragma once

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace sibyl {

// The metrics of one process. Each name starts with "sibyl_", follows Prometheus' conventions (base units, _total for
// counters) and is listed in docs/metrics.md. What is returned lives as long as this, and may be used from any thread.
class Metrics {
 public:
  Metrics();
  ~Metrics();

  prometheus::Counter& Counter(const std::string& name, const std::string& help, const prometheus::Labels& labels = {});
  prometheus::Gauge& Gauge(const std::string& name, const std::string& help, const prometheus::Labels& labels = {});
  // Buckets are upper bounds, ascending.
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help, std::vector<double> buckets,
                                   const prometheus::Labels& labels = {});

  // Serves them over HTTP at /metrics of "host:port" (port 0: a free one), and logs the address.
  // AlreadyExists when the port is in use.
  absl::Status Serve(const std::string& listen);
  // The port served; 0 before Serve.
  int port() const { return port_; }

  // Everything as Prometheus' text format, for tests.
  std::string Text() const;

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  std::shared_ptr<prometheus::Collectable> process_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  int port_ = 0;
};

// Resident memory of this process, in bytes.
int64_t ResidentMemoryBytes();

}  // namespace sibyl
