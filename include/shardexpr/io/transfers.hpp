// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/io/failure.hpp>
#include <shardexpr/io/notice_once.hpp>
#include <shardexpr/io/nvme_options.hpp>
#include <shardexpr/io/pool_queue.hpp>
#include <shardexpr/io/system.hpp>
#include <shardexpr/io/uring_queue.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace shardexpr::detail {

/// Moves stretches of memory to or from a file: in pieces, many at once.
///
/// Order:   one thread at a time. A stretch is through when `run` returns, also with a failure:
///          nothing is under way then.
/// Errors:  the constructor throws IoError where neither a ring nor a thread is to be had.
/// Cost:    `run` allocates nothing.
template <class System>
class Transfers {
 public:
  static constexpr std::size_t piece_bytes = std::size_t{1} << 20;

  /// `unit_bytes`: what the file wants offsets and addresses to be multiples of.
  Transfers(const NvmeOptions& options, int fd, std::size_t unit_bytes, bool writes)
      : unit_bytes_{unit_bytes},
        writes_{writes},
        pieces_(options.queue_depth),
        free_(options.queue_depth) {
    for (std::size_t slot = 0; slot < free_.size(); ++slot) free_[slot] = slot;
    std::string why = "it is not compiled in (SHARDEXPR_LIBURING)";
#if defined(SHARDEXPR_LIBURING)
    ring_.emplace(fd, options.queue_depth);
    if (ring_->error() == 0) return;
    why = error_text(ring_->error());
    ring_.reset();
#endif
    said_no_ring.say(options, "no io_uring for state on a disk: " + why +
                                  "; threads with pread and pwrite do its work");
    pool_.emplace(fd, options.queue_depth);
    if (pool_->error() != 0)
      throw IoError("no thread can start to read and write state on a disk: " +
                    error_text(pool_->error()) + "; raise the limit of threads (ulimit -u)");
  }

  bool has_ring() const {
#if defined(SHARDEXPR_LIBURING)
    return ring_.has_value();
#else
    return false;
#endif
  }

  /// Moves `bytes` between `data` and the file at `offset`. `before(at, bytes)` is called before a
  /// piece of the stretch is begun; `after(at, bytes)`, which returns a failure or none, when it is
  /// done: while others are under way.
  template <class Before, class After>
  IoFailure run(std::uint64_t offset, std::byte* data, std::size_t bytes, Before before,
                After after) {
    const Stretch stretch{offset, data, bytes};
#if defined(SHARDEXPR_LIBURING)
    if (ring_) return run_on(*ring_, stretch, before, after);
#endif
    return run_on(*pool_, stretch, before, after);
  }

 private:
  struct Stretch {
    std::uint64_t offset;
    std::byte* data;
    std::size_t bytes;
  };
  struct Piece {
    std::size_t at = 0, bytes = 0, done = 0;
    int tries = 0;  // that moved nothing
  };
  static constexpr int most_tries = 100;

  template <class Queue, class Before, class After>
  IoFailure run_on(Queue& queue, const Stretch& stretch, Before& before, After& after) {
    IoFailure failure;
    const std::size_t most_under_way = std::min(pieces_.size(), at_once(stretch.bytes));
    std::size_t begun = 0, under_way = 0;
    Piece done;  // and not yet looked at
    for (;;) {
      while (!failure && begun < stretch.bytes && under_way < most_under_way) {
        const std::size_t slot = free_[free_.size() - 1 - under_way];
        pieces_[slot] = {begun, std::min(piece_bytes, stretch.bytes - begun), 0, 0};
        before(begun, pieces_[slot].bytes);
        failure = begin(queue, stretch, slot);
        if (failure) break;
        begun += pieces_[slot].bytes;
        ++under_way;
      }
      if (done.bytes != 0 && !failure) failure = after(done.at, done.bytes);
      done = {};
      if (under_way == 0) {
        if (failure || begun == stretch.bytes) return failure;
        continue;
      }

      IoResult result;
      if (const int error = queue.wait(result); error != 0)
        return {IoFailure::Kind::system, error, stretch.offset, stretch.bytes};
      Piece& piece = pieces_[result.slot];
      IoFailure end = advance(piece, stretch, result.result);
      if (!end && !failure && piece.done < piece.bytes) {
        end = begin(queue, stretch, result.slot);
        if (!end) continue;
      }
      if (end && !failure) failure = end;
      --under_way;
      free_[free_.size() - 1 - under_way] = result.slot;
      done = piece;
    }
  }

  /// Pieces that are begun together are done together: if those were all, nothing would be under
  /// way while `after` looks at them. Writes have nothing to be looked at.
  std::size_t at_once(std::size_t bytes) const {
    constexpr std::size_t fewest = 4;
    return writes_ ? pieces_.size() : std::max(fewest, bytes / piece_bytes / 2);
  }

  template <class Queue>
  IoFailure begin(Queue& queue, const Stretch& stretch, std::size_t slot) {
    const Piece& piece = pieces_[slot];
    const std::size_t at = piece.at + piece.done;
    const int error = queue.begin(
        {stretch.data + at, piece.bytes - piece.done, stretch.offset + at, slot, writes_});
    if (error == 0) return {};
    return {IoFailure::Kind::system, error, stretch.offset + piece.at, piece.bytes};
  }

  /// What a result means: the piece is done, or goes on behind what was moved, or failed.
  IoFailure advance(Piece& piece, const Stretch& stretch, std::int64_t result) const {
    const auto failed = [&](IoFailure::Kind kind, int error) {
      return IoFailure{kind, error, stretch.offset + piece.at, piece.bytes};
    };
    if (result < 0 && result != -EINTR && result != -EAGAIN)
      return failed(IoFailure::Kind::system, static_cast<int>(-result));
    if (result == 0 && !writes_) return failed(IoFailure::Kind::end_of_file, 0);
    std::size_t moved = result > 0 ? static_cast<std::size_t>(result) : 0;
    // A piece goes on at a place that the file allows: up to a unit is moved once more.
    if (piece.done + moved < piece.bytes) moved -= moved % unit_bytes_;
    piece.done += moved;
    if (moved > 0) {
      piece.tries = 0;
      return {};
    }
    if (++piece.tries == most_tries)
      return result < 0 ? failed(IoFailure::Kind::system, static_cast<int>(-result))
                        : failed(IoFailure::Kind::stuck, 0);
    if (piece.tries > 3) System::pause();
    return {};
  }

  static inline NoticeOnce said_no_ring;

  std::size_t unit_bytes_;
  bool writes_;
  std::vector<Piece> pieces_;      // by slot
  std::vector<std::size_t> free_;  // slots: those not under way come first
#if defined(SHARDEXPR_LIBURING)
  std::optional<UringQueue<System>> ring_;
#endif
  std::optional<PoolQueue<System>> pool_;
};

}  // namespace shardexpr::detail
