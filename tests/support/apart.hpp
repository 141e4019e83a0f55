// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/device/cpu.hpp>

#include <cstddef>
#include <cstring>
#include <mutex>
#include <new>
#include <span>
#include <utility>

#include <sys/mman.h>

/// The memory of all `Apart` devices of the process: pages that nobody can touch, but while an
/// operation of such a device runs. Given out one behind the other, taken back all at once.
class ClosedMemory {
 public:
  static ClosedMemory& instance() {
    static ClosedMemory memory;
    return memory;
  }

  void* allocate(std::size_t size_bytes) {
    const std::scoped_lock lock{mutex_};
    const std::size_t size = shardexpr::round_up(size_bytes, page_bytes);
    if (size > capacity_bytes - used_) throw std::bad_alloc{};
    void* memory = begin_ + used_;
    mprotect(memory, size, PROT_READ | PROT_WRITE);
    std::memset(memory, 0, size);
    if (open_ == 0) mprotect(memory, size, PROT_NONE);
    used_ += size;
    ++blocks_;
    return memory;
  }
  void deallocate() {
    const std::scoped_lock lock{mutex_};
    if (--blocks_ == 0) used_ = 0;
  }
  void open() {
    const std::scoped_lock lock{mutex_};
    if (open_++ == 0) mprotect(begin_, used_, PROT_READ | PROT_WRITE);
  }
  void close() {
    const std::scoped_lock lock{mutex_};
    if (--open_ == 0) mprotect(begin_, used_, PROT_NONE);
  }

 private:
  static constexpr std::size_t capacity_bytes = std::size_t{256} << 20, page_bytes = 4096;

  ClosedMemory()
      : begin_{static_cast<std::byte*>(mmap(nullptr, capacity_bytes, PROT_NONE,
                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))} {
    if (begin_ == MAP_FAILED) throw std::bad_alloc{};
  }

  std::mutex mutex_;
  std::byte* begin_;
  std::size_t used_ = 0, blocks_ = 0, open_ = 0;
};

/// A device whose memory the host cannot touch, as that of a GPU: who tries dies of SIGSEGV. Its
/// operations run within the enqueuing call; while they do, memory of all ranks is open, so that
/// one rank alone shows every mistake for certain. The host beside it is a plain CPU.
class Apart : public shardexpr::Cpu {
  using Where = shardexpr::SourceLocation;

 public:
  static constexpr bool shares_memory = false;

  Apart() = default;
  explicit Apart(shardexpr::Execution) {}

  template <class T>
  using Buffer = shardexpr::detail::PlaceBuffer<Apart, T>;
  template <class T>
  Buffer<T> allocate(std::size_t count, shardexpr::Purpose purpose) {
    if (count == 0) return {};
    return {static_cast<T*>(allocate_zeroed(count * sizeof(T))), count, account(), purpose};
  }
  static void* allocate_zeroed(std::size_t size_bytes) {
    return ClosedMemory::instance().allocate(size_bytes);
  }
  static void deallocate(void*) { ClosedMemory::instance().deallocate(); }

  template <std::size_t R, std::size_t W, class Work>
  void run(Stream& stream, const shardexpr::Reads<R>& reads, const shardexpr::Writes<W>& writes,
           Work&& work, Where where = Where::current()) {
    const Opened opened;
    Cpu::run(stream, reads, writes, std::forward<Work>(work), where);
  }
  template <std::size_t R, std::size_t W, class Functor>
  void for_each(Stream& stream, std::size_t count, const shardexpr::Reads<R>& reads,
                const shardexpr::Writes<W>& writes, Functor functor,
                Where where = Where::current()) {
    const Opened opened;
    Cpu::for_each(stream, count, reads, writes, functor, where);
  }
  template <class T>
  void copy(Stream& stream, std::span<const T> from, std::span<T> to,
            Where where = Where::current()) {
    const Opened opened;
    Cpu::copy(stream, from, to, where);
  }
  template <class From, class To>
  void cast(Stream& stream, std::span<const From> from, std::span<To> to,
            Where where = Where::current()) {
    const Opened opened;
    Cpu::cast(stream, from, to, where);
  }
  template <class T>
  void fill_zero(Stream& stream, std::span<T> to, Where where = Where::current()) {
    const Opened opened;
    Cpu::fill_zero(stream, to, where);
  }
  template <class T>
  void sum_squares(Stream& stream, std::span<const T> values, shardexpr::ExactSum* sum,
                   Where where = Where::current()) {
    const Opened opened;
    Cpu::sum_squares(stream, values, sum, where);
  }

 private:
  struct Opened {
    Opened() { ClosedMemory::instance().open(); }
    Opened(const Opened&) = delete;
    Opened& operator=(const Opened&) = delete;
    ~Opened() { ClosedMemory::instance().close(); }
  };
};
