// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/core/source_location.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/account.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/device/cuda_error.cuh>
#include <shardexpr/device/cuda_kernels.cuh>
#include <shardexpr/device/cuda_memory.cuh>
#include <shardexpr/device/cuda_stamps.cuh>
#include <shardexpr/device/cuda_stream.cuh>
#include <shardexpr/device/host_memory.hpp>
#include <shardexpr/device/place_buffer.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace shardexpr {
/// One GPU, for one rank. Its memory is the GPU's own, never managed; the host beside it has pinned
/// memory, and computes on threads of its own, one a stream that it works on.
///
/// Order:   operations are enqueued; the host waits in `synchronize` alone, and where a buffer is
///          made or freed.
/// Errors:  DeviceError where there is no such GPU, where it or the driver is too old, where no
///          kernel was compiled for it, or where CUDA says that something failed; std::bad_alloc
///          where memory is out.
class Cuda {
 public:
  static constexpr bool shares_memory = false;

  /// An in-order queue of work on the GPU. Neither copies nor moves.
  class Stream : detail::CudaStream {
   public:
    /// `name` is what traces and races call it.
    Stream(Cuda& device, std::string_view name) : CudaStream{device.shared_, name} {}
    /// The same: every stream of a GPU runs by itself.
    Stream(Cuda& device, std::string_view name, OwnThread) : Stream{device, name} {}

   private:
    friend class Cuda;
  };
  class Event : detail::CudaEvent {
    friend class Cuda;
  };

  /// The GPU of that number, as the runtime counts those that it sees.
  explicit Cuda(int ordinal = 0) : ordinal_{detail::cuda_ordinal(ordinal)} {
    const detail::CudaCurrent current{ordinal_};
    detail::check_cuda_kernels(ordinal_, detail::run_once<detail::NormalizeSum>);
    int processors = 0;
    detail::cuda_check(
        cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, ordinal_),
        "count the multiprocessors");
    most_blocks_ = static_cast<unsigned>(processors) * 16;
    shared_ = std::make_shared<detail::CudaShared>(ordinal_);
  }
  Cuda(const Cuda&) = delete;  // buffers point to their device's account
  Cuda& operator=(const Cuda&) = delete;

  /// As the runtime counts.
  int ordinal() const { return ordinal_; }

  template <class T>
  using Buffer = detail::PlaceBuffer<Cuda, T>;

  /// Zeroed memory of the GPU, charged to this rank.
  /// Errors:  throws std::bad_alloc; nothing is charged then.
  template <class T>
  Buffer<T> allocate(std::size_t count, Purpose purpose) {
    if (count == 0) return {};
    return {static_cast<T*>(allocate_zeroed(count * sizeof(T))), count, account_, purpose};
  }
  /// The same, charged to nobody.
  void* allocate_zeroed(std::size_t size_bytes) {
    const detail::CudaCurrent current{ordinal_};
    void* data = detail::CudaMemory::instance().take(ordinal_, size_bytes);
    detail::cuda_zero(data, size_bytes);
    return data;
  }
  static void deallocate(void* memory) { detail::CudaMemory::instance().give(memory); }
  /// What could be allocated now: what is free on the GPU, or kept for who asks next.
  std::size_t available_bytes() const {
    const detail::CudaCurrent current{ordinal_};
    std::size_t free = 0, all = 0;
    detail::cuda_check(cudaMemGetInfo(&free, &all), "ask for free memory");
    return free + detail::CudaMemory::instance().kept_bytes(ordinal_);
  }

  /// Runs `work()` by one thread of the GPU: a named type whose call is SHARDEXPR_HOST_DEVICE.
  template <std::size_t R, std::size_t W, class Work>
  void run(Stream& stream, const Reads<R>&, const Writes<W>&, Work work,
           SourceLocation = SourceLocation::current()) {
    stream.on_device([&](cudaStream_t on) {
      detail::cuda_launch(on, 1, 1, "start an operation", detail::run_once<Work>, work);
    });
  }
  /// Calls `functor(i)` for each i below `count`, by as many threads; as `Cpu::for_each`. A functor
  /// that can be run by packs is, where its arrays are aligned (core/pack.hpp).
  template <std::size_t R, std::size_t W, class Functor>
  void for_each(Stream& stream, std::size_t count, const Reads<R>&, const Writes<W>&,
                Functor functor, SourceLocation = SourceLocation::current()) {
    if (count == 0) return;
    stream.on_device([&](cudaStream_t on) {
      detail::launch_each(on, count, functor, most_blocks_, "start an element-wise operation");
    });
  }
  /// Lets a library enqueue its own work, at once: `launch(cudaStream_t)`. What ends that work from
  /// outside, with no error of CUDA, is `danger`: who waits for it throws it.
  template <std::size_t R, std::size_t W, class Launch>
  void enqueue(Stream& stream, const Reads<R>&, const Writes<W>&, Launch&& launch,
               const std::shared_ptr<const detail::OutsideFailure>& danger = {},
               SourceLocation = SourceLocation::current()) {
    stream.on_device(std::forward<Launch>(launch), danger);
  }
  /// `for_each` in a thread of the host beside the GPU: returns when the kernel has ended. Behind
  /// nothing else, and nothing waits for it.
  template <class Functor>
  static void for_each_at_once(std::size_t count, const Functor& functor) {
    if (count == 0) return;
    constexpr std::size_t most_blocks = 1024;
    detail::launch_each(cudaStreamPerThread, count, functor, most_blocks, "start a collective");
    detail::cuda_check(cudaStreamSynchronize(cudaStreamPerThread), "a collective");
  }
  /// Copies, also between the GPU and its host.
  template <class T>
  void copy(Stream& stream, std::span<const T> from, std::span<T> to,
            SourceLocation = SourceLocation::current()) {
    if (from.empty()) return;
    stream.on_device([&](cudaStream_t on) {
      detail::cuda_check(
          cudaMemcpyAsync(to.data(), from.data(), from.size_bytes(), cudaMemcpyDefault, on),
          "copy");
    });
  }
  template <class From, class To>
  void cast(Stream& stream, std::span<const From> from, std::span<To> to,
            SourceLocation where = SourceLocation::current()) {
    if constexpr (std::is_same_v<From, To>)
      copy(stream, from, to, where);
    else
      for_each(stream, from.size(), reads(from), writes(to),
               detail::CastElement<From, To>{from.data(), to.data()}, where);
  }
  template <class T>
  void fill_zero(Stream& stream, std::span<T> to, SourceLocation = SourceLocation::current()) {
    if (to.empty()) return;
    stream.on_device([&](cudaStream_t on) {
      detail::cuda_check(cudaMemsetAsync(to.data(), 0, to.size_bytes(), on), "zero");
    });
  }
  /// As `Cpu::sum_squares`, to the same bits.
  template <class T>
  void sum_squares(Stream& stream, std::span<const T> values, ExactSum* sum,
                   SourceLocation = SourceLocation::current()) {
    if (values.empty()) return;
    stream.on_device([&](cudaStream_t on) {
      detail::cuda_launch(on, blocks_for(values.size()), detail::cuda_block_threads, "sum squares",
                          detail::add_squares<T>, values.data(), values.size(), sum);
      detail::cuda_launch(on, 1, 1, "sum squares", detail::run_once<detail::NormalizeSum>,
                          detail::NormalizeSum{sum});
    });
  }

  void record(Event& event, Stream& stream) { stream.CudaStream::record(event); }
  void wait(Stream& stream, const Event& event) { stream.CudaStream::wait(event); }
  void synchronize(Stream& stream) { stream.CudaStream::synchronize(); }
  void drain(Stream& stream) noexcept { stream.CudaStream::drain(); }

  void annotate(Stream&, const Label&) {}
  template <class T>
  void retire(Stream&, std::span<T>) {}
  void note_live(Stream&, Purpose, std::size_t /*size_bytes*/) {}

  // For a trace of what the GPU does (device/traced.hpp): the stream writes the GPU's time to
  // memory of the host when it comes so far.
  void stamp(Stream& stream, std::int64_t* to) {
    stream.on_device([&](cudaStream_t on) { detail::enqueue_stamp(on, to); });
  }
  std::shared_ptr<std::int64_t[]> times(std::size_t count) const {
    const detail::CudaCurrent current{ordinal_};
    return detail::pinned_times(count);
  }
  detail::ClockMatch match_clocks() const {
    const detail::CudaCurrent current{ordinal_};
    return detail::match_gpu_clock();
  }

  const MemoryAccount& account() const { return account_; }
  MemoryAccount& account() { return account_; }

  /// The host beside the GPU. Its memory is pinned; its operations take the GPU's streams.
  class Host {
   public:
    using Stream = Cuda::Stream;
    static constexpr bool runs_on_host = true;
    static constexpr bool shares_memory = true;
    template <class T>
    using Buffer = detail::PlaceBuffer<Host, T>;

    /// Zeroed pinned memory, aligned to 4 KiB.
    /// Errors:  throws std::bad_alloc; nothing is charged then.
    template <class T>
    Buffer<T> allocate(std::size_t count, Purpose purpose) {
      if (count == 0) return {};
      void* data = detail::CudaMemory::instance().take(detail::CudaMemory::host, count * sizeof(T));
      std::memset(data, 0, count * sizeof(T));
      return {static_cast<T*>(data), count, account_, purpose};
    }
    static void deallocate(void* memory) { detail::CudaMemory::instance().give(memory); }
    std::size_t available_bytes() const {
      const std::size_t free = detail::available_host_bytes();
      const auto& memory = detail::CudaMemory::instance();
      return free + std::min(memory.kept_bytes(detail::CudaMemory::host), SIZE_MAX - free);
    }

    template <std::size_t R, std::size_t W, class Work>
    void run(Stream& stream, const Reads<R>&, const Writes<W>&, Work&& work,
             SourceLocation = SourceLocation::current()) {
      stream.on_host(std::forward<Work>(work));
    }
    // The rest is what a CPU does, in the stream's thread.
    template <std::size_t R, std::size_t W, class Functor>
    void for_each(Stream& stream, std::size_t count, const Reads<R>&, const Writes<W>&,
                  Functor functor, SourceLocation = SourceLocation::current()) {
      on_cpu(stream, [=](Cpu& cpu, Cpu::Stream& now) {
        cpu.for_each(now, count, reads(), writes(), functor);
      });
    }
    template <class T>
    void copy(Stream& stream, std::span<const T> from, std::span<T> to,
              SourceLocation = SourceLocation::current()) {
      on_cpu(stream, [=](Cpu& cpu, Cpu::Stream& now) { cpu.copy(now, from, to); });
    }
    template <class From, class To>
    void cast(Stream& stream, std::span<const From> from, std::span<To> to,
              SourceLocation = SourceLocation::current()) {
      on_cpu(stream, [=](Cpu& cpu, Cpu::Stream& now) { cpu.cast(now, from, to); });
    }
    template <class T>
    void fill_zero(Stream& stream, std::span<T> to, SourceLocation = SourceLocation::current()) {
      on_cpu(stream, [=](Cpu& cpu, Cpu::Stream& now) { cpu.fill_zero(now, to); });
    }
    template <class T>
    void sum_squares(Stream& stream, std::span<const T> values, ExactSum* sum,
                     SourceLocation = SourceLocation::current()) {
      on_cpu(stream, [=](Cpu& cpu, Cpu::Stream& now) { cpu.sum_squares(now, values, sum); });
    }
    template <class T>
    void retire(Stream&, std::span<T>) {}
    void note_live(Stream&, Purpose, std::size_t /*size_bytes*/) {}

    const MemoryAccount& account() const { return account_; }
    MemoryAccount& account() { return account_; }

   private:
    template <class Work>
    static void on_cpu(Stream& stream, Work work) {
      stream.on_host([work] {
        Cpu cpu;
        Cpu::Stream now;
        work(cpu, now);
      });
    }
    MemoryAccount account_;
  };
  Host& host() { return host_; }

 private:
  unsigned blocks_for(std::size_t count) const {
    const std::size_t blocks =
        (count + detail::cuda_block_threads - 1) / detail::cuda_block_threads;
    return static_cast<unsigned>(std::min<std::size_t>(blocks, most_blocks_));
  }

  int ordinal_;
  unsigned most_blocks_ = 0;
  MemoryAccount account_;
  std::shared_ptr<detail::CudaShared> shared_;
  Host host_;
};

static_assert(Device<Cuda> && HasHost<Cuda>);

}  // namespace shardexpr
