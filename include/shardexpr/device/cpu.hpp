// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/convert.hpp>
#include <shardexpr/core/exact_sum.hpp>
#include <shardexpr/core/loop.hpp>
#include <shardexpr/core/source_location.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/account.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/device/cpu_copy.hpp>
#include <shardexpr/device/cpu_stream.hpp>
#include <shardexpr/device/place_buffer.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace shardexpr {

/// The CPU: memory is the process's own, a rank is one thread. One object a rank; it keeps that
/// rank's memory account.
///
/// Order:   `Cpu{}` runs each operation as it is enqueued. With `Cpu{Execution::asynchronous}` each
///          stream that is made with this device has a thread, which runs them in order.
/// Errors:  what an operation throws leaves the enqueuing call where that ran it. An asynchronous
///          stream keeps the first exception: what is enqueued behind it is destroyed unrun, then
///          and later; `synchronize` throws it, every time; a stream that waits for an event
///          recorded behind it fails with it. No wait becomes endless by a failure.
/// Cost:    an asynchronous stream: a thread and 256 KiB. To enqueue allocates nothing; it waits
///          while the operations not yet run fill the 256 KiB.
class Cpu {
 public:
  static constexpr bool runs_on_host = true;
  static constexpr bool shares_memory = true;

  /// An in-order queue of work. One thread at a time enqueues. Neither copies nor moves; the
  /// destructor waits for all that was enqueued. Without a device it is immediate.
  class Stream : detail::CpuStream {
   public:
    Stream() = default;
    /// Errors:  one with a thread throws std::bad_alloc, or std::system_error if it gets none.
    Stream(Cpu& device, std::string_view name) : CpuStream{device.execution_, name} {}
    /// One with a thread of its own, whatever the device's execution.
    Stream(Cpu&, std::string_view name, OwnThread) : CpuStream{Execution::asynchronous, name} {}

   private:
    friend class Cpu;
  };

  /// A point in a stream that others wait for: that of the last `record`; a wait in progress keeps
  /// the point it was given. Recorded on an immediate stream it is complete at once. Neither copies
  /// nor moves. It may go before or after the streams that use it, also while they wait.
  class Event : detail::CpuEvent {
    friend class Cpu;
  };

  Cpu() = default;
  /// `asynchronous`: each stream has a thread of its own.
  explicit Cpu(Execution execution) : execution_{execution} {}
  Cpu(const Cpu&) = delete;  // buffers point to their device's account
  Cpu& operator=(const Cpu&) = delete;

  /// What it was made with.
  Execution execution() const { return execution_; }

  /// The host's side of this device: state that is offloaded lies there and is computed on there.
  /// For a CPU it is the same memory under an account of its own, so that every transfer can be
  /// seen; its operations take this device's streams.
  using Host = Cpu;
  Host& host() {
    if (host_ == nullptr) host_ = std::make_unique<Cpu>(execution_);
    return *host_;
  }

  /// Typed memory that returns itself. Moves, never copies.
  template <class T>
  using Buffer = detail::PlaceBuffer<Cpu, T>;

  /// Zeroed memory, charged to this rank.
  ///
  /// Shapes:  (count,), aligned to 256 bytes; from 4 KiB on to 4 KiB, as disks want it; to 2 MiB
  ///          where huge pages help.
  /// Errors:  throws std::bad_alloc; nothing is charged then.
  template <class T>
  Buffer<T> allocate(std::size_t count, Purpose purpose) {
    if (count == 0) return {};
    return {static_cast<T*>(allocate_zeroed(count * sizeof(T))), count, account_, purpose};
  }

  /// Enqueues `work()`, which touches what is named and nothing else. An asynchronous stream copies
  /// `work`: what it refers to must live until it has run.
  template <std::size_t R, std::size_t W, class Work>
  void run(Stream& stream, const Reads<R>&, const Writes<W>&, Work&& work,
           SourceLocation = SourceLocation::current()) {
    stream.run(std::forward<Work>(work));
  }

  /// Marks the point behind all that was enqueued on `stream` so far.
  void record(Event& event, Stream& stream) { stream.record(event); }
  /// Lets what is enqueued on `stream` from now on wait for the point that `event` marks now. An
  /// immediate stream waits in this call, and throws what failed before that point.
  void wait(Stream& stream, const Event& event) { stream.wait(event); }
  void synchronize(Stream& stream) { stream.synchronize(); }
  void drain(Stream& stream) noexcept { stream.drain(); }

  // For devices that check or trace.
  void annotate(Stream&, const Label&) {}
  template <class T>
  void retire(Stream&, std::span<T>) {}
  void note_live(Stream&, Purpose, std::size_t /*size_bytes*/) {}

  /// Enqueues `functor(i)` for each i below `count`, in any order: the iterations must not meet. A
  /// functor that has `prepare(count)` is asked, when its turn comes, for the one to call instead,
  /// and may lower the count: for values that are known only then.
  template <std::size_t R, std::size_t W, class Functor>
  void for_each(Stream& stream, std::size_t count, const Reads<R>&, const Writes<W>&,
                Functor functor, SourceLocation = SourceLocation::current()) {
    stream.run([=] {
      if constexpr (requires(std::size_t n) { functor.prepare(n); }) {
        std::size_t n = count;
        const auto prepared = functor.prepare(n);
        detail::for_independent(n, prepared);
      } else {
        detail::for_independent(count, functor);
      }
    });
  }

  /// Copies `from` to `to`, equally long and disjoint.
  template <class T>
  void copy(Stream& stream, std::span<const T> from, std::span<T> to,
            SourceLocation where = SourceLocation::current()) {
    run(
        stream, reads(from), writes(to),
        [=] { detail::copy_bytes(to.data(), from.data(), from.size_bytes()); }, where);
  }

  /// Copies `from` to `to`, equally long and disjoint, from one dtype to another: through fp32,
  /// rounded to nearest, ties to even.
  template <class From, class To>
  void cast(Stream& stream, std::span<const From> from, std::span<To> to,
            SourceLocation where = SourceLocation::current()) {
    if constexpr (std::is_same_v<From, To>)
      copy(stream, from, to, where);
    else
      run(
          stream, reads(from), writes(to),
          [=] { detail::convert(from.data(), to.data(), from.size()); }, where);
  }

  template <class T>
  void fill_zero(Stream& stream, std::span<T> to,
                 SourceLocation where = SourceLocation::current()) {
    run(
        stream, reads(), writes(to),
        [=] {
          if (!to.empty()) std::memset(static_cast<void*>(to.data()), 0, to.size_bytes());
        },
        where);
  }

  /// Adds the squares of `values` to `*sum`: 64 at a time in one fixed order, the blocks exactly.
  /// The result is the same bits however the blocks are split over ranks.
  template <class T>
  void sum_squares(Stream& stream, std::span<const T> values, ExactSum* sum,
                   SourceLocation where = SourceLocation::current()) {
    run(
        stream, reads(values), writes(std::span{sum, 1}),
        [=] {
          constexpr std::size_t lanes = 16;
          for (std::size_t at = 0; at < values.size(); at += block_elements) {
            const std::size_t end = std::min(values.size() - at, block_elements);
            double lane[lanes] = {};
            if (end == block_elements) {
              for (std::size_t i = 0; i < block_elements; i += lanes)
                for (std::size_t j = 0; j < lanes; ++j) {
                  const double x = static_cast<double>(values[at + i + j]);
                  lane[j] += x * x;  // exact product: contraction cannot change it
                }
            } else {
              for (std::size_t i = 0; i < end; ++i) {
                const double x = static_cast<double>(values[at + i]);
                lane[i % lanes] += x * x;
              }
            }
            for (std::size_t width = lanes / 2; width > 0; width /= 2)
              for (std::size_t j = 0; j < width; ++j) lane[j] += lane[j + width];
            sum->add(lane[0]);
          }
          sum->normalize();
        },
        where);
  }

  const MemoryAccount& account() const { return account_; }
  /// For what is allocated elsewhere on this rank's behalf: its share of a buffer of the process.
  MemoryAccount& account() { return account_; }

  /// Memory as `allocate` gives it, charged to nobody; `deallocate` returns it.
  static void* allocate_zeroed(std::size_t size_bytes) {
    constexpr std::size_t huge = std::size_t{2} << 20;
    const std::size_t alignment = size_bytes >= 2 * huge               ? huge
                                  : size_bytes >= host_alignment_bytes ? host_alignment_bytes
                                                                       : buffer_alignment_bytes;
    const std::size_t size = round_up(size_bytes, alignment);
    void* data = std::aligned_alloc(alignment, size);
    if (data == nullptr) throw std::bad_alloc{};
#if defined(__linux__)
    if (alignment == huge) madvise(data, size, MADV_HUGEPAGE);
#endif
    std::memset(data, 0, size);  // the rank that will use the pages touches them first
    return data;
  }
  static void deallocate(void* memory) { std::free(memory); }

 private:
  Execution execution_ = Execution::immediate;
  MemoryAccount account_;
  std::unique_ptr<Cpu> host_;
};

static_assert(Device<Cpu> && HasHost<Cpu>);

}  // namespace shardexpr
