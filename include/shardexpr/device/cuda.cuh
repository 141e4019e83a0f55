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
#include <shardexpr/device/cuda_stream.cuh>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace shardexpr {
namespace detail {

/// Where a CUDA buffer lies: how its memory is got, charged to one account.
template <class Place, class T>
class CudaBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  CudaBuffer() = default;
  CudaBuffer(T* data, std::size_t count, MemoryAccount& account, Purpose purpose)
      : data_{data}, count_{count}, account_{&account}, purpose_{purpose} {
    account_->add(purpose_, size_bytes());
  }
  CudaBuffer(CudaBuffer&& other) noexcept
      : data_{std::exchange(other.data_, nullptr)},
        count_{std::exchange(other.count_, 0)},
        account_{other.account_},
        purpose_{other.purpose_} {}
  CudaBuffer& operator=(CudaBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    std::swap(account_, other.account_);
    std::swap(purpose_, other.purpose_);
    return *this;
  }
  ~CudaBuffer() {
    if (data_ == nullptr) return;
    account_->remove(purpose_, size_bytes());
    Place::deallocate(data_);
  }

  T* data() const { return data_; }
  std::size_t count() const { return count_; }
  std::size_t size_bytes() const { return count_ * sizeof(T); }
  std::span<T> span() const { return {data_, count_}; }

 private:
  T* data_ = nullptr;
  std::size_t count_ = 0;
  MemoryAccount* account_ = nullptr;
  Purpose purpose_ = Purpose::other;
};

}  // namespace detail

/// One GPU, for one rank. Its memory is the GPU's own, never managed; the host beside it has pinned
/// memory, and computes on threads of its own, one a stream that it works on.
///
/// Order:   operations are enqueued; the host waits in `synchronize` alone, and where a buffer is
///          made or freed.
/// Errors:  DeviceError where there is no such GPU, where the driver is too old, or where CUDA says
///          that something failed; std::bad_alloc where memory is out.
class Cuda {
 public:
  static constexpr bool shares_memory = false;

  class Stream : detail::CudaStream {
   public:
    Stream(Cuda& device, std::string_view name) : CudaStream{device.shared_, name} {}
    Stream(Cuda& device, std::string_view name, OwnThread) : Stream{device, name} {}

   private:
    friend class Cuda;
  };
  class Event : detail::CudaEvent {
    friend class Cuda;
  };

  explicit Cuda(int ordinal = 0) : ordinal_{checked(ordinal)} {
    const detail::CudaCurrent current{ordinal_};
    int processors = 0;
    detail::cuda_check(
        cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, ordinal_),
        "count the multiprocessors");
    most_blocks_ = static_cast<unsigned>(processors) * 16;
    shared_ = std::make_shared<detail::CudaShared>(ordinal_);
  }
  Cuda(const Cuda&) = delete;  // buffers point to their device's account
  Cuda& operator=(const Cuda&) = delete;

  int ordinal() const { return ordinal_; }

  template <class T>
  using Buffer = detail::CudaBuffer<Cuda, T>;

  /// Zeroed memory of the GPU, charged to this rank.
  /// Errors:  throws std::bad_alloc; nothing is charged then.
  template <class T>
  Buffer<T> allocate(std::size_t count, Purpose purpose) {
    if (count == 0) return {};
    const detail::CudaCurrent current{ordinal_};
    return {static_cast<T*>(allocate_zeroed(count * sizeof(T))), count, account_, purpose};
  }
  /// The same of the thread's current device, charged to nobody.
  static void* allocate_zeroed(std::size_t size_bytes) {
    void* data = nullptr;
    const cudaError_t error = cudaMalloc(&data, size_bytes);
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();  // it is told; what comes next is not to find it
      throw std::bad_alloc{};
    }
    detail::cuda_check(error, "allocate");
    detail::cuda_check(cudaMemset(data, 0, size_bytes), "zero new memory");
    detail::cuda_check(cudaDeviceSynchronize(), "zero new memory");
    return data;
  }
  static void deallocate(void* memory) { (void)cudaFree(memory); }

  /// Runs `work()` by one thread of the GPU: a named type whose call is SHARDEXPR_HOST_DEVICE.
  template <std::size_t R, std::size_t W, class Work>
  void run(Stream& stream, const Reads<R>&, const Writes<W>&, Work work,
           SourceLocation = SourceLocation::current()) {
    stream.on_device([&](cudaStream_t on) { detail::run_once<<<1, 1, 0, on>>>(work); },
                     "start an operation");
  }
  /// Calls `functor(i)` for each i below `count`, by as many threads; as `Cpu::for_each`.
  template <std::size_t R, std::size_t W, class Functor>
  void for_each(Stream& stream, std::size_t count, const Reads<R>&, const Writes<W>&,
                Functor functor, SourceLocation = SourceLocation::current()) {
    if (count == 0) return;
    stream.on_device(
        [&](cudaStream_t on) {
          detail::run_each<<<blocks_for(count), detail::cuda_block_threads, 0, on>>>(functor,
                                                                                     count);
        },
        "start an element-wise operation");
  }
  /// Copies, also between the GPU and its host.
  template <class T>
  void copy(Stream& stream, std::span<const T> from, std::span<T> to,
            SourceLocation = SourceLocation::current()) {
    if (from.empty()) return;
    stream.on_device(
        [&](cudaStream_t on) {
          detail::cuda_check(
              cudaMemcpyAsync(to.data(), from.data(), from.size_bytes(), cudaMemcpyDefault, on),
              "copy");
        },
        "copy");
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
    stream.on_device(
        [&](cudaStream_t on) {
          detail::cuda_check(cudaMemsetAsync(to.data(), 0, to.size_bytes(), on), "zero");
        },
        "zero");
  }
  /// As `Cpu::sum_squares`, to the same bits.
  template <class T>
  void sum_squares(Stream& stream, std::span<const T> values, ExactSum* sum,
                   SourceLocation = SourceLocation::current()) {
    if (values.empty()) return;
    stream.on_device(
        [&](cudaStream_t on) {
          detail::add_squares<<<blocks_for(values.size()), detail::cuda_block_threads, 0, on>>>(
              values.data(), values.size(), sum);
          detail::run_once<<<1, 1, 0, on>>>(detail::NormalizeSum{sum});
        },
        "sum squares");
  }

  void record(Event& event, Stream& stream) { stream.CudaStream::record(event); }
  void wait(Stream& stream, const Event& event) { stream.CudaStream::wait(event); }
  void synchronize(Stream& stream) { stream.CudaStream::synchronize(); }
  void drain(Stream& stream) noexcept { stream.CudaStream::drain(); }

  void annotate(Stream&, const Label&) {}
  template <class T>
  void retire(Stream&, std::span<T>) {}
  void note_live(Stream&, Purpose, std::size_t /*size_bytes*/) {}

  const MemoryAccount& account() const { return account_; }
  MemoryAccount& account() { return account_; }

  /// The host beside the GPU. Its memory is pinned; its operations take the GPU's streams.
  class Host {
   public:
    using Stream = Cuda::Stream;
    static constexpr bool runs_on_host = true;
    static constexpr bool shares_memory = true;
    template <class T>
    using Buffer = detail::CudaBuffer<Host, T>;

    /// Zeroed pinned memory, aligned to 4 KiB.
    /// Errors:  throws std::bad_alloc; nothing is charged then.
    template <class T>
    Buffer<T> allocate(std::size_t count, Purpose purpose) {
      if (count == 0) return {};
      void* data = Cpu::allocate_zeroed(std::max(count * sizeof(T), host_alignment_bytes));
      const cudaError_t error = cudaHostRegister(data, count * sizeof(T), cudaHostRegisterPortable);
      if (error != cudaSuccess) {
        Cpu::deallocate(data);
        (void)cudaGetLastError();
        if (error == cudaErrorMemoryAllocation) throw std::bad_alloc{};
        detail::cuda_check(error, "pin memory of the host");
      }
      return {static_cast<T*>(data), count, account_, purpose};
    }
    static void deallocate(void* memory) {
      (void)cudaHostUnregister(memory);
      Cpu::deallocate(memory);
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
  static int checked(int ordinal) {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0)
      throw DeviceError("there is no GPU for Cuda{" + std::to_string(ordinal) + "}: " +
                        (error == cudaSuccess ? "CUDA finds none" : cudaGetErrorString(error)) +
                        "; run where there is one, or train on the Cpu");
    if (ordinal < 0 || ordinal >= count)
      throw DeviceError("there is no GPU " + std::to_string(ordinal) + ": this process sees " +
                        std::to_string(count) + ", the last is " + std::to_string(count - 1));
    return ordinal;
  }
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
