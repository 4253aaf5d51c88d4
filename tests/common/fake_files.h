#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/runtime/file_system.h"

namespace sibyl {

// Files in memory, on a disk that fills up, dies, or loses power. One thread.
//
// Every call that changes something is an operation; `operations()` counts them, so a test can let each one fail in
// turn: FailFrom(1), FailFrom(2), ... until the code under test no longer reaches the operation.
class FakeFiles : public FileSystem {
 public:
  // The operation of this number (counted from 1) and all later ones fail with `status`, and change nothing. 0: none.
  void FailFrom(int64_t operation, absl::Status status = absl::UnavailableError("Input/output error")) {
    fail_from_ = operation;
    failure_ = std::move(status);
  }
  // Only this one operation fails.
  void FailOnce(int64_t operation, absl::Status status = absl::UnavailableError("Input/output error")) {
    FailFrom(operation, std::move(status));
    once_ = true;
  }
  int64_t operations() const { return operations_; }

  // What a disk holds after power was lost: files have the bytes that were synced, and folders the names that were
  // synced (`names_kept` false) or all of them (`names_kept` true): a real disk may do either.
  void LosePower(bool names_kept) {
    Lose(*root_, names_kept);
    FailFrom(0);
    once_ = false;
  }

  // An empty disk again.
  void Clear() {
    root_->entries.clear();
    root_->durable_entries.clear();
    FailFrom(0);
    once_ = false;
  }

  // Reads give this status from now on: a dying disk.
  void FailReads(absl::Status status) { read_failure_ = std::move(status); }

  // Replaces a file's bytes, as a fault of the disk would. Dies where there is no such file.
  void Damage(const std::string& path, std::string bytes) {
    Node& node = *Find(path);
    node.bytes = node.synced = std::move(bytes);
  }

  absl::StatusOr<std::unique_ptr<ReadableFile>> Open(const std::string& path) override {
    const std::shared_ptr<Node> node = Find(path);
    if (node == nullptr) return absl::NotFoundError(absl::StrCat("cannot read ", path, ": No such file or directory"));
    if (!read_failure_.ok()) return Named("read", path, read_failure_);
    if (node->folder) return absl::UnavailableError(absl::StrCat("cannot read ", path, ": Is a directory"));
    return std::make_unique<Reader>(node);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    if (auto status = Operate("write", path); !status.ok()) return status;
    const std::shared_ptr<Node> parent = Find(ParentFolder(path));
    if (parent == nullptr || !parent->folder) {
      return absl::NotFoundError(absl::StrCat("cannot write ", path, ": No such file or directory"));
    }
    std::shared_ptr<Node>& node = parent->entries[NameOf(path)];
    if (node != nullptr && node->folder) {
      return absl::UnavailableError(absl::StrCat("cannot write ", path, ": Is a directory"));
    }
    if (node == nullptr) node = std::make_shared<Node>();
    node->bytes.clear();
    return std::make_unique<Writer>(this, node, path);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override {
    if (const std::shared_ptr<Node> node = Find(path); node != nullptr) {
      return std::make_unique<Writer>(this, node, path);
    }
    return Create(path);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (auto status = Operate("rename to", to); !status.ok()) return status;
    const std::shared_ptr<Node> node = Find(from), parent = Find(ParentFolder(to)), old = Find(to);
    if (node == nullptr || parent == nullptr || !parent->folder) {
      return absl::NotFoundError(absl::StrCat("cannot rename ", from, " to ", to, ": No such file or directory"));
    }
    if (old != nullptr && old->folder && !(node->folder && old->entries.empty())) {
      return absl::UnavailableError(absl::StrCat("cannot rename ", from, " to ", to, ": Directory not empty"));
    }
    Find(ParentFolder(from))->entries.erase(NameOf(from));
    parent->entries[NameOf(to)] = node;
    return absl::OkStatus();
  }
  absl::Status Remove(const std::string& path) override {
    if (auto status = Operate("remove", path); !status.ok()) return status;
    if (const std::shared_ptr<Node> parent = Find(ParentFolder(path)); parent != nullptr) {
      parent->entries.erase(NameOf(path));
    }
    return absl::OkStatus();
  }
  absl::Status MakeFolders(const std::string& path) override {
    if (auto status = Operate("make the folder", path); !status.ok()) return status;
    std::shared_ptr<Node> node = root_;
    for (absl::string_view name : absl::StrSplit(path, '/', absl::SkipEmpty())) {
      std::shared_ptr<Node>& next = node->entries[std::string(name)];
      if (next == nullptr) {
        next = std::make_shared<Node>();
        next->folder = true;
      }
      if (!next->folder) {
        return absl::UnavailableError(absl::StrCat("cannot make the folder ", path, ": Not a directory"));
      }
      node = next;
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<std::string>> List(const std::string& folder) override {
    const std::shared_ptr<Node> node = Find(folder);
    if (node == nullptr) {
      return absl::NotFoundError(absl::StrCat("cannot list ", folder, ": No such file or directory"));
    }
    if (!node->folder) return absl::UnavailableError(absl::StrCat("cannot list ", folder, ": Not a directory"));
    std::vector<std::string> names;
    for (const auto& [name, entry] : node->entries) names.push_back(name);
    return names;
  }
  bool Exists(const std::string& path) override { return Find(path) != nullptr; }
  absl::Status SyncFolder(const std::string& folder) override {
    if (auto status = Operate("sync", folder); !status.ok()) return status;
    const std::shared_ptr<Node> node = Find(folder);
    if (node == nullptr)
      return absl::NotFoundError(absl::StrCat("cannot open ", folder, ": No such file or directory"));
    node->durable_entries = node->entries;
    return absl::OkStatus();
  }

 private:
  struct Node {
    bool folder = false;
    std::string bytes, synced;
    std::map<std::string, std::shared_ptr<Node>> entries, durable_entries;
  };

  class Reader : public ReadableFile {
   public:
    explicit Reader(std::shared_ptr<Node> node) : node_(std::move(node)) {}
    absl::StatusOr<size_t> Read(char* buffer, size_t count) override {
      const size_t got = node_->bytes.copy(buffer, count, offset_);
      offset_ += got;
      return got;
    }

   private:
    const std::shared_ptr<Node> node_;
    size_t offset_ = 0;
  };

  class Writer : public WritableFile {
   public:
    Writer(FakeFiles* files, std::shared_ptr<Node> node, std::string path)
        : files_(files), node_(std::move(node)), path_(std::move(path)) {}
    absl::Status Append(absl::string_view bytes) override {
      if (auto status = files_->Operate("write", path_); !status.ok()) return status;
      node_->bytes.append(bytes.data(), bytes.size());
      return absl::OkStatus();
    }
    absl::Status Sync() override {
      if (auto status = files_->Operate("sync", path_); !status.ok()) return status;
      node_->synced = node_->bytes;
      return absl::OkStatus();
    }
    absl::Status Close() override { return files_->Operate("close", path_); }

   private:
    FakeFiles* const files_;
    const std::shared_ptr<Node> node_;
    const std::string path_;
  };

  static std::string NameOf(const std::string& path) { return path.substr(path.rfind('/') + 1); }
  static absl::Status Named(const char* doing, const std::string& path, const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("cannot ", doing, " ", path, ": ", status.message()));
  }

  absl::Status Operate(const char* doing, const std::string& path) {
    ++operations_;
    if (fail_from_ == 0 || operations_ < fail_from_ || (once_ && operations_ > fail_from_)) return absl::OkStatus();
    return Named(doing, path, failure_);
  }

  std::shared_ptr<Node> Find(const std::string& path) {
    std::shared_ptr<Node> node = root_;
    for (absl::string_view name : absl::StrSplit(path, '/', absl::SkipEmpty())) {
      if (name == ".") continue;
      const auto it = node->entries.find(std::string(name));
      if (it == node->entries.end()) return nullptr;
      node = it->second;
    }
    return node;
  }

  void Lose(Node& node, bool names_kept) {
    node.bytes = node.synced;
    if (!names_kept) node.entries = node.durable_entries;
    node.durable_entries = node.entries;
    for (const auto& [name, entry] : node.entries) Lose(*entry, names_kept);
  }

  const std::shared_ptr<Node> root_ = [] {
    auto root = std::make_shared<Node>();
    root->folder = true;
    return root;
  }();
  int64_t operations_ = 0, fail_from_ = 0;
  bool once_ = false;
  absl::Status failure_, read_failure_;
};

}  // namespace sibyl
