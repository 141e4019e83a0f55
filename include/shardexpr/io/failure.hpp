// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>

namespace shardexpr::detail {

/// How a read or a write ended.
struct IoFailure {
  enum class Kind {
    none,
    system,       // `error` says what
    end_of_file,  // in the middle of a read
    stuck,        // again and again less than the file's unit was transferred
    checksum,     // not what was written
  };
  Kind kind = Kind::none;
  int error = 0;
  std::uint64_t offset = 0;  // of the piece or block, in the file
  std::size_t bytes = 0;

  explicit operator bool() const { return kind != Kind::none; }
};

inline bool means_full(int error) { return error == ENOSPC || error == EDQUOT; }

/// The system's words. std::strerror has one buffer for all threads.
inline std::string error_text(int error) { return std::generic_category().message(error); }

/// What went wrong and what to do.
inline std::string failure_text(const IoFailure& failure) {
  const char* const restart = "; then go on from a checkpoint";
  switch (failure.kind) {
    case IoFailure::Kind::none:
      break;
    case IoFailure::Kind::end_of_file:
      return std::string{"the file ends there: it was truncated; keep others from it"} + restart;
    case IoFailure::Kind::stuck:
      return std::string{
                 "no more bytes are transferred, and no error is given; see the kernel's "
                 "log, or give another directory"} +
             restart;
    case IoFailure::Kind::checksum:
      return std::string{
                 "its checksum is not that of what was written: the disk or something on "
                 "the way to it changes bytes; test disk and memory"} +
             restart;
    case IoFailure::Kind::system:
      if (means_full(failure.error))
        return error_text(failure.error) + "; free some there, or give another directory" + restart;
      if (failure.error == EINVAL)
        return error_text(failure.error) +
               ": the file system refuses this transfer; give a directory on another";
      return error_text(failure.error) +
             "; see the kernel's log, and give a directory on a disk that works" + restart;
  }
  return {};
}

}  // namespace shardexpr::detail
