#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/mutex.h"

namespace sibyl {

// By this factor tests wait longer before they give up: sanitizers make programs several times slower.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr int kPatience = 5;
#else
inline constexpr int kPatience = 1;
#endif

// Polls until it holds; false after a minute. The pause leaves the core to the programs that the test waits for.
inline bool Eventually(const std::function<bool()>& holds) {
  for (const absl::Time until = absl::Now() + kPatience * absl::Minutes(1); absl::Now() < until;) {
    if (holds()) return true;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return false;
}

// What a sanitizer finds is a failure, also in a program that is started again or killed.
inline void ExpectNoReport(const std::string& log) {
  for (const char* words : {"Sanitizer: ", ": runtime error: "}) EXPECT_EQ(log.find(words), std::string::npos) << log;
}

// A program that a test runs. Ends with the test, whatever happens.
class Process {
 public:
  explicit Process(std::vector<std::string> arguments) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) abort();
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      sigset_t none;
      sigemptyset(&none);
      sigprocmask(SIG_SETMASK, &none, nullptr);
      dup2(ends[1], STDERR_FILENO);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(ends[1]);
    reader_ = std::thread([this, fd = ends[0]] {
      char bytes[4096];
      for (ssize_t n; (n = read(fd, bytes, sizeof bytes)) > 0;) {
        MutexLock lock(mutex_);
        log_.append(bytes, n);
      }
      close(fd);
    });
  }

  ~Process() {
    Signal(SIGKILL);
    Wait();
    reader_.join();
    ExpectNoReport(log());
  }

  pid_t pid() const { return pid_; }

  void Signal(int signal) {
    if (pid_ > 0) kill(pid_, signal);
  }

  // Exit status, or 1000 + signal.
  int Wait() {
    if (pid_ > 0) {
      int status = 0;
      while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
      }
      exit_ = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
      pid_ = 0;
    }
    return exit_;
  }

  std::string log() {
    MutexLock lock(mutex_);
    return log_;
  }
  bool Says(const std::string& text) {
    return Eventually([&] { return log().find(text) != std::string::npos; });
  }
  // The number that follows the text in its log; 0 where it does not come.
  int NumberAfter(const std::string& text) {
    int number = 0;
    Eventually([&] {
      const std::string all = log();
      const size_t at = all.find(text);
      if (at == std::string::npos || all.find('\n', at) == std::string::npos) return false;
      number = std::atoi(all.c_str() + at + text.size());
      return true;
    });
    return number;
  }

 private:
  pid_t pid_;
  int exit_ = -1;
  std::thread reader_;
  Mutex mutex_;
  std::string log_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sibyl
