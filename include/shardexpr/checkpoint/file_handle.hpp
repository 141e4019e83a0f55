// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/io/failure.hpp>
#include <shardexpr/io/system.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace shardexpr::detail {

template <class Call>
auto without_interrupts(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

/// A regular file by its path, open for as long as this object lives. What a read or a write is of,
/// `what()` says, and only when a message needs it.
///
/// Order:   any number of threads at once: every transfer says where in the file.
/// Errors:  ConfigError where another path or another right is needed, IoError else: the path, what
///          it was about, the byte of the file, the system's words.
template <class System>
class FileHandle {
 public:
  static FileHandle to_read(std::string path) {
    // Without O_NONBLOCK a pipe would wait here for its writer.
    return {std::move(path), O_RDONLY | O_NONBLOCK, "read"};
  }
  static FileHandle to_create(std::string path) {
    return {std::move(path), O_WRONLY | O_CREAT | O_EXCL, "made"};
  }
  static FileHandle to_write(std::string path) {
    return {std::move(path), O_WRONLY | O_NONBLOCK, "written"};
  }
  FileHandle(FileHandle&& other) noexcept
      : path_{std::move(other.path_)},
        fd_{std::exchange(other.fd_, -1)},
        opened_bytes_{other.opened_bytes_} {}
  FileHandle& operator=(FileHandle&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(fd_, other.fd_);
    std::swap(opened_bytes_, other.opened_bytes_);
    return *this;
  }
  ~FileHandle() {
    if (fd_ >= 0) System::close(fd_);
  }

  const std::string& path() const { return path_; }
  int fd() const { return fd_; }
  /// When it was opened.
  std::uint64_t opened_bytes() const { return opened_bytes_; }

  template <class What>
  void read(std::uint64_t offset, std::span<std::byte> to, const What& what) const {
    while (!to.empty()) {
      const ssize_t count =
          without_interrupts([&] { return System::pread(fd_, to.data(), to.size(), offset); });
      if (count < 0) fail(what, offset, to.size(), errno, "cannot be read");
      if (count == 0)
        throw IoError(
            text(what, offset, to.size()) + "the file ends before them, it had " +
            std::to_string(opened_bytes_) +
            " bytes when it was opened: it was cut off while in use; keep others from it");
      offset += static_cast<std::uint64_t>(count);
      to = to.subspan(static_cast<std::size_t>(count));
    }
  }
  template <class What>
  void write(std::uint64_t offset, std::span<const std::byte> from, const What& what) const {
    int tries = 0;
    while (!from.empty()) {
      const ssize_t count =
          without_interrupts([&] { return System::pwrite(fd_, from.data(), from.size(), offset); });
      if (count < 0) fail(what, offset, from.size(), errno, "cannot be written");
      if (count == 0 && ++tries == 100) fail(what, offset, from.size(), EIO, "cannot be written");
      offset += static_cast<std::uint64_t>(count);
      from = from.subspan(static_cast<std::size_t>(count));
    }
  }
  /// Lets transfers go past the page cache. False: the file system does not have that.
  bool go_direct() const { return System::set_direct(fd_, true) == 0; }
  /// Writes past the page cache as much as the system takes at once, in whole blocks of the file
  /// and of memory. 0: it takes none such.
  template <class What>
  std::size_t write_direct(std::uint64_t offset, std::span<const std::byte> from,
                           const What& what) const {
    const ssize_t count =
        without_interrupts([&] { return System::pwrite(fd_, from.data(), from.size(), offset); });
    if (count >= 0) return static_cast<std::size_t>(count);
    if (errno != EINVAL) fail(what, offset, from.size(), errno, "cannot be written");
    return 0;
  }
  /// Errors:  IoError if the file has another size than when it was opened.
  template <class What>
  void check_size(const What& what) const {
    const std::uint64_t now = static_cast<std::uint64_t>(look(what).st_size);
    if (now != opened_bytes_)
      throw IoError(path_ + ", " + what() + ": the file had " + std::to_string(opened_bytes_) +
                    " bytes when it was opened and has " + std::to_string(now) +
                    " now: it is being changed; keep others from it");
  }
  /// Makes the file that long, with room for it where the file system can set some aside.
  void reserve(std::uint64_t bytes) {
    const auto what = [&] { return "its " + std::to_string(bytes) + " bytes"; };
    if (without_interrupts([&] { return System::fallocate(fd_, 0, bytes); }) != 0) {
      if (errno != EOPNOTSUPP && errno != ENOSYS) fail(what, 0, 0, errno, "there is no room");
      if (without_interrupts([&] { return System::ftruncate(fd_, bytes); }) != 0)
        fail(what, 0, 0, errno, "there is no room");
    }
    opened_bytes_ = bytes;
  }
  /// What was written is on the disk, or this throws.
  void synchronize() const {
    if (without_interrupts([&] { return System::fsync(fd_); }) != 0)
      fail([] { return "all that was written"; }, 0, 0, errno, "cannot be brought to the disk");
  }
  /// Some file systems tell here what became of a write.
  void close() {
    if (System::close(std::exchange(fd_, -1)) != 0 && errno != EINTR)
      fail([] { return "all that was written"; }, 0, 0, errno, "the file cannot be closed");
  }

 private:
  FileHandle(std::string path, int flags, const char* done) : path_{std::move(path)} {
    fd_ = without_interrupts([&] { return System::open(path_.c_str(), flags | O_CLOEXEC, 0666); });
    if (fd_ < 0) refuse(errno, done);
    try {
      const struct stat now = look([] { return "the file"; });
      if (S_ISDIR(now.st_mode)) refuse(EISDIR, done);
      if (!S_ISREG(now.st_mode))
        throw ConfigError(path_ + " is no regular file, but a pipe, socket or device; name a file");
      opened_bytes_ = static_cast<std::uint64_t>(now.st_size);
    } catch (...) {
      System::close(std::exchange(fd_, -1));
      throw;
    }
  }

  template <class What>
  struct stat look(const What& what) const {
    struct stat now {};
    if (without_interrupts([&] { return System::fstat(fd_, &now); }) != 0)
      fail(what, 0, 0, errno, "the file cannot be looked at");
    return now;
  }

  template <class What>
  std::string text(const What& what, std::uint64_t offset, std::size_t bytes) const {
    std::string all = path_ + ", " + what();
    if (bytes != 0)
      all += ", " + std::to_string(bytes) + " bytes from byte " + std::to_string(offset);
    return all + ": ";
  }
  template <class What>
  [[noreturn]] void fail(const What& what, std::uint64_t offset, std::size_t bytes, int error,
                         const char* failed) const {
    throw IoError(text(what, offset, bytes) + failed + ": " + error_text(error) +
                  (means_full(error) ? "; free some there, or give another directory"
                                     : "; see the kernel's log"));
  }
  [[noreturn]] void refuse(int error, const char* done) const {
    switch (error) {
      case ENOENT:
        throw ConfigError(path_ + " does not exist, or its directory does not; check the path");
      case EISDIR:
        throw ConfigError(path_ + " is a directory; name a file");
      case EEXIST:
        throw ConfigError(path_ + " exists already; remove it, or give another name");
      case EACCES:
      case EPERM:
      case EROFS:
      case ENOTDIR:
      case ELOOP:
      case ENAMETOOLONG:
      case ENXIO:
        throw ConfigError(path_ + " cannot be " + done + ": " + error_text(error) +
                          "; make that possible for this process, or give another path");
      default:
        throw IoError(path_ + " cannot be " + done + ": " + error_text(error) +
                      (means_full(error) ? "; free some there, or give another directory" : ""));
    }
  }

  std::string path_;
  int fd_ = -1;
  std::uint64_t opened_bytes_ = 0;
};

/// All of a file of text that may have at most `most_bytes`. `what()` says what it is.
template <class System, class What>
std::string read_text(const FileHandle<System>& file, std::uint64_t most_bytes, const What& what) {
  if (file.opened_bytes() > most_bytes)
    throw ConfigError(file.path() + ", " + what() + ", has " + std::to_string(file.opened_bytes()) +
                      " bytes, at most " + std::to_string(most_bytes) + " are read");
  std::string text(static_cast<std::size_t>(file.opened_bytes()), '\0');
  file.read(0, std::as_writable_bytes(std::span{text}), what);
  return text;
}

}  // namespace shardexpr::detail
