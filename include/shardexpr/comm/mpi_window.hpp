// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/mpi_channel.hpp>
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/error.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <mpi.h>
#include <sys/mman.h>

namespace shardexpr::detail {

/// Memory that the ranks of one machine share, by MPI_Win_allocate_shared: a part of each rank's,
/// or one that the first of them has.
class MpiWindow {
 public:
  enum class Form { one_each, one };
  static constexpr std::size_t alignment_bytes = 4096;

  /// Zeroed; of `form` one, `size_bytes` for all of them.
  ///
  /// Order:   every rank of `node` makes one at the same time.
  /// Errors:  CommError in every rank when the machine has not as much memory to share, or MPI
  ///          reports an error.
  MpiWindow(const MpiChannel& channel, MPI_Comm node, Form form, std::size_t size_bytes,
            const std::string& what)
      : channel_{channel}, size_bytes_{size_bytes} {
    const MpiChannel::Turn turn{channel};
    int rank = 0, size = 0;
    channel.check(MPI_Comm_rank(node, &rank), what);
    channel.check(MPI_Comm_size(node, &size), what);
    const bool is_owner = form == Form::one_each || rank == 0;
    MPI_Info info = MPI_INFO_NULL;  // parts that begin where pages do
    channel.check(MPI_Info_create(&info), what);
    MPI_Info_set(info, "alloc_shared_noncontig", "true");
    void* base = nullptr;
    const int result =
        MPI_Win_allocate_shared(static_cast<MPI_Aint>(is_owner ? size_bytes + alignment_bytes : 0),
                                1, info, node, &base, &window_);
    MPI_Info_free(&info);
    if (result != MPI_SUCCESS) throw_no_memory(what, ": " + MpiChannel::text_of(result));
    channel.check(MPI_Win_set_errhandler(window_, MPI_ERRORS_RETURN), what);
    channel.check(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_), what);
    for (int peer = 0; peer < size; ++peer) {
      MPI_Aint bytes = 0;
      int unit = 0;
      void* at = nullptr;
      channel.check(MPI_Win_shared_query(window_, form == Form::one ? 0 : peer, &bytes, &unit, &at),
                    what);
      parts_.push_back(aligned(at));
    }
    own_ = static_cast<std::size_t>(rank);
    // Each rank touches what is its own, so that it lies near it, and a machine without the memory
    // says so now and not by a signal later.
    const std::size_t share =
        form == Form::one
            ? round_up(ceil_div(size_bytes, static_cast<std::size_t>(size)), alignment_bytes)
            : size_bytes;
    const std::size_t begin = form == Form::one ? std::min(size_bytes, own_ * share) : 0;
    int is_there = populate(parts_[own_] + begin, std::min(share, size_bytes - begin));
    channel.check(MPI_Allreduce(MPI_IN_PLACE, &is_there, 1, MPI_INT, MPI_MIN, node), what);
    if (!is_there) throw_no_memory(what, "");
  }
  MpiWindow(const MpiWindow&) = delete;
  MpiWindow& operator=(const MpiWindow&) = delete;
  ~MpiWindow() = default;  // `free` it, or leave it to MPI

  /// Every rank of the node calls it at the same time.
  void free() {
    const MpiChannel::Turn turn{channel_};
    MPI_Win_unlock_all(window_);
    MPI_Win_free(&window_);
  }

  /// Where this process sees the part of the node's rank `peer`; of form one, of all.
  std::byte* part(std::size_t peer) const { return parts_[peer]; }
  /// Whether this rank's part holds those bytes.
  bool holds(const void* data, std::size_t count_bytes) const {
    const std::less_equal<const std::byte*> before;
    const auto* const first = static_cast<const std::byte*>(data);
    return before(parts_[own_], first) && before(first + count_bytes, parts_[own_] + size_bytes_);
  }
  std::size_t offset(const void* data) const {
    return static_cast<std::size_t>(static_cast<const std::byte*>(data) - parts_[own_]);
  }

 private:
  [[noreturn]] void throw_no_memory(const std::string& what, const std::string& of_mpi) const {
    throw CommError(what + ": the machine cannot share " + std::to_string(size_bytes_) +
                    " bytes more between processes" + of_mpi +
                    "; enlarge /dev/shm, in a container by its option for that, or say "
                    "MpiOptions::node_ranks = 1, which shares none");
  }
  /// Pages lie alike in every process, so each finds the same place.
  static std::byte* aligned(void* at) {
    const auto address = reinterpret_cast<std::uintptr_t>(at);
    return reinterpret_cast<std::byte*>(round_up(address, std::uintptr_t{alignment_bytes}));
  }
  static bool populate(std::byte* from, std::size_t count_bytes) {
    if (count_bytes == 0) return true;
#if defined(MADV_POPULATE_WRITE)  // Linux 5.14
    if (::madvise(from, round_up(count_bytes, alignment_bytes), MADV_POPULATE_WRITE) != 0 &&
        errno != EINVAL)
      return false;
#endif
    std::memset(from, 0, count_bytes);
    return true;
  }

  const MpiChannel& channel_;
  std::size_t size_bytes_, own_ = 0;
  MPI_Win window_ = MPI_WIN_NULL;
  std::vector<std::byte*> parts_;
};

}  // namespace shardexpr::detail
