// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "../../support/sanitized.hpp"
#include <ucontext.h>
#if SANITIZED
#include <sanitizer/asan_interface.h>
#include <sanitizer/tsan_interface.h>
#endif

#if SANITIZED && defined(__has_feature)
#define EMULATED_ASAN __has_feature(address_sanitizer)
#define EMULATED_TSAN __has_feature(thread_sanitizer)
#else
#define EMULATED_ASAN 0
#define EMULATED_TSAN 0
#endif

// The threads of one block of a kernel, in one thread of the host. One runs to its end, or until it
// meets the others; then the next begins. So a kernel whose threads never meet costs no switch.
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

class Fibers {
 public:
  static constexpr unsigned warp_threads = 32, largest_block = 1024;

  /// Of the calling thread.
  static Fibers& of_this_thread() {
    static thread_local Fibers fibers;
    return fibers;
  }
  Fibers(const Fibers&) = delete;
  Fibers& operator=(const Fibers&) = delete;

  /// Runs `kernel()` once for each thread of a block.
  void run(unsigned threads, const std::function<void()>& kernel) {
    kernel_ = &kernel;
    count_ = threads;
    next_ = 0;
    block_ = Meeting{threads};
    warps_.clear();
    for (unsigned first = 0; first < threads; first += warp_threads)
      warps_.push_back(Meeting{threads - first < warp_threads ? threads - first : warp_threads});
    while (next_ < count_ || !waiting_.empty()) {
      if (next_ < count_) {  // who waits for others need not be asked before all have begun
        resume(idle_fiber());
        continue;
      }
      const std::size_t before = progress_;
      std::vector<Fiber*> turn = std::move(waiting_);
      waiting_.clear();
      for (Fiber* fiber : turn) resume(*fiber);
      if (progress_ == before) {
        std::fprintf(stderr, "emulated CUDA: threads of a block wait for each other forever\n");
        std::abort();
      }
    }
  }

  unsigned thread() const { return running_->thread; }
  unsigned count() const { return count_; }

  /// `__syncthreads`.
  void meet_block() { meet(block_); }
  /// `__shfl_*_sync` of all lanes: the value of the lane that `from(lane)` names.
  template <class T, class From>
  T exchange(T value, From from) {
    static_assert(sizeof(T) <= sizeof(Slot));
    const unsigned me = thread(), lane = me % warp_threads, first = me - lane;
    std::memcpy(slots_[me].bytes, &value, sizeof(T));
    meet(warps_[me / warp_threads]);
    const unsigned other = from(lane);
    T result = value;
    if (first + other < count_) std::memcpy(&result, slots_[first + other].bytes, sizeof(T));
    meet(warps_[me / warp_threads]);
    return result;
  }
  void meet_warp() { meet(warps_[thread() / warp_threads]); }

 private:
  static constexpr std::size_t stack_bytes = 128 << 10;

  struct Slot {
    alignas(16) char bytes[16];
  };
  /// Where `alive` threads wait until all are there; those that end no longer count.
  struct Meeting {
    unsigned alive = 0, arrived = 0;
    std::size_t generation = 0;
  };
  /// Where to go on.
  struct Point {
    ucontext_t context{};
    std::jmp_buf jump{};
    bool has_begun = false;
  };
  struct Fiber {
    Fiber() {
      getcontext(&point.context);
      point.context.uc_stack.ss_sp = stack.get();
      point.context.uc_stack.ss_size = stack_bytes;
      point.context.uc_link = nullptr;
      makecontext(&point.context, &Fibers::body, 0);
    }
    Point point;
    std::unique_ptr<char[]> stack{new char[stack_bytes]};
    unsigned thread = 0;
    bool is_idle = true;
#if SANITIZED
    void* fake_stack = nullptr;  // AddressSanitizer's
    void* twin = nullptr;        // ThreadSanitizer's
#endif
  };
  Fibers() = default;

  /// A context of the system saves signals by a call of it: once begun, jumps are enough, but for
  /// sanitizers, which think that a jump unwinds.
  static void switch_context(Point& from, Point& to) {
    if (SANITIZED) {
      swapcontext(&from.context, &to.context);
    } else if (_setjmp(from.jump) == 0) {
      if (to.has_begun) _longjmp(to.jump, 1);
      to.has_begun = true;
      swapcontext(&from.context, &to.context);
    }
  }
  void resume(Fiber& fiber) {
    running_ = &fiber;
    to_fiber(fiber);
    running_ = nullptr;
    if (fiber.is_idle) idle_.push_back(&fiber);
  }
  Fiber& idle_fiber() {
    if (!idle_.empty()) {
      Fiber& fiber = *idle_.back();
      idle_.pop_back();
      return fiber;
    }
    fibers_.push_back(std::make_unique<Fiber>());
    return *fibers_.back();
  }
  static void body() {
    Fibers& fibers = of_this_thread();
    fibers.arrived_in_fiber();
    for (;;) {
      Fiber& me = *fibers.running_;
      me.is_idle = false;
      while (fibers.next_ < fibers.count_) {
        threadIdx = {me.thread = fibers.next_++, 0, 0};
        ++fibers.progress_;
        (*fibers.kernel_)();
        fibers.leave(fibers.block_);
        fibers.leave(fibers.warps_[me.thread / warp_threads]);
        ++fibers.progress_;
      }
      me.is_idle = true;
      fibers.to_scheduler(me);
    }
  }
  void meet(Meeting& meeting) {
    const std::size_t generation = meeting.generation;
    ++meeting.arrived;
    open_if_complete(meeting);
    Fiber& me = *running_;
    while (meeting.generation == generation) {
      waiting_.push_back(&me);
      to_scheduler(me);
    }
    threadIdx = {me.thread, 0, 0};
    ++progress_;
  }
  void leave(Meeting& meeting) {
    --meeting.alive;
    open_if_complete(meeting);
  }
  void open_if_complete(Meeting& meeting) {
    if (meeting.arrived == 0 || meeting.arrived < meeting.alive) return;
    meeting.arrived = 0;
    ++meeting.generation;
  }

  void to_fiber(Fiber& fiber) {
#if EMULATED_TSAN
    scheduler_twin_ = __tsan_get_current_fiber();
    if (fiber.twin == nullptr) fiber.twin = __tsan_create_fiber(0);
    __tsan_switch_to_fiber(fiber.twin, 0);
#endif
#if EMULATED_ASAN
    __sanitizer_start_switch_fiber(&scheduler_fake_stack_, fiber.stack.get(), stack_bytes);
#endif
    switch_context(scheduler_, fiber.point);
#if EMULATED_ASAN
    __sanitizer_finish_switch_fiber(scheduler_fake_stack_, nullptr, nullptr);
#endif
  }
  void arrived_in_fiber() {
#if EMULATED_ASAN
    __sanitizer_finish_switch_fiber(running_->fake_stack, &scheduler_stack_,
                                    &scheduler_stack_bytes_);
#endif
  }
  void to_scheduler(Fiber& fiber) {
#if EMULATED_TSAN
    __tsan_switch_to_fiber(scheduler_twin_, 0);
#endif
#if EMULATED_ASAN
    __sanitizer_start_switch_fiber(&fiber.fake_stack, scheduler_stack_, scheduler_stack_bytes_);
#endif
    switch_context(fiber.point, scheduler_);
    arrived_in_fiber();
  }

  const std::function<void()>* kernel_ = nullptr;
  unsigned count_ = 0, next_ = 0;
  std::size_t progress_ = 0;
  Fiber* running_ = nullptr;
  Meeting block_;
  std::vector<Meeting> warps_;
  std::vector<Slot> slots_ = std::vector<Slot>(largest_block);
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_, waiting_;
  Point scheduler_{.has_begun = true};
#if EMULATED_ASAN
  void* scheduler_fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_stack_bytes_ = 0;
#endif
#if EMULATED_TSAN
  void* scheduler_twin_ = nullptr;
#endif
};

}  // namespace emulated
