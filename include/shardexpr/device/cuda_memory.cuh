// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/device/cuda_error.cuh>

#include <algorithm>
#include <cstddef>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include <cuda_runtime.h>

namespace shardexpr::detail {

/// Memory of this process's GPUs, and pinned memory of their host. What is given back is kept for
/// who asks for as much: CUDA frees memory when all that was enqueued is done, and of that, some
/// may wait for the very rank that frees. It goes when memory is out, and with its GPU's last user.
class CudaMemory {
 public:
  static constexpr int host = -1;  // in place of a GPU's ordinal

  static CudaMemory& instance() {
    static CudaMemory memory;
    return memory;
  }

  void enter(int ordinal) {
    const std::scoped_lock lock{mutex_};
    ++users_[ordinal];
    ++users_[host];
  }
  void leave(int ordinal) noexcept {
    const std::scoped_lock lock{mutex_};
    for (const int place : {ordinal, host})
      if (--users_[place] == 0) free_kept(place);
  }

  /// Not zeroed. `place` is the calling thread's current GPU, or `host`.
  /// Errors:  std::bad_alloc, DeviceError.
  void* take(int place, std::size_t size_bytes) {
    const std::scoped_lock lock{mutex_};
    const auto kept = kept_.find({place, size_bytes});
    if (kept != kept_.end()) {
      void* memory = kept->second;
      kept_.erase(kept);
      taken_.emplace(memory, Kind{place, size_bytes});
      return memory;
    }
    void* memory = allocate(place, size_bytes);
    if (memory == nullptr) {
      free_kept(place);
      memory = allocate(place, size_bytes);
    }
    if (memory == nullptr) throw std::bad_alloc{};
    taken_.emplace(memory, Kind{place, size_bytes});
    return memory;
  }
  /// What was given back and is not in use, of a GPU or of the host.
  std::size_t kept_bytes(int place) const {
    const std::scoped_lock lock{mutex_};
    std::size_t bytes = 0;
    for (const auto& [kind, memory] : kept_)
      if (kind.first == place) bytes += kind.second;
    return bytes;
  }
  void give(void* memory) noexcept {
    const std::scoped_lock lock{mutex_};
    const auto taken = taken_.find(memory);
    const Kind kind = taken->second;
    taken_.erase(taken);
    if (users_[kind.first] == 0)
      free(kind.first, memory);
    else
      kept_.emplace(kind, memory);
  }

 private:
  using Kind = std::pair<int, std::size_t>;  // place, bytes

  /// Null where memory is out.
  static void* allocate(int place, std::size_t size_bytes) {
    void* memory = nullptr;
    cudaError_t error = cudaSuccess;
    if (place == host) {
      memory = Cpu::allocate_zeroed(std::max(size_bytes, host_alignment_bytes));
      error = cudaHostRegister(memory, size_bytes, cudaHostRegisterPortable);
      if (error != cudaSuccess) Cpu::deallocate(std::exchange(memory, nullptr));
    } else {
      error = cudaMalloc(&memory, size_bytes);
    }
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();  // it is told; what comes next is not to find it
      return nullptr;
    }
    cuda_check(error, place == host ? "pin memory of the host" : "allocate");
    return memory;
  }
  static void free(int place, void* memory) noexcept {
    if (place == host) {
      (void)cudaHostUnregister(memory);
      Cpu::deallocate(memory);
    } else {
      (void)cudaFree(memory);
    }
  }
  void free_kept(int place) noexcept {
    for (auto at = kept_.begin(); at != kept_.end();)
      if (at->first.first == place) {
        free(place, at->second);
        at = kept_.erase(at);
      } else {
        ++at;
      }
  }

  mutable std::mutex mutex_;
  std::multimap<Kind, void*> kept_;
  std::map<void*, Kind> taken_;
  std::map<int, std::size_t> users_;
};

/// Memory that nobody is charged for, for as long as it lives.
struct CudaLoan {
  void* const memory;
  CudaLoan(int place, std::size_t size_bytes)
      : memory{CudaMemory::instance().take(place, size_bytes)} {}
  CudaLoan(const CudaLoan&) = delete;
  CudaLoan& operator=(const CudaLoan&) = delete;
  ~CudaLoan() { CudaMemory::instance().give(memory); }
};

/// Zeroes memory of the calling thread's current GPU, and waits. Not on the device's default
/// stream, which waits for those of other ranks.
inline void cuda_zero(void* memory, std::size_t size_bytes) {
  cuda_check(cudaMemsetAsync(memory, 0, size_bytes, cudaStreamPerThread), "zero new memory");
  cuda_check(cudaStreamSynchronize(cudaStreamPerThread), "zero new memory");
}

}  // namespace shardexpr::detail
