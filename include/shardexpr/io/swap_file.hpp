// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/crc32c.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/io/failure.hpp>
#include <shardexpr/io/nvme_options.hpp>
#include <shardexpr/io/owned_file.hpp>
#include <shardexpr/io/system.hpp>
#include <shardexpr/io/transfers.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace shardexpr {

/// One rank's state on a disk. It lives as long as this object: what is read must have been written
/// through it before.
///
/// Units:   offsets and sizes in bytes, multiples of `block_bytes`; memory is aligned to
///          `memory_alignment_bytes`.
/// Order:   one thread at a time reads and one, perhaps another, writes; what they touch at the
///          same time is disjoint.
/// Errors:  each in one line that says where, what lies there, and what to do.
/// Cost:    `size_bytes` and 64 KiB on the disk, `checksum_bytes(size_bytes)` of memory; eight
///          threads where there is no io_uring. Reading and writing allocate nothing.
template <class System = detail::LinuxSystem>
class SwapFile {
 public:
  static constexpr std::size_t block_bytes = 65536;
  static constexpr std::size_t memory_alignment_bytes =
      detail::OwnedFile<System>::memory_alignment_bytes;

  /// Makes `<directory>/shardexpr-rank-<rank>.swap`, with room for all of it, and locks it. A file
  /// that a killed run left is taken over, with a notice. Of size 0 there is no file.
  ///
  /// Errors:  throws ConfigError if an option is out of its range, the directory is missing, no
  ///          directory or not writable, if another process uses the file, or if it is not of this
  ///          library, IoError if the disk is full or fails.
  SwapFile(const NvmeOptions& options, std::size_t rank, std::size_t size_bytes)
      : size_bytes_{size_bytes}, checksums_(size_bytes / block_bytes) {
    if (size_bytes % block_bytes != 0)
      throw ConfigError("a file for state on a disk is of " + std::to_string(size_bytes) +
                        " bytes; give a multiple of " + std::to_string(block_bytes));
    if (options.queue_depth < 1 || options.queue_depth > 4096)
      throw ConfigError("NvmeOptions: queue_depth is " + std::to_string(options.queue_depth) +
                        "; give one of 1 to 4096");
    if (options.notice == nullptr)
      throw ConfigError("NvmeOptions: notice is a null pointer; give a function, or leave it out");
    if (size_bytes == 0) return;
    file_.emplace(options, rank, size_bytes);
    reads_.emplace(options, file_->fd(), file_->unit_bytes(), false);
    writes_.emplace(options, file_->fd(), file_->unit_bytes(), true);
  }
  SwapFile(const SwapFile&) = delete;
  SwapFile& operator=(const SwapFile&) = delete;

  /// Reads what was last written there, and returns when it is there and its checksums agree.
  /// `describe()` is called for an error alone: a std::string that names what lies there.
  ///
  /// Errors:  throws IoError; `to` is then unspecified.
  template <class Describe>
  void read(std::size_t offset, std::span<std::byte> to, Describe&& describe) {
    if (to.empty()) return;
    require_place("read", offset, to, describe);
    for (std::size_t block = offset / block_bytes; block < (offset + to.size()) / block_bytes;
         ++block)
      if (checksums_[block] == never_written)
        throw IoError(place("read", file_offset(block * block_bytes), block_bytes, describe) +
                      "it was never written, or not to the end; write before you read");
    const detail::IoFailure failure = reads_->run(
        file_offset(offset), to.data(), to.size(), [](std::size_t, std::size_t) {},
        [&](std::size_t at, std::size_t bytes) {
          return verify(offset + at, to.subspan(at, bytes));
        });
    if (failure) raise("read", failure, describe);
    bytes_read_.fetch_add(to.size(), std::memory_order_relaxed);
  }

  /// Writes, and returns when the system has taken all of it.
  ///
  /// Errors:  throws IoError; what lay there is then lost, and reading it is refused.
  template <class Describe>
  void write(std::size_t offset, std::span<const std::byte> from, Describe&& describe) {
    if (from.empty()) return;
    require_place("write", offset, from, describe);
    const detail::IoFailure failure = writes_->run(
        file_offset(offset), const_cast<std::byte*>(from.data()), from.size(),
        [&](std::size_t at, std::size_t bytes) { sum(offset + at, from.subspan(at, bytes)); },
        [](std::size_t, std::size_t) { return detail::IoFailure{}; });
    if (failure) {
      for (std::size_t at = 0; at < from.size(); at += block_bytes)
        checksums_[(offset + at) / block_bytes] = never_written;
      raise("write", failure, describe);
    }
    bytes_written_.fetch_add(from.size(), std::memory_order_relaxed);
  }

  /// Asks the system whether the file is still there, in full length.
  ///
  /// Errors:  throws IoError if not.
  /// Cost:    one call of the system.
  void check() const {
    if (file_) file_->check();
  }

  std::size_t size_bytes() const { return size_bytes_; }
  /// Memory for the checksums of a file: 4 bytes a block.
  static constexpr std::size_t checksum_bytes(std::size_t size_bytes) {
    return size_bytes / block_bytes * sizeof(std::uint32_t);
  }
  /// Of state, since the beginning; what was tried twice counts once.
  std::uint64_t bytes_read() const { return bytes_read_.load(std::memory_order_relaxed); }
  /// As `bytes_read`.
  std::uint64_t bytes_written() const { return bytes_written_.load(std::memory_order_relaxed); }

  /// Whether io_uring does the work, or threads; whether past the page cache. Of a file that is not
  /// there, false.
  bool uses_io_uring() const { return reads_ && reads_->has_ring() && writes_->has_ring(); }
  /// Whether it goes past the page cache.
  bool is_direct() const { return file_ && file_->is_direct(); }

 private:
  // A block's checksum as it is kept; this one stands for none.
  static constexpr std::uint32_t never_written = 0;
  static std::uint32_t kept_checksum(std::span<const std::byte> block) {
    const std::uint32_t sum = crc32c(block);
    return sum == never_written ? 1 : sum;
  }

  void sum(std::size_t offset, std::span<const std::byte> bytes) {
    for (std::size_t at = 0; at < bytes.size(); at += block_bytes)
      checksums_[(offset + at) / block_bytes] = kept_checksum(bytes.subspan(at, block_bytes));
  }
  detail::IoFailure verify(std::size_t offset, std::span<const std::byte> bytes) const {
    for (std::size_t at = 0; at < bytes.size(); at += block_bytes)
      if (checksums_[(offset + at) / block_bytes] != kept_checksum(bytes.subspan(at, block_bytes)))
        return {detail::IoFailure::Kind::checksum, 0, file_offset(offset + at), block_bytes};
    return {};
  }

  static std::uint64_t file_offset(std::size_t offset) {
    return detail::OwnedFile<System>::header_bytes + std::uint64_t{offset};
  }

  template <class Describe>
  void require_place(const char* verb, std::size_t offset, std::span<const std::byte> memory,
                     Describe& describe) const {
    const bool is_inside = offset <= size_bytes_ && memory.size() <= size_bytes_ - offset;
    const bool is_aligned =
        offset % block_bytes == 0 && memory.size() % block_bytes == 0 &&
        reinterpret_cast<std::uintptr_t>(memory.data()) % memory_alignment_bytes == 0;
    if (is_inside && is_aligned) return;
    throw IoError(std::string{"state on a disk: "} + verb + " of " + std::to_string(memory.size()) +
                  " bytes at " + std::to_string(offset) + " of " + std::to_string(size_bytes_) +
                  " (" + std::string{describe()} + "): " +
                  (is_inside
                       ? "give offset and size in multiples of " + std::to_string(block_bytes) +
                             ", memory aligned to " + std::to_string(memory_alignment_bytes)
                       : std::string{"stay inside"}));
  }

  /// "/scratch/shardexpr-rank-0.swap: read of 65536 bytes at byte 131072 of the file (the moments):
  /// "
  template <class Describe>
  std::string place(const char* verb, std::uint64_t offset, std::size_t bytes,
                    Describe& describe) const {
    return file_->path() + ": " + verb + " of " + std::to_string(bytes) + " bytes at byte " +
           std::to_string(offset) + " of the file (" + std::string{describe()} + "): ";
  }
  template <class Describe>
  [[noreturn]] void raise(const char* verb, const detail::IoFailure& failure,
                          Describe& describe) const {
    throw IoError(place(verb, failure.offset, failure.bytes, describe) +
                  detail::failure_text(failure) +
                  (detail::means_full(failure.error) ? file_->free_text() : ""));
  }

  std::size_t size_bytes_;
  std::vector<std::uint32_t> checksums_;  // by block
  std::atomic<std::uint64_t> bytes_read_{0}, bytes_written_{0};
  std::optional<detail::OwnedFile<System>> file_;
  std::optional<detail::Transfers<System>> reads_, writes_;  // end before the file
};

}  // namespace shardexpr
