// SPDX-License-Identifier: Apache-2.0
#pragma once
// The part of CUDA's runtime that the library uses, done by threads of the host: what is written
// for a GPU is compiled by a C++ compiler and tested where there is no GPU. Streams are threads, so
// that nothing is done in the enqueuing call that CUDA would do later; a kernel's blocks run one
// behind the other. Says nothing of speed, nor of what a GPU's memory model allows.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "fibers.hpp"

#define __host__
#define __device__
#define __global__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static thread_local  // of the thread that runs the block

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
};
inline const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorInvalidDeviceFunction:
      return "cudaErrorInvalidDeviceFunction";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNoKernelImageForDevice:
      return "cudaErrorNoKernelImageForDevice";
    case cudaErrorUnsupportedPtxVersion:
      return "cudaErrorUnsupportedPtxVersion";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
  }
  return "unknown";
}
inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "the driver is older than the runtime";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    default:
      return "emulated failure";
  }
}

namespace emulated {

/// How many GPUs a program finds that a test starts: EMULATED_GPUS says.
inline int devices_by_environment() {
  const char* count = std::getenv("EMULATED_GPUS");
  return count == nullptr ? 2 : std::atoi(count);
}

/// The machine, as a test wants it.
struct Machine {
  int devices = devices_by_environment();
  std::size_t memory_bytes = std::size_t{1} << 32;  // of each device
  std::size_t shared_bytes = 227 << 10;             // that a block may have
  bool has_stream_waits = true;
  int generation = 9;                          // of each device: its compute capability
  int minor = 0;                               // and what stands behind its point
  std::chrono::microseconds longest_delay{0};  // before an operation of a stream
};
inline Machine machine;

/// Lets a later call of the runtime fail, by name; one of "kernel" fails when it runs, and then, as
/// with CUDA, all that comes behind it.
class Faults {
 public:
  static Faults& instance() {
    static Faults faults;
    return faults;
  }
  void fail(std::string call, cudaError_t error, unsigned after = 0) {
    const std::scoped_lock lock{mutex_};
    planned_[std::move(call)] = {error, after};
  }
  void heal() {
    const std::scoped_lock lock{mutex_};
    planned_.clear();
    broken_ = last_ = cudaSuccess;
  }
  /// `asks_device`: the call fails on a device that is broken.
  cudaError_t meet(const char* call, bool asks_device = true) {
    const std::scoped_lock lock{mutex_};
    if (asks_device && broken_ != cudaSuccess) return broken_;
    const auto found = planned_.find(call);
    if (found == planned_.end() || found->second.after-- > 0) return cudaSuccess;
    last_ = found->second.error;
    planned_.erase(found);
    return last_;
  }
  void break_device(cudaError_t error) {
    const std::scoped_lock lock{mutex_};
    if (broken_ == cudaSuccess) broken_ = last_ = error;
  }
  bool is_broken() {
    const std::scoped_lock lock{mutex_};
    return broken_ != cudaSuccess;
  }
  cudaError_t take_last() {
    const std::scoped_lock lock{mutex_};
    return broken_ != cudaSuccess ? broken_ : std::exchange(last_, cudaSuccess);
  }

 private:
  struct Planned {
    cudaError_t error;
    unsigned after;
  };
  std::mutex mutex_;
  std::map<std::string, Planned> planned_;
  cudaError_t broken_ = cudaSuccess, last_ = cudaSuccess;
};

/// What is allocated, by kind; `used_bytes` by device.
class Memory {
 public:
  static Memory& instance() {
    static Memory memory;
    return memory;
  }
  void* take(int device, std::size_t size_bytes) {
    const std::scoped_lock lock{mutex_};
    if (size_bytes > machine.memory_bytes - used_[device]) return nullptr;
    const std::size_t size = (size_bytes + 511) / 512 * 512;
    void* memory = std::aligned_alloc(512, size);
    std::memset(memory, 0xCB, size);  // CUDA zeroes nothing
    blocks_[memory] = {device, size_bytes};
    used_[device] += size_bytes;
    return memory;
  }
  bool give(void* memory) {
    const std::scoped_lock lock{mutex_};
    const auto found = blocks_.find(memory);
    if (found == blocks_.end()) return false;
    used_[found->second.device] -= found->second.size_bytes;
    blocks_.erase(found);
    std::free(memory);
    return true;
  }
  int device_of(void* memory) {
    const std::scoped_lock lock{mutex_};
    const auto found = blocks_.find(memory);
    return found == blocks_.end() ? -1 : found->second.device;
  }
  bool pin(void* memory, std::size_t size_bytes) {
    const std::scoped_lock lock{mutex_};
    return pinned_.emplace(memory, size_bytes).second;
  }
  bool unpin(void* memory) {
    const std::scoped_lock lock{mutex_};
    return pinned_.erase(memory) == 1;
  }
  std::size_t used_bytes(int device) {
    const std::scoped_lock lock{mutex_};
    return used_[device];
  }
  std::size_t pinned_count() {
    const std::scoped_lock lock{mutex_};
    return pinned_.size();
  }

 private:
  struct Block {
    int device;
    std::size_t size_bytes;
  };
  std::mutex mutex_;
  std::map<void*, Block> blocks_;
  std::map<int, std::size_t> used_;
  std::map<void*, std::size_t> pinned_;
};

class Stream;
/// All streams, for calls that wait for the device. Who waits for a stream holds it, and no lock:
/// what the stream waits for may be about to make a stream, or to end one.
class Streams {
 public:
  static Streams& instance() {
    static Streams streams;
    return streams;
  }
  void add(Stream* stream) {
    const std::scoped_lock lock{mutex_};
    holders_[stream] = 0;
  }
  /// Waits for those who wait for it.
  void remove(Stream* stream) {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return holders_[stream] == 0; });
    holders_.erase(stream);
  }
  /// Those of one device, as CUDA does before it frees memory there.
  void synchronize(int device);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<Stream*, int> holders_;
};

inline int& current_device() {
  static thread_local int device = 0;
  return device;
}

/// A thread that runs what is enqueued, in order.
class Stream {
 public:
  const int device = current_device();

  Stream() : thread_{&Stream::work, this} { Streams::instance().add(this); }
  ~Stream() {
    Streams::instance().remove(this);
    {
      const std::scoped_lock lock{mutex_};
      ends_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  void enqueue(std::function<void()> operation) {
    {
      const std::scoped_lock lock{mutex_};
      operations_.push_back(std::move(operation));
      ++enqueued_;
    }
    changed_.notify_all();
  }
  void synchronize() {
    std::unique_lock lock{mutex_};
    const std::uint64_t all = enqueued_;
    changed_.wait(lock, [&] { return done_ >= all; });
  }

 private:
  void work() {
    std::minstd_rand random{seed()};
    for (;;) {
      std::function<void()> operation;
      {
        std::unique_lock lock{mutex_};
        changed_.wait(lock, [&] { return ends_ || !operations_.empty(); });
        if (operations_.empty()) return;
        operation = std::move(operations_.front());
        operations_.pop_front();
      }
      const auto longest = machine.longest_delay.count();
      if (longest > 0 && random() % 4 == 0)
        std::this_thread::sleep_for(
            std::chrono::microseconds{random() % static_cast<unsigned long>(longest)});
      operation();
      operation = nullptr;
      {
        const std::scoped_lock lock{mutex_};
        ++done_;
      }
      changed_.notify_all();
    }
  }
  static unsigned seed() {
    static std::atomic<unsigned> count{1};
    return count++;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> operations_;
  std::uint64_t enqueued_ = 0, done_ = 0;
  bool ends_ = false;
  std::thread thread_;
};

inline void Streams::synchronize(int device) {
  std::vector<Stream*> held;
  {
    const std::scoped_lock lock{mutex_};
    for (auto& [stream, holders] : holders_)
      if (stream->device == device) {
        ++holders;
        held.push_back(stream);
      }
  }
  for (Stream* stream : held) {
    stream->synchronize();
    const std::scoped_lock lock{mutex_};
    --holders_[stream];
    changed_.notify_all();
  }
}

/// The point of the last record. A wait keeps the point that it found.
class Event {
 public:
  void record(Stream& stream) {
    std::uint64_t number = 0;
    {
      const std::scoped_lock lock{state_->mutex};
      number = ++state_->recorded;
    }
    stream.enqueue([state = state_, number] {
      {
        const std::scoped_lock lock{state->mutex};
        state->reached = std::max(state->reached, number);
      }
      state->changed.notify_all();
    });
  }
  void wait(Stream& stream) {
    stream.enqueue([state = state_, number = recorded()] { await(*state, number); });
  }
  void synchronize() { await(*state_, recorded()); }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::uint64_t recorded = 0, reached = 0;
  };
  std::uint64_t recorded() {
    const std::scoped_lock lock{state_->mutex};
    return state_->recorded;
  }
  static void await(State& state, std::uint64_t number) {
    std::unique_lock lock{state.mutex};
    state.changed.wait(lock, [&] { return state.reached >= number; });
  }
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

/// Enqueues what the GPU does.
template <class Operation>
void enqueue(Stream* stream, Operation operation) {
  stream->enqueue([operation = std::move(operation)] {
    if (Faults::instance().is_broken()) return;
    if (const cudaError_t error = Faults::instance().meet("kernel"); error != cudaSuccess) {
      Faults::instance().break_device(error);
      return;
    }
    operation();
  });
}

/// What a launch gives each block beyond what its kernel declares: as long as it says, and of NaN
/// in every dtype when a block begins.
class DynamicShared {
 public:
  static constexpr std::size_t given_unasked = 48 << 10;

  static DynamicShared& of_this_thread() {
    static thread_local DynamicShared shared;
    return shared;
  }
  void begin_block(std::size_t size_bytes) {
    if (size_bytes != size_bytes_)
      memory_.reset(size_bytes == 0 ? nullptr : new (alignment) unsigned char[size_bytes]);
    size_bytes_ = size_bytes;
    if (size_bytes != 0) std::memset(memory_.get(), 0xff, size_bytes);
  }
  unsigned char* data() const { return memory_.get(); }

  /// How much a launch of a kernel may ask for.
  static cudaError_t allow(const void* kernel, std::size_t size_bytes) {
    if (size_bytes > machine.shared_bytes) return cudaErrorInvalidValue;
    const std::scoped_lock lock{mutex()};
    allowed()[{kernel, current_device()}] = size_bytes;
    return cudaSuccess;
  }
  static bool is_allowed(const void* kernel, std::size_t size_bytes) {
    if (size_bytes <= given_unasked) return true;
    const std::scoped_lock lock{mutex()};
    return size_bytes <= allowed()[{kernel, current_device()}];
  }

 private:
  static constexpr std::align_val_t alignment{128};
  struct Free {
    void operator()(unsigned char* memory) const { ::operator delete[](memory, alignment); }
  };
  static std::mutex& mutex() {
    static std::mutex mutex;
    return mutex;
  }
  static std::map<std::pair<const void*, int>, std::size_t>& allowed() {
    static std::map<std::pair<const void*, int>, std::size_t> allowed;
    return allowed;
  }
  std::unique_ptr<unsigned char[], Free> memory_;
  std::size_t size_bytes_ = 0;
};
inline unsigned char* dynamic_shared_memory() { return DynamicShared::of_this_thread().data(); }

}  // namespace emulated

// Of a kernel -------------------------------------------------------------------------------------

inline void __syncthreads() { emulated::Fibers::of_this_thread().meet_block(); }
inline void __syncwarp(unsigned = 0xffffffff) { emulated::Fibers::of_this_thread().meet_warp(); }
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned by, unsigned width = 32) {
  return emulated::Fibers::of_this_thread().exchange(
      value, [=](unsigned lane) { return lane % width + by < width ? lane + by : lane; });
}
template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned mask, unsigned width = 32) {
  return emulated::Fibers::of_this_thread().exchange(
      value, [=](unsigned lane) { return lane / width * width + ((lane % width) ^ mask) % width; });
}
template <class T>
T __shfl_sync(unsigned, T value, unsigned from, unsigned width = 32) {
  return emulated::Fibers::of_this_thread().exchange(
      value, [=](unsigned lane) { return lane / width * width + from % width; });
}
template <class T>
T atomicAdd(T* to, T value) {
  return std::atomic_ref<T>{*to}.fetch_add(value);
}
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

// Errors and devices ------------------------------------------------------------------------------

using cudaStream_t = emulated::Stream*;
using cudaEvent_t = emulated::Event*;

#define EMULATED_CALL(...)                                                                        \
  if (const cudaError_t met = emulated::Faults::instance().meet(__VA_ARGS__); met != cudaSuccess) \
  return met

inline cudaError_t cudaGetLastError() { return emulated::Faults::instance().take_last(); }
inline cudaError_t cudaGetDeviceCount(int* count) {
  EMULATED_CALL("cudaGetDeviceCount", false);
  *count = emulated::machine.devices;
  return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  EMULATED_CALL("cudaGetDevice", false);
  *device = emulated::current_device();
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  EMULATED_CALL("cudaSetDevice", false);
  if (device < 0 || device >= emulated::machine.devices) return cudaErrorInvalidDevice;
  emulated::current_device() = device;
  return cudaSuccess;
}
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor
};
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  EMULATED_CALL("cudaDeviceGetAttribute");
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? emulated::machine.generation
           : attribute == cudaDevAttrComputeCapabilityMinor ? emulated::machine.minor
           : attribute == cudaDevAttrMultiProcessorCount    ? 2
                                                            : 0;
  return cudaSuccess;
}
struct cudaDeviceProp {
  char name[256];
  int major, minor;
};
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  EMULATED_CALL("cudaGetDeviceProperties");
  *properties = {"emulated GPU", emulated::machine.generation, emulated::machine.minor};
  return cudaSuccess;
}
struct cudaFuncAttributes {};
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  EMULATED_CALL("cudaFuncGetAttributes");
  return cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
enum cudaDriverEntryPointQueryResult {
  cudaDriverEntryPointSuccess,
  cudaDriverEntryPointSymbolNotFound
};
inline constexpr unsigned long long cudaEnableDefault = 0;

// Memory ------------------------------------------------------------------------------------------

inline constexpr unsigned cudaHostRegisterPortable = 1;
enum cudaMemcpyKind { cudaMemcpyDefault };

inline cudaError_t cudaMalloc(void** memory, std::size_t size_bytes) {
  EMULATED_CALL("cudaMalloc");
  *memory = emulated::Memory::instance().take(emulated::current_device(), size_bytes);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* all) {
  EMULATED_CALL("cudaMemGetInfo");
  *all = emulated::machine.memory_bytes;
  *free = *all - emulated::Memory::instance().used_bytes(emulated::current_device());
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  emulated::Streams::instance().synchronize(emulated::Memory::instance().device_of(memory));
  return emulated::Memory::instance().give(memory) ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaHostRegister(void* memory, std::size_t size_bytes, unsigned) {
  EMULATED_CALL("cudaHostRegister");
  return emulated::Memory::instance().pin(memory, size_bytes) ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaHostUnregister(void* memory) {
  emulated::Streams::instance().synchronize(emulated::current_device());
  return emulated::Memory::instance().unpin(memory) ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size_bytes,
                                   cudaMemcpyKind, cudaStream_t stream) {
  EMULATED_CALL("cudaMemcpyAsync");
  emulated::enqueue(stream, [=] { std::memcpy(to, from, size_bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t size_bytes,
                                   cudaStream_t stream) {
  EMULATED_CALL("cudaMemsetAsync");
  emulated::enqueue(stream, [=] { std::memset(to, value, size_bytes); });
  return cudaSuccess;
}

namespace emulated {
inline cudaStream_t stream_of_this_thread() {
  static thread_local Stream stream;
  return &stream;
}
}  // namespace emulated
#define cudaStreamPerThread (emulated::stream_of_this_thread())

// Streams and events ------------------------------------------------------------------------------

inline constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2,
                          cudaEventBlockingSync = 1;

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  EMULATED_CALL("cudaStreamCreateWithFlags");
  *stream = new emulated::Stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  stream->synchronize();
  EMULATED_CALL("cudaStreamSynchronize");
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() {
  emulated::Streams::instance().synchronize(emulated::current_device());
  EMULATED_CALL("cudaDeviceSynchronize");
  return cudaSuccess;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  EMULATED_CALL("cudaEventCreateWithFlags");
  *event = new emulated::Event;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  EMULATED_CALL("cudaEventRecord");
  event->record(*stream);
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  event->synchronize();
  EMULATED_CALL("cudaEventSynchronize");
  return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned = 0) {
  EMULATED_CALL("cudaStreamWaitEvent");
  event->wait(*stream);
  return cudaSuccess;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  void* attrs;
  unsigned numAttrs;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  EMULATED_CALL("cudaFuncSetAttribute");
  return emulated::DynamicShared::allow(kernel, static_cast<std::size_t>(value));
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  EMULATED_CALL("cudaLaunchKernelEx");
  if (config->gridDim.x == 0 || config->blockDim.x == 0 ||
      config->blockDim.x > emulated::Fibers::largest_block ||
      !emulated::DynamicShared::is_allowed(reinterpret_cast<const void*>(kernel),
                                           config->dynamicSmemBytes))
    return cudaErrorInvalidValue;
  emulated::enqueue(
      config->stream,
      [grid = config->gridDim, block = config->blockDim, shared_bytes = config->dynamicSmemBytes,
       kernel, values = std::tuple<Parameters...>{std::forward<Arguments>(arguments)...}] {
        gridDim = grid;
        blockDim = block;
        const std::function<void()> one = [&] { std::apply(kernel, values); };
        for (unsigned y = 0; y < grid.y; ++y)
          for (unsigned x = 0; x < grid.x; ++x) {
            blockIdx = {x, y, 0};
            emulated::DynamicShared::of_this_thread().begin_block(shared_bytes);
            emulated::Fibers::of_this_thread().run(block.x, one);
          }
      });
  return cudaSuccess;
}

// The driver --------------------------------------------------------------------------------------

inline cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function,
                                                    unsigned version, unsigned long long flags,
                                                    cudaDriverEntryPointQueryResult* result);
