// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/device/cuda_error.cuh>
#include <shardexpr/device/cuda_memory.cuh>
#include <shardexpr/device/outside_failure.hpp>
#include <shardexpr/device/task_queue.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <cuda.h>
#include <cuda_runtime.h>

// A stream of operations of which some are a GPU's and some are run by a thread of the host, in
// one order. What the host runs cannot be a callback of CUDA: one thread calls all of them, and one
// that waits for a disk would hold up those it waits for.

namespace shardexpr::detail {

/// What streams of one GPU share: recorded points, and words in pinned memory by which the GPU
/// learns how far threads of the host have come. It lives until the last of them ends.
class CudaShared {
 public:
  /// A recorded point of a GPU's stream. Who is to wait for it holds it; then it is used anew.
  struct Point {
    cudaEvent_t event = nullptr;
    std::atomic<unsigned> holders{0};
  };
  /// The number of the last operation that a thread of the host has done with.
  using Word = std::uint32_t;

  explicit CudaShared(int gpu) : ordinal{gpu} {
    wait_value_ = reinterpret_cast<WaitValue>(driver_call("cuStreamWaitValue32"));
    write_value_ = reinterpret_cast<WaitValue>(driver_call("cuStreamWriteValue32"));
    CudaMemory::instance().enter(ordinal);
  }
  CudaShared(const CudaShared&) = delete;
  CudaShared& operator=(const CudaShared&) = delete;
  ~CudaShared() {
    for (Point& point : points_) (void)cudaEventDestroy(point.event);
    for (Word* word : words_) CudaMemory::instance().give(word);
    CudaMemory::instance().leave(ordinal);
  }

  /// A point that nobody holds; the caller then does.
  Point* take_point() {
    const std::scoped_lock lock{mutex_};
    for (std::size_t tries = 0; tries < points_.size(); ++tries) {
      Point& point = points_[next_++ % points_.size()];
      unsigned nobody = 0;
      if (point.holders.compare_exchange_strong(nobody, 1, std::memory_order_acq_rel))
        return &point;
    }
    Point& point = points_.emplace_back();
    point.holders = 1;
    cuda_check(
        cudaEventCreateWithFlags(&point.event, cudaEventDisableTiming | cudaEventBlockingSync),
        "make an event");
    return &point;
  }
  /// A word of 0.
  Word* make_word() {
    void* memory = CudaMemory::instance().take(CudaMemory::host, sizeof(Word));
    const std::scoped_lock lock{mutex_};
    words_.push_back(static_cast<Word*>(memory));
    return new (memory) Word{0};
  }
  /// Lets a stream wait until a word has reached `number`, in the sense of counting round.
  void wait(cudaStream_t stream, const Word* word, Word number) const {
    const CUresult result =
        wait_value_(stream, reinterpret_cast<CUdeviceptr>(word), number, CU_STREAM_WAIT_VALUE_GEQ);
    if (result == CUDA_ERROR_NOT_SUPPORTED)
      throw DeviceError(
          "CUDA: the driver does not let streams wait for memory (cuStreamWaitValue32); on a "
          "virtual GPU ask for one that does");
    cuda_check(static_cast<cudaError_t>(result), "wait for the host");  // the codes are the same
  }

  /// Lets a stream write a word when it has come so far.
  void write(cudaStream_t stream, Word* word, Word number) const {
    constexpr unsigned plain = 0;
    cuda_check(static_cast<cudaError_t>(
                   write_value_(stream, reinterpret_cast<CUdeviceptr>(word), number, plain)),
               "tell the host");
  }

  const int ordinal;

 private:
  static void* driver_call(const char* name) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    cuda_check(cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result),
               "ask the driver");
    if (result != cudaDriverEntryPointSuccess || found == nullptr)
      throw DeviceError("CUDA: the driver lacks " + std::string{name} +
                        "; install one of CUDA 12 or later");
    return found;
  }

  using WaitValue = CUresult (*)(CUstream, CUdeviceptr, cuuint32_t, unsigned);

  WaitValue wait_value_ = nullptr, write_value_ = nullptr;
  std::mutex mutex_;
  std::deque<Point> points_;  // never move
  std::size_t next_ = 0;
  std::vector<Word*> words_;
};

/// Holds a point, or none.
class CudaPoint {
 public:
  CudaPoint() = default;
  explicit CudaPoint(CudaShared& shared) : point_{shared.take_point()} {}
  CudaPoint(const CudaPoint& other) : point_{other.point_} {
    if (point_ != nullptr) point_->holders.fetch_add(1, std::memory_order_relaxed);
  }
  CudaPoint& operator=(CudaPoint other) noexcept {
    std::swap(point_, other.point_);
    return *this;
  }
  ~CudaPoint() {
    if (point_ != nullptr) point_->holders.fetch_sub(1, std::memory_order_acq_rel);
  }
  explicit operator bool() const { return point_ != nullptr; }
  cudaEvent_t event() const { return point_->event; }

 private:
  CudaShared::Point* point_ = nullptr;
};

/// A position among what a thread of the host runs for a stream.
struct HostPosition {
  std::shared_ptr<StreamProgress> progress;  // null: none
  std::uint64_t position = 0;
  const CudaShared::Word* word = nullptr;
  CudaShared::Word number = 0;

  /// Waits, and throws what failed before.
  void pass() const {
    progress->await(position);
    progress->rethrow(position);
  }
};

/// What may end the operations of streams from outside; few at a time, each once.
class CudaDangers {
 public:
  void add(const std::shared_ptr<const OutsideFailure>& danger) {
    if (std::find(all_.begin(), all_.end(), danger) == all_.end()) all_.push_back(danger);
  }
  void add(const CudaDangers& others) {
    for (const auto& danger : others.all_) add(danger);
  }
  void rethrow() const {
    for (const auto& danger : all_) danger->rethrow();
  }

 private:
  std::vector<std::shared_ptr<const OutsideFailure>> all_;
};

/// The point that was recorded last: the GPU's, or that of the stream's thread.
class CudaEvent {
 public:
  explicit operator bool() const { return point_ || host_.progress != nullptr; }

 private:
  friend class CudaStream;
  CudaPoint point_;
  HostPosition host_;
  CudaDangers dangers_;
};

/// Operations in order. One thread at a time enqueues.
class CudaStream {
 public:
  CudaStream(std::shared_ptr<CudaShared> shared, std::string_view name)
      : shared_{std::move(shared)}, name_{name} {
    const CudaCurrent current{shared_->ordinal};
    cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "make a stream");
  }
  CudaStream(CudaStream&& other) noexcept
      : shared_{std::move(other.shared_)},
        name_{std::move(other.name_)},
        stream_{std::exchange(other.stream_, nullptr)},
        queue_{std::move(other.queue_)},
        word_{other.word_},
        number_{other.number_},
        is_host_last_{other.is_host_last_},
        has_device_work_{other.has_device_work_},
        awaited_{std::move(other.awaited_)},
        dangers_{std::move(other.dangers_)} {}
  CudaStream& operator=(CudaStream&&) = delete;
  ~CudaStream() {
    if (stream_ == nullptr) return;
    queue_.reset();  // waits for what it holds
    (void)cudaStreamSynchronize(stream_);
    (void)cudaStreamDestroy(stream_);
  }

  /// For what the GPU does, behind all before it: `launch(stream)` enqueues it.
  template <class Launch>
  void on_device(Launch launch) {
    const CudaCurrent current{shared_->ordinal};
    if (is_host_last_) shared_->wait(stream_, word_, number_);
    is_host_last_ = false;
    has_device_work_ = true;
    launch(stream_);
  }
  /// For what a library enqueues, which `danger` may end without an error of CUDA: who waits then
  /// learns it here.
  template <class Launch>
  void on_device(Launch launch, const std::shared_ptr<const OutsideFailure>& danger) {
    on_device(std::move(launch));
    if (danger != nullptr) dangers_.add(danger);
  }
  /// For what the stream's thread does.
  template <class Work>
  void on_host(Work&& work) {
    start_thread();
    if (has_device_work_) {
      const CudaCurrent current{shared_->ordinal};
      CudaPoint point{*shared_};
      cuda_check(cudaEventRecord(point.event(), stream_), "record an event");
      queue_->enqueue([point = std::move(point), dangers = dangers_] {
        cuda_check(cudaEventSynchronize(point.event()), "an operation before one of the host");
        dangers.rethrow();
      });
      has_device_work_ = false;
    }
    queue_->enqueue(Numbered<std::decay_t<Work>>{std::forward<Work>(work), {word_, ++number_}});
    is_host_last_ = true;
  }

  void record(CudaEvent& event) {
    event = {};
    event.dangers_ = dangers_;
    if (is_host_last_) {
      event.host_ = {queue_->progress(), queue_->position(), word_, number_};
      return;
    }
    const CudaCurrent current{shared_->ordinal};
    event.point_ = CudaPoint{*shared_};
    cuda_check(cudaEventRecord(event.point_.event(), stream_), "record an event");
  }
  void wait(const CudaEvent& event) {
    if (!event) return;
    dangers_.add(event.dangers_);
    const CudaCurrent current{shared_->ordinal};
    if (event.host_.progress != nullptr) {
      if (queue_ != nullptr && queue_->progress() == event.host_.progress) return;
      awaited_.push_back(event.host_);
      shared_->wait(stream_, event.host_.word, event.host_.number);
      if (queue_ != nullptr) queue_->enqueue([host = event.host_] { host.pass(); });
    } else {
      cuda_check(cudaStreamWaitEvent(stream_, event.point_.event()), "wait for an event");
      if (queue_ != nullptr)
        queue_->enqueue([point = event.point_, dangers = event.dangers_] {
          cuda_check(cudaEventSynchronize(point.event()), "an operation that the host waits for");
          dangers.rethrow();
        });
    }
    // Without a thread yet, the one to come waits for the stream's own point.
    if (queue_ == nullptr) has_device_work_ = true;
  }
  void synchronize() {
    if (queue_ != nullptr) {
      queue_->progress()->await(queue_->position());
      queue_->progress()->rethrow(queue_->position());
    }
    const CudaCurrent current{shared_->ordinal};
    cuda_check(cudaStreamSynchronize(stream_), "operations of a stream");
    const std::vector<HostPosition> awaited = std::exchange(awaited_, {});
    for (const HostPosition& host : awaited) host.pass();
    dangers_.rethrow();
  }
  void drain() noexcept {
    if (queue_ != nullptr) queue_->progress()->await(queue_->position());
    (void)cudaStreamSynchronize(stream_);
  }

 private:
  /// Tells the GPU that an operation is over, also if it failed or never ran: who waits goes on,
  /// and `synchronize` says what happened.
  struct Done {
    CudaShared::Word* word;
    CudaShared::Word number;
    Done(CudaShared::Word* to, CudaShared::Word n) : word{to}, number{n} {}
    Done(Done&& other) noexcept : word{std::exchange(other.word, nullptr)}, number{other.number} {}
    Done(const Done&) = delete;
    Done& operator=(const Done&) = delete;
    ~Done() {
      if (word != nullptr)
        std::atomic_ref<CudaShared::Word>{*word}.store(number, std::memory_order_release);
    }
  };
  template <class Work>
  struct Numbered {
    Work work;
    Done done;  // ends first: when the GPU goes on, the work is over
    void operator()() { work(); }
  };

  void start_thread() {
    if (queue_ != nullptr) return;
    const CudaCurrent current{shared_->ordinal};
    word_ = shared_->make_word();
    queue_ = std::make_unique<TaskQueue>(name_);
    queue_->enqueue([ordinal = shared_->ordinal] {
      cuda_check(cudaSetDevice(ordinal), "choose a device in a stream's thread");
    });
    for (const HostPosition& host : awaited_) queue_->enqueue([host] { host.pass(); });
  }

  std::shared_ptr<CudaShared> shared_;
  std::string name_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<TaskQueue> queue_;  // of a stream with operations of the host
  CudaShared::Word* word_ = nullptr;
  CudaShared::Word number_ = 0;        // of the last operation of the host
  bool is_host_last_ = false;          // what the GPU does next comes behind the host
  bool has_device_work_ = false;       // which the host has not waited for
  std::vector<HostPosition> awaited_;  // since the last synchronization
  CudaDangers dangers_;                // of all that came before
};

}  // namespace shardexpr::detail
