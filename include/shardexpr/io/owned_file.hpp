// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/io/failure.hpp>
#include <shardexpr/io/notice_once.hpp>
#include <shardexpr/io/nvme_options.hpp>
#include <shardexpr/io/swap_header.hpp>
#include <shardexpr/io/system.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

namespace shardexpr::detail {

/// A file that this process alone uses: made, or taken over from a run that was killed; locked;
/// with room for all that will be written; gone when this object is.
///
/// Errors:  the constructor throws ConfigError where another directory or an end of another run is
///          needed, IoError where the disk is full or fails. A file that is not of this library, or
///          that a process holds, is left as it is.
template <class System>
class OwnedFile {
 public:
  static constexpr std::size_t header_bytes = 65536;
  static constexpr std::size_t memory_alignment_bytes = 4096;

  /// `size_bytes` behind the header.
  OwnedFile(const NvmeOptions& options, std::size_t rank, std::uint64_t size_bytes)
      : OwnedFile{options, rank} {
    total_bytes_ = header_bytes + size_bytes;
    lock();
    mark(options, size_bytes);
    go_direct(options);
    allocate();
  }
  OwnedFile(const OwnedFile&) = delete;
  OwnedFile& operator=(const OwnedFile&) = delete;
  ~OwnedFile() {
    if (fd_ < 0) return;
    if (is_ours_ && is_at_path()) System::unlink(path_.c_str());
    System::close(fd_);  // behind the removal: who waits for the lock finds no file
  }

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }
  /// Reads and writes go past the page cache.
  bool is_direct() const { return is_direct_; }
  /// What offsets and addresses must be multiples of.
  std::size_t unit_bytes() const { return unit_bytes_; }

  /// Errors: throws IoError if the file was removed or truncated since.
  void check() const {
    struct stat now {};
    if (retried([&] { return System::fstat(fd_, &now); }) != 0)
      throw IoError(path_ + ": " + error_text(errno) + "; the state in it is lost: " + advice);
    if (now.st_nlink == 0)
      throw IoError(path_ + ": the file was removed while its state is in use: " + advice);
    if (static_cast<std::uint64_t>(now.st_size) < total_bytes_)
      throw IoError(path_ + ": the file was truncated, from " + std::to_string(total_bytes_) +
                    " to " + std::to_string(now.st_size) +
                    " bytes, while its state is in use: " + advice);
  }

  /// "; 1024 bytes are free in /scratch", or nothing where the system does not say.
  std::string free_text() const {
    struct statvfs disk {};
    if (System::statvfs(directory_.c_str(), &disk) != 0) return {};
    return "; " + std::to_string(std::uint64_t{disk.f_bavail} * disk.f_frsize) +
           " bytes are free in " + directory_;
  }

 private:
  static constexpr const char* advice = "keep others from it, and go on from a checkpoint";

  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  using Memory = std::unique_ptr<std::byte, Free>;

  /// Behind it the destructor runs, whatever the other constructor throws.
  OwnedFile(const NvmeOptions& options, std::size_t rank) : directory_{options.directory} {
    if (directory_.empty())
      throw ConfigError(
          "no directory is given for state on a disk; set NvmeOptions::directory to one on an "
          "NVMe disk of this machine");
    if (directory_.front() != '/') {  // what is removed at the end must be what was made
      const std::unique_ptr<char, void (*)(void*)> here{::getcwd(nullptr, 0), &std::free};
      if (here != nullptr) directory_ = std::string{here.get()} + "/" + directory_;
    }
    path_ = directory_ + "/shardexpr-rank-" + std::to_string(rank) + ".swap";
  }

  template <class Call>
  static auto retried(Call call) {
    auto result = call();
    while (result < 0 && errno == EINTR) result = call();
    return result;
  }

  static Memory zeros(std::size_t bytes) {
    Memory memory{static_cast<std::byte*>(std::aligned_alloc(memory_alignment_bytes, bytes))};
    if (memory == nullptr) throw std::bad_alloc{};
    std::memset(memory.get(), 0, bytes);
    return memory;
  }

  void lock() {
    // Between opening and locking, its owner may end and remove it: then it is another file.
    for (int tries = 0; tries < 1000; ++tries) {
      fd_ = retried([&] {
        return System::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
      });
      if (fd_ < 0) throw_not_opened(errno);
      struct stat now {};
      if (retried([&] { return System::fstat(fd_, &now); }) != 0)
        throw_failed("the file cannot be looked at", errno);
      if (!S_ISREG(now.st_mode)) throw_foreign();
      if (retried([&] { return System::flock(fd_, LOCK_EX | LOCK_NB); }) != 0) {
        if (errno == EWOULDBLOCK) throw_in_use();
        throw_failed("the file cannot be locked", errno);
      }
      if (is_at_path()) {
        found_bytes_ = static_cast<std::uint64_t>(now.st_size);
        return;
      }
      System::close(fd_);
      fd_ = -1;
    }
    throw IoError(path_ +
                  ": others remove the file again and again; give each run a directory of "
                  "its own (NvmeOptions::directory)");
  }

  bool is_at_path() const {
    struct stat mine {};
    struct statx there {};
    return retried([&] { return System::fstat(fd_, &mine); }) == 0 &&
           retried([&] {
             return System::statx(AT_FDCWD, path_.c_str(), AT_SYMLINK_NOFOLLOW, STATX_INO, &there);
           }) == 0 &&
           there.stx_ino == mine.st_ino &&
           makedev(there.stx_dev_major, there.stx_dev_minor) == mine.st_dev;
  }

  /// Writes whose file it is, if it is nobody else's.
  void mark(const NvmeOptions& options, std::uint64_t size_bytes) {
    // A run that was killed before it wrote its header left an empty file: nothing is lost in it.
    if (found_bytes_ != 0) {
      const SwapHeader found = read_header();
      if (!found.is_valid()) throw_foreign();
      options.notice(path_ + " was left by " + found.owner() +
                     ", which ended without removing it; "
                     "it is taken over");
    }
    is_ours_ = true;
    const Memory block = zeros(header_bytes);
    const SwapHeader header = SwapHeader::of_this_process(size_bytes);
    std::memcpy(block.get(), &header, sizeof header);
    write_whole(block.get(), header_bytes, 0);
    if (found_bytes_ > total_bytes_ &&
        retried([&] { return System::ftruncate(fd_, total_bytes_); }) != 0)
      throw_failed("the file cannot be made smaller", errno);
  }

  SwapHeader read_header() const {
    SwapHeader header;
    header.magic = {};
    const ssize_t count = retried([&] { return System::pread(fd_, &header, sizeof header, 0); });
    if (count != static_cast<ssize_t>(sizeof header)) header.magic = {};
    return header;
  }

  /// Past the page cache, where the file allows it.
  void go_direct(const NvmeOptions& options) {
    const std::string why = direct_refused();
    is_direct_ = why.empty();
    if (is_direct_) return;
    unit_bytes_ = 1;
    said_buffered.say(options, path_ + ": no O_DIRECT here: " + why +
                                   "; reads and writes go through the page cache, which takes "
                                   "memory and time");
  }
  /// Why not, or nothing.
  std::string direct_refused() {
    unit_bytes_ = memory_alignment_bytes;
#if defined(STATX_DIOALIGN)
    struct statx asked {};
    const int error =
        retried([&] { return System::statx(fd_, "", AT_EMPTY_PATH, STATX_DIOALIGN, &asked); });
    if (error == 0 && (asked.stx_mask & STATX_DIOALIGN) != 0) {
      const std::size_t memory = asked.stx_dio_mem_align, offset = asked.stx_dio_offset_align;
      if (memory == 0 || offset == 0) return "the file system does not have it";
      if (memory_alignment_bytes % memory != 0 || header_bytes % offset != 0)
        return "it asks for addresses in multiples of " + std::to_string(memory) +
               " bytes and offsets in multiples of " + std::to_string(offset);
      unit_bytes_ = std::max(memory, offset);
    }
#endif
    if (System::set_direct(fd_, true) != 0) return error_text(errno);
    // Some file systems take the flag and refuse the transfers.
    const Memory block = zeros(header_bytes);
    const ssize_t count = retried([&] { return System::pread(fd_, block.get(), header_bytes, 0); });
    if (count >= 0) return {};
    const int refused = errno;
    if (refused != EINVAL) throw_failed("the file cannot be read", refused);
    System::set_direct(fd_, false);
    return error_text(refused);
  }

  /// So that a full disk is found now, not in the middle of a step.
  void allocate() {
    if (retried([&] { return System::fallocate(fd_, 0, total_bytes_); }) == 0) return;
    if (errno != EOPNOTSUPP && errno != ENOSYS) throw_failed("there is no room for it", errno);
    constexpr std::size_t piece_bytes = std::size_t{1} << 20;
    const Memory piece = zeros(piece_bytes);
    for (std::uint64_t at = header_bytes; at < total_bytes_;) {
      const std::uint64_t bytes = std::min<std::uint64_t>(piece_bytes, total_bytes_ - at);
      write_whole(piece.get(), static_cast<std::size_t>(bytes), at);
      at += bytes;
    }
  }

  void write_whole(const std::byte* from, std::size_t bytes, std::uint64_t offset) const {
    int tries = 0;
    for (std::size_t done = 0; done < bytes;) {
      const ssize_t count = System::pwrite(fd_, from + done, bytes - done, offset + done);
      if (count < 0 && errno != EINTR && errno != EAGAIN)
        throw_failed("the file cannot be written", errno);
      std::size_t moved = count > 0 ? static_cast<std::size_t>(count) : 0;
      if (done + moved < bytes) moved -= moved % unit_bytes_;
      done += moved;
      tries = moved > 0 ? 0 : tries + 1;
      if (tries == 100) throw_failed("the file cannot be written", count < 0 ? errno : EIO);
      if (tries > 3) System::pause();
    }
  }

  [[noreturn]] void throw_not_opened(int error) const {
    const std::string in = "the directory for state on a disk, " + directory_;
    switch (error) {
      case ENOENT:
        throw ConfigError(in + ", does not exist; make it, or set NvmeOptions::directory");
      case ENOTDIR:
        throw ConfigError(in + ", is no directory; set NvmeOptions::directory to one");
      case EISDIR:
      case ELOOP:
      case ENXIO:
        throw_foreign();
      case EACCES:
      case EPERM:
      case EROFS:
        throw ConfigError(in + ", is not writable (" + path_ + ": " + error_text(error) +
                          "); make it so for this process, or set NvmeOptions::directory");
      default:
        throw_failed("the file cannot be made", error);
    }
  }
  [[noreturn]] void throw_failed(const std::string& what, int error) const {
    std::string text = path_ + ", " + std::to_string(total_bytes_) + " bytes: " + what + ": " +
                       error_text(error) + free_text();
    throw IoError(text + (means_full(error)
                              ? "; free some, or set NvmeOptions::directory to another disk"
                              : "; set NvmeOptions::directory to a disk that works"));
  }
  [[noreturn]] void throw_foreign() const {
    throw ConfigError(path_ +
                      " exists and is no file of this library: it is left as it is; move it "
                      "away, or set NvmeOptions::directory to another directory");
  }
  [[noreturn]] void throw_in_use() const {
    const SwapHeader other = read_header();
    throw ConfigError(path_ + " is in use by " +
                      (other.is_valid() ? other.owner() : "a process that is just starting") +
                      "; give each run a directory of its own (NvmeOptions::directory), or end the "
                      "other");
  }

  static inline NoticeOnce said_buffered;

  std::string directory_, path_;
  std::uint64_t total_bytes_ = 0, found_bytes_ = 0;
  std::size_t unit_bytes_ = 1;
  int fd_ = -1;
  bool is_ours_ = false, is_direct_ = false;
};

}  // namespace shardexpr::detail
