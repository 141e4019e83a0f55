// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/comm/call_log.hpp>
#include <shardexpr/comm/watch.hpp>
#include <shardexpr/core/error.hpp>
#include <shardexpr/device/cuda_error.cuh>
#include <shardexpr/device/cuda_memory.cuh>
#include <shardexpr/device/cuda_stream.cuh>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include <cuda_runtime.h>
#include <nccl.h>

namespace shardexpr::detail {

/// "2.28.9"
inline std::string nccl_version_text(int code) {
  return std::to_string(code / 10000) + '.' + std::to_string(code / 100 % 100) + '.' +
         std::to_string(code % 100);
}

inline std::string nccl_text(ncclResult_t result, ncclComm_t comm) {
  std::string text = std::string{"NCCL: "} + ncclGetErrorString(result);
  const char* const last = ncclGetLastError(comm);
  if (last != nullptr && *last != '\0') (text += ": ") += last;
  while (text.back() == '\n') text.pop_back();
  return text + "; NCCL_DEBUG=WARN says more";
}

class NcclChannel;
using NcclWatch = Watch<NcclChannel>;

/// A communicator of NCCL that does not block, how far its stream has come, and its end.
class NcclChannel : public Watched {
  using Clock = std::chrono::steady_clock;
  using Word = CudaShared::Word;

 public:
  /// Takes `comm` over, which may still be starting.
  NcclChannel(ncclComm_t comm, std::string name, int gpu, std::shared_ptr<NcclWatch> watch)
      : Watched{std::move(name)},
        comm_{comm},
        shared_{std::make_shared<CudaShared>(gpu)},
        begun_{shared_->make_word()},
        ended_{shared_->make_word()},
        watch_{std::move(watch)} {}
  ~NcclChannel() { abort(); }

  int gpu() const { return shared_->ordinal; }
  NcclWatch& watch() const { return *watch_; }
  const std::shared_ptr<NcclWatch>& shared_watch() const { return watch_; }
  const std::shared_ptr<OutsideFailure>& failure() const { return watch_->failure(); }

  /// Waits until the communicator has started.
  void await_start(ncclResult_t result, std::chrono::milliseconds patience) {
    std::unique_lock lock{mutex_};
    await(lock, result, "start of " + name(), Clock::now() + patience, patience);
  }

  /// A call of this rank begins: what `stream` does next waits for peers.
  void begin(const Call& call, cudaStream_t stream) {
    failure()->rethrow();
    log().add(call);
    shared_->write(stream, begun_, static_cast<Word>(call.sequence));
  }
  void end(const Call& call, cudaStream_t stream) {
    shared_->write(stream, ended_, static_cast<Word>(call.sequence));
  }
  /// Enqueues `issue(comm)`, a part of a call.
  template <class Issue>
  void enqueue(const Call& call, Issue issue) {
    std::unique_lock lock{mutex_};
    failure()->rethrow();
    // While it connects the watch counts the time, if the stream has come there.
    const auto patience = 2 * watch_->patience();
    await(lock, issue(comm_), call.text() + " of " + name(), Clock::now() + patience, patience);
  }

  /// Waits until all calls are over, and ends in agreement with the peers.
  void finish() noexcept {
    while (progress().ended != log().last().sequence && !failure()->is_set())
      std::this_thread::sleep_for(std::chrono::microseconds{100});
    const std::scoped_lock lock{mutex_};
    if (comm_ == nullptr) return;
    const auto deadline = Clock::now() + watch_->patience();
    ncclResult_t result = ncclCommFinalize(comm_);
    while (result == ncclInProgress && Clock::now() < deadline && !failure()->is_set()) {
      std::this_thread::sleep_for(std::chrono::microseconds{100});
      if (ncclCommGetAsyncError(comm_, &result) != ncclSuccess) break;
    }
    if (result == ncclSuccess)
      (void)ncclCommDestroy(std::exchange(comm_, nullptr));
    else
      (void)ncclCommAbort(std::exchange(comm_, nullptr));
  }

  /// Memory that NCCL may use in place, of this communicator's buffers alone; null where it cannot.
  /// `handle` is for `release`.
  void* allocate(std::size_t size_bytes, void*& handle) {
    void* memory = nullptr;
    if (ncclMemAlloc(&memory, size_bytes) != ncclSuccess) {
      (void)cudaGetLastError();  // who comes next is not to find it
      return nullptr;
    }
    const std::scoped_lock lock{mutex_};
    // Where it is refused the collectives go through NCCL's own buffers.
    if (comm_ == nullptr || ncclCommRegister(comm_, memory, size_bytes, &handle) != ncclSuccess)
      handle = nullptr;
    return memory;
  }
  /// As cudaFree, behind what was enqueued.
  void release(void* memory, void* handle) noexcept {
    int before = 0;
    (void)cudaGetDevice(&before);
    (void)cudaSetDevice(gpu());
    (void)cudaDeviceSynchronize();
    (void)cudaSetDevice(before);
    const std::scoped_lock lock{mutex_};
    if (handle != nullptr && comm_ != nullptr) (void)ncclCommDeregister(comm_, handle);
    (void)ncclMemFree(memory);
  }

  Progress progress() const {
    // The words first: what they count is in the log by then.
    const Word begun = std::atomic_ref<Word>{*begun_}.load(std::memory_order_acquire);
    const Word ended = std::atomic_ref<Word>{*ended_}.load(std::memory_order_acquire);
    const std::uint64_t last = log().last().sequence;
    const auto whole = [last](Word word) { return last - (static_cast<Word>(last) - word); };
    return {whole(begun), whole(ended)};
  }
  Error error() {
    const std::unique_lock lock{mutex_, std::try_to_lock};
    if (!lock || comm_ == nullptr) return {};  // who holds it looks by itself
    ncclResult_t result = ncclSuccess;
    if (ncclCommGetAsyncError(comm_, &result) != ncclSuccess || result == ncclSuccess ||
        result == ncclInProgress)
      return {};
    return {nccl_text(result, comm_), is_of_peer(result)};
  }
  void abort() noexcept {
    const std::scoped_lock lock{mutex_};
    if (comm_ != nullptr) (void)ncclCommAbort(std::exchange(comm_, nullptr));
  }

 private:
  /// Waits until NCCL has taken what it was given. Under the lock, which `abort` waits for.
  void await(std::unique_lock<std::mutex>& lock, ncclResult_t result, const std::string& what,
             Clock::time_point deadline, std::chrono::milliseconds patience) {
    const std::string place = what + " in rank " + std::to_string(watch_->rank());
    while (result == ncclInProgress) {
      failure()->rethrow();
      if (Clock::now() > deadline)
        fail(place + ": not every rank has come within " + seconds_text(patience) +
             "; see whether all started and reach each other (NCCL_SOCKET_IFNAME)");
      std::this_thread::yield();
      if (const ncclResult_t asked = ncclCommGetAsyncError(comm_, &result); asked != ncclSuccess)
        result = asked;
    }
    if (result == ncclSuccess) return;
    const std::string text = place + ": " + nccl_text(result, comm_);
    if (!is_of_peer(result)) fail(text);
    lock.unlock();  // the watch may abort
    watch_->fail_by_peer(text);
  }
  static bool is_of_peer(ncclResult_t result) { return result == ncclRemoteError; }
  /// The others learn it, too.
  [[noreturn]] void fail(const std::string& text) {
    watch_->fail(text);
    throw CommError("rank " + std::to_string(watch_->rank()) + ": " + text);
  }

  std::mutex mutex_;  // calls and the end of `comm_`
  ncclComm_t comm_;
  std::shared_ptr<CudaShared> shared_;
  Word *begun_, *ended_;  // of the last call, written by the stream
  std::shared_ptr<NcclWatch> watch_;
};

}  // namespace shardexpr::detail
