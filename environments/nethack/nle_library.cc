#include "environments/nethack/nle_library.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/runtime/files.h"
#include "common/mutex.h"
#include "common/status_macros.h"

#ifndef SIBYL_NLE
#define SIBYL_NLE ""
#endif

namespace sibyl::nethack {
namespace {

constexpr char kRemedy[] = "; run `make setup`, or set SIBYL_NLE to the `nle` folder of the Python package nle 1.3.0";

bool Exists(const std::string& path) { return access(path.c_str(), R_OK) == 0; }

// "1.3.0" from a version.py that says `__version__ = "1.3.0"`, or what the file says instead.
std::string VersionIn(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return "unknown";
  const size_t open = text->find('"'), close = text->find('"', open + 1);
  return close == std::string::npos ? "unknown" : text->substr(open + 1, close - open - 1);
}

std::string ProgramFolder() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  const std::string program(path, length > 0 ? length : 0);
  return program.substr(0, program.rfind('/'));
}

// glibc loads and unloads one library at a time, under a lock of its own. This one around it costs nothing more, and
// tells ThreadSanitizer that a copy's memory was given back before another got it.
Mutex loading;

absl::Status ErrnoError(absl::string_view doing, const std::string& library) {
  return absl::UnavailableError(absl::StrCat("nethack: cannot ", doing, " ", library, ": ", std::strerror(errno)));
}

// What the library asks of the process, answered for one game.

// NetHack would take SIGHUP, SIGINT and SIGQUIT from the program.
int NoSigaction(int, const struct sigaction*, struct sigaction* old) {
  if (old != nullptr) std::memset(old, 0, sizeof *old);
  return 0;
}

// The clock names shopkeepers, fills ant holes and prices glass: it must be the seed's.
thread_local std::optional<int64_t> told_time;
time_t ToldTime(time_t* out) {
  const time_t now = told_time.has_value() ? *told_time : time(nullptr);
  if (out != nullptr) *out = now;
  return now;
}

// The C library's own keeps what it answers in one place for all threads, so that one game would read another's.
struct tm* OwnLocaltime(const time_t* time) {
  thread_local struct tm answer;
  return localtime_r(time, &answer);
}

// It sleeps for effect where a shopkeeper repairs a wall.
unsigned NoSleep(unsigned) { return 0; }

struct Substitute {
  const char* name;
  void* function;
};
const Substitute kSubstitutes[] = {
    {"sigaction", reinterpret_cast<void*>(&NoSigaction)},
    {"time", reinterpret_cast<void*>(&ToldTime)},
    {"localtime", reinterpret_cast<void*>(&OwnLocaltime)},
    {"sleep", reinterpret_cast<void*>(&NoSleep)},
};

#if defined(__x86_64__)
constexpr uint32_t kJumpSlot = R_X86_64_JUMP_SLOT;
#elif defined(__aarch64__)
constexpr uint32_t kJumpSlot = R_AARCH64_JUMP_SLOT;
#else
#error "environments/nethack knows x86-64 and aarch64"
#endif

// Points this copy's calls of the functions above at their substitutes: through its own table of imported functions,
// so no other library in the process notices.
absl::Status Substitutes(void* handle, const std::string& library) {
  link_map* map = nullptr;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0) {
    return absl::InternalError(absl::StrCat("nethack: ", library, ": ", dlerror()));
  }
  // glibc stores the section's addresses relocated on most machines and as they are in the file on the others.
  const auto address = [&](ElfW(Addr) value) { return value < map->l_addr ? value + map->l_addr : value; };
  const ElfW(Rela)* relocations = nullptr;
  const ElfW(Sym)* symbols = nullptr;
  const char* names = nullptr;
  size_t count = 0;
  for (const ElfW(Dyn)* entry = map->l_ld; entry->d_tag != DT_NULL; ++entry) {
    const ElfW(Addr) value = entry->d_un.d_ptr;
    if (entry->d_tag == DT_JMPREL) relocations = reinterpret_cast<const ElfW(Rela)*>(address(value));
    if (entry->d_tag == DT_PLTRELSZ) count = value / sizeof(ElfW(Rela));
    if (entry->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const ElfW(Sym)*>(address(value));
    if (entry->d_tag == DT_STRTAB) names = reinterpret_cast<const char*>(address(value));
  }
  for (const Substitute& substitute : kSubstitutes) {
    bool found = false;
    for (size_t i = 0; i < count && relocations != nullptr && symbols != nullptr && names != nullptr; ++i) {
      if (ELF64_R_TYPE(relocations[i].r_info) != kJumpSlot) continue;
      const ElfW(Sym)& symbol = symbols[ELF64_R_SYM(relocations[i].r_info)];
      if (std::strcmp(names + symbol.st_name, substitute.name) != 0) continue;
      std::memcpy(reinterpret_cast<void*>(map->l_addr + relocations[i].r_offset), &substitute.function,
                  sizeof substitute.function);
      found = true;
    }
    if (!found) {
      return absl::FailedPreconditionError(absl::StrCat("nethack: ", library, " does not import ", substitute.name,
                                                        " as nle ", kNleVersion, " does", kRemedy));
    }
  }
  return absl::OkStatus();
}

// Lays the file's own pages over the copy's unwritable segments: the same bytes at the same place, but one physical
// copy for all games, which the processor's caches then hold. Returns the bytes at the start of the copy's file that
// are no longer needed. Where anything stands in the way the copy simply keeps its own pages.
off_t ShareUnwritablePages(void* handle, int library_file) {
  link_map* map = nullptr;
  ElfW(Ehdr) header;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 ||
      pread(library_file, &header, sizeof header, 0) != ssize_t{sizeof header} ||
      header.e_phentsize != sizeof(ElfW(Phdr))) {
    return 0;
  }
  for (const ElfW(Dyn)* entry = map->l_ld; entry->d_tag != DT_NULL; ++entry) {
    if (entry->d_tag == DT_TEXTREL) return 0;  // the loader has written into those pages
  }
  std::vector<ElfW(Phdr)> segments(header.e_phnum);
  const ssize_t bytes = segments.size() * sizeof(ElfW(Phdr));
  if (pread(library_file, segments.data(), bytes, header.e_phoff) != bytes) return 0;

  const ElfW(Addr) page = sysconf(_SC_PAGESIZE);
  off_t own_from = -1, shared_to = 0;
  for (const ElfW(Phdr) & segment : segments) {
    if (segment.p_type != PT_LOAD) continue;
    const off_t first = segment.p_offset / page * page;
    if ((segment.p_flags & PF_W) != 0) {
      own_from = own_from < 0 ? first : std::min(own_from, first);
      continue;
    }
    const ElfW(Addr) begin = segment.p_vaddr / page * page, end = segment.p_vaddr + segment.p_filesz;
    const int protection = ((segment.p_flags & PF_R) ? PROT_READ : 0) | ((segment.p_flags & PF_X) ? PROT_EXEC : 0);
    if (mmap(reinterpret_cast<void*>(map->l_addr + begin), end - begin, protection, MAP_PRIVATE | MAP_FIXED,
             library_file, first) == MAP_FAILED) {
      return 0;
    }
    shared_to = std::max<off_t>(shared_to, segment.p_offset + segment.p_filesz);
  }
  // Nothing maps the copy's file before its first writable page any more.
  return own_from >= shared_to ? own_from : 0;
}

}  // namespace

void TellTime(std::optional<int64_t> seconds) { told_time = seconds; }

absl::StatusOr<NleFiles> FindNle() {
  std::vector<std::string> folders;
  const char* chosen = std::getenv("SIBYL_NLE");
  if (chosen != nullptr && *chosen != '\0') {
    folders = {chosen};
  } else {
    if (*SIBYL_NLE != '\0') folders.push_back(SIBYL_NLE);
    folders.push_back(ProgramFolder() + "/../share/sibyl/nle");
  }
  for (const std::string& folder : folders) {
    const NleFiles files = {folder + "/libnethack.so", folder + "/nethackdir/nhdat"};
    if (!Exists(files.library)) continue;
    const std::string version = VersionIn(folder + "/version.py");
    if (version != kNleVersion) {
      return absl::FailedPreconditionError(absl::StrCat("nethack: ", folder, "/version.py says version ", version,
                                                        ", but only ", kNleVersion, " is known", kRemedy));
    }
    if (!Exists(files.data)) {
      return absl::FailedPreconditionError(absl::StrCat("nethack: ", files.data, " is missing", kRemedy));
    }
    return files;
  }
  return absl::FailedPreconditionError(
      absl::StrCat("nethack: there is no libnethack.so in ", absl::StrJoin(folders, ", nor in "),
                   chosen != nullptr && *chosen != '\0' ? " (from SIBYL_NLE)" : "", kRemedy));
}

absl::StatusOr<LibraryCopy> LibraryCopy::Load(const std::string& library) {
  const int file = open(library.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return ErrnoError("open", library);
  const auto close_file = absl::MakeCleanup([file] { close(file); });
  struct stat info;
  if (fstat(file, &info) != 0) return ErrnoError("read", library);

  // dlopen gives the same library twice unless both its path and its inode are new. The path is new because the file
  // stays open, under its number, for as long as the library is loaded.
  LibraryCopy copy;
  copy.file_ = memfd_create("libnethack.so", MFD_CLOEXEC);
  if (copy.file_ < 0) return ErrnoError("make a file in memory for a copy of", library);
  off_t offset = 0;
  while (offset < info.st_size) {
    if (sendfile(copy.file_, file, &offset, info.st_size - offset) <= 0) return ErrnoError("copy", library);
  }
  int flags = RTLD_LAZY | RTLD_LOCAL;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they refuse the flag
  // The library's names are common words (`u`, `flags`, `error`): its own come before the program's.
  flags |= RTLD_DEEPBIND;
#endif
  {
    MutexLock lock(loading);
    copy.handle_ = dlopen(absl::StrCat("/proc/self/fd/", copy.file_).c_str(), flags);
  }
  if (copy.handle_ == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("nethack: cannot load ", library, ": ", dlerror(), kRemedy));
  }
  // The first two came with versions 1.2 and 1.3 and changed the settings' layout.
  for (const char* name : {"nle_init_lgen_rng", "nle_fill_fixed_tm", "nle_start", "nle_step", "nle_end"}) {
    if (dlsym(copy.handle_, name) == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("nethack: ", library, " has no ", name, " as nle ", kNleVersion, " has", kRemedy));
    }
  }
  copy.start = reinterpret_cast<decltype(copy.start)>(dlsym(copy.handle_, "nle_start"));
  copy.step = reinterpret_cast<decltype(copy.step)>(dlsym(copy.handle_, "nle_step"));
  copy.end = reinterpret_cast<decltype(copy.end)>(dlsym(copy.handle_, "nle_end"));
  SIBYL_RETURN_IF_ERROR(Substitutes(copy.handle_, library));
  const off_t unused = ShareUnwritablePages(copy.handle_, file);
  if (unused > 0) fallocate(copy.file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, unused);
  return copy;
}

LibraryCopy& LibraryCopy::operator=(LibraryCopy&& other) noexcept {
  std::swap(start, other.start);
  std::swap(step, other.step);
  std::swap(end, other.end);
  std::swap(handle_, other.handle_);
  std::swap(file_, other.file_);
  return *this;
}

LibraryCopy::~LibraryCopy() {
  if (handle_ != nullptr) {
    MutexLock lock(loading);
    dlclose(handle_);
  }
  if (file_ >= 0) close(file_);
}

}  // namespace sibyl::nethack
