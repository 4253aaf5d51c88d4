#include "cli/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace sibyl::cli {
namespace {

absl::Status Failed(const std::string& doing, int error) {
  const std::string text = absl::StrCat("cannot ", doing, ": ", std::strerror(error));
  if (error == ENOENT) return absl::NotFoundError(text);
  if (error == EACCES) return absl::PermissionDeniedError(text);
  return absl::UnavailableError(text);
}

// In the child, between fork and exec: only async-signal-safe calls. Gives back only when something failed.
void BecomeProgram(char* const* arguments, int log, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // it ended before the line above
  for (int signal_number = 1; signal_number < NSIG; ++signal_number) signal(signal_number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0) return;
  execv(arguments[0], arguments);
}

}  // namespace

absl::StatusOr<pid_t> StartProcess(const std::vector<std::string>& command, const std::string& log_path) {
  const int log = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) return Failed(absl::StrCat("open ", log_path), errno);
  int report[2];  // carries errno of a failed exec; a successful one closes it
  if (pipe2(report, O_CLOEXEC) != 0) {
    const int error = errno;
    close(log);
    return Failed("make a pipe", error);
  }
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);

  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    BecomeProgram(arguments.data(), log, parent);
    const int error = errno;
    [[maybe_unused]] const ssize_t written = write(report[1], &error, sizeof error);
    _exit(127);
  }
  const int fork_error = errno;
  close(log);
  close(report[1]);
  int error = pid < 0 ? fork_error : 0;
  if (pid > 0) {
    while (read(report[0], &error, sizeof error) < 0 && errno == EINTR) continue;
    if (error != 0) waitpid(pid, nullptr, 0);
  }
  close(report[0]);
  if (error != 0) return Failed(absl::StrCat("start ", command[0]), error);
  return pid;
}

std::optional<ProcessEnd> ReapProcess() {
  ProcessEnd end;
  rusage usage;
  end.pid = wait4(-1, &end.status, WNOHANG, &usage);
  if (end.pid <= 0) return std::nullopt;
  end.peak_memory_bytes = int64_t{usage.ru_maxrss} * 1024;
  return end;
}

std::string EndText(int status) {
  if (WIFSIGNALED(status)) {
    return absl::StrCat("was killed by signal ", WTERMSIG(status), " (", strsignal(WTERMSIG(status)), ")");
  }
  return absl::StrCat("ended with status ", WEXITSTATUS(status));
}

double CpuSeconds(pid_t pid) {
  clockid_t clock;
  timespec time;
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

std::string BinaryFolder() {
  if (const char* folder = std::getenv("SIBYL_BIN"); folder != nullptr && *folder != '\0') {
    return std::filesystem::absolute(folder).lexically_normal().string();
  }
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().string();
}

std::vector<std::string> LastLines(const std::string& path, int count) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return {};
  const std::streamoff size = file.tellg();
  const std::streamoff begin = std::max<std::streamoff>(0, size - 400 * count);
  std::string text(static_cast<size_t>(size - begin), '\0');
  file.seekg(begin);
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  std::vector<std::string> lines = absl::StrSplit(text, '\n');
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  if (begin > 0 && lines.size() > 1) lines.erase(lines.begin());  // cut in the middle
  if (lines.size() > static_cast<size_t>(count)) lines.erase(lines.begin(), lines.end() - count);
  return lines;
}

}  // namespace sibyl::cli
