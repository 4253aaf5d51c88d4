#pragma once

#include <gtest/gtest.h>
#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/annotator/queries.h"
#include "tests/process.h"

namespace sibyl::annotator {

// A PostgreSQL server of the test's own, in a folder of its own, reached by a socket there. Debian's package
// `postgresql` has the programs. PostgreSQL refuses to run as root: the user `postgres` runs it then.
class PostgresServer {
 public:
  PostgresServer() {
    const std::string binaries = Binaries();
    const bool root = geteuid() == 0;
    if (root) {
      const passwd* user = getpwnam("postgres");
      if (user == nullptr || chown(folder_.path().c_str(), user->pw_uid, user->pw_gid) != 0) std::abort();
    }
    const std::string as_user = root ? "setpriv --reuid=postgres --regid=postgres --clear-groups " : "";
    // A database of a test need not survive a power failure, but a killed server.
    const std::string made =
        absl::StrCat("cd ", folder_.path(), " && ", as_user, binaries, "/initdb -D ", folder_.path(),
                     "/data -U sibyl -A trust -E UTF8 --no-sync > ", folder_.path(), "/initdb.log 2>&1");
    if (std::system(made.c_str()) != 0) {
      ADD_FAILURE() << "initdb failed; see " << folder_.path() << "/initdb.log";
      std::abort();
    }
    std::vector<std::string> command = {binaries + "/postgres", "-D", folder_ / "data", "-k", folder_.path(), "-c",
                                        "listen_addresses=",    "-c", "fsync=off"};
    if (root) {
      command.insert(command.begin(), {"/usr/bin/setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"});
    }
    process_ = std::make_unique<Process>(command);
    if (!process_->Says("ready to accept connections")) std::abort();
  }
  ~PostgresServer() {
    process_->Signal(SIGINT);  // ends its sessions and stops
    process_->Wait();
  }

  // Of an empty database; each call makes another one.
  std::string NewDatabase() {
    const std::string name = absl::StrCat("test", ++databases_);
    const std::string made = absl::StrCat(Binaries(), "/createdb -h ", folder_.path(), " -U sibyl ", name);
    if (std::system(made.c_str()) != 0) std::abort();
    return absl::StrCat("postgresql://sibyl@/", name, "?host=", folder_.path());
  }
  // One for the whole test program.
  static PostgresServer& Get() {
    static PostgresServer server;
    return server;
  }

 private:
  static std::string Binaries() {
    for (const auto& version : std::filesystem::directory_iterator("/usr/lib/postgresql")) {
      if (std::filesystem::exists(version.path() / "bin/postgres")) return (version.path() / "bin").string();
    }
    std::abort();
  }
  TemporaryFolder folder_;
  int databases_ = 0;
  std::unique_ptr<Process> process_;
};

}  // namespace sibyl::annotator
