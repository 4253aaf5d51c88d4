#include "common/log.h"

#include <pthread.h>
#include <spdlog/sinks/stdout_sinks.h>

namespace sibyl {

void InitLog(const std::string& process) {
  auto logger = std::make_shared<spdlog::logger>(process, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l [%n] %v");
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

void NameThread(const char* name) { pthread_setname_np(pthread_self(), name); }

}  // namespace sibyl
