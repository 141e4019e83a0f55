// SPDX-License-Identifier: Apache-2.0
#pragma once
// The twin of include/shardexpr/nn/cuda/tensor_core.cuh, for the emulated runtime. Lanes hand each
// other what they hold and meet once; what a GPU would punish is found here, or counted.
#include <shardexpr/core/dtype.hpp>

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include <cuda_runtime.h>

namespace emulated {

/// What was done since a test began to count.
inline std::atomic<std::size_t> fragment_products{0}, bank_conflicts{0};

[[noreturn]] inline void refuse(const char* what) {
  std::fprintf(stderr, "emulated CUDA: %s\n", what);
  std::abort();
}
inline void want_aligned(const void* address, const char* what) {
  if (reinterpret_cast<std::uintptr_t>(address) % 16 != 0) refuse(what);
}

/// Gives `mine` to the warp, and returns what its 32 lanes gave. Two rooms are used in turns: who
/// writes the first again has met those who were to read it.
template <class Value>
const Value* of_warp(const Value& mine) {
  constexpr unsigned most = Fibers::largest_block;
  static thread_local std::vector<Value> rooms(2 * most);
  static thread_local std::vector<char> turn(most);
  const unsigned me = threadIdx.x;
  const unsigned room = static_cast<unsigned>(turn[me]) * most;
  turn[me] ^= 1;
  rooms[room + me] = mine;
  Fibers::of_this_thread().meet_warp();
  return &rooms[room + me / Fibers::warp_threads * Fibers::warp_threads];
}

/// Copies are done when they are waited for, not before: who forgets to wait finds what was there.
class Copies {
 public:
  static Copies& of_this_thread() {
    static thread_local std::vector<Copies> all(Fibers::largest_block);
    return all[threadIdx.x];
  }
  void add(void* to, const void* from, std::size_t size_bytes) {
    if ((!open_.empty() || !groups_.empty()) && !is_of_this_block())
      refuse("a block ended before its copies");
    block_ = blockIdx;
    open_.push_back({to, from, size_bytes});
  }
  void commit() { groups_.push_back(std::exchange(open_, {})); }
  void wait(std::size_t pending) {
    for (; groups_.size() > pending; groups_.pop_front())
      for (const Copy& copy : groups_.front()) {
        if (copy.from == nullptr)
          std::memset(copy.to, 0, copy.size_bytes);
        else
          std::memcpy(copy.to, copy.from, copy.size_bytes);
      }
  }

 private:
  struct Copy {
    void* to;
    const void* from;
    std::size_t size_bytes;
  };
  bool is_of_this_block() const { return block_.x == blockIdx.x && block_.y == blockIdx.y; }

  std::vector<Copy> open_;
  std::deque<std::vector<Copy>> groups_;
  dim3 block_;
};

}  // namespace emulated

namespace shardexpr::nn::detail {

inline unsigned char* dynamic_shared_memory() { return emulated::dynamic_shared_memory(); }

template <class T>
float half_of(unsigned word, unsigned which) {
  T half;
  half.bits = static_cast<std::uint16_t>(word >> (16 * which));
  return half;
}

// A GPU adds the 16 products in one go, with no fewer bits than this: each is rounded here.
template <class T>
void multiply_add_fragment(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  struct Held {
    float a[8], b[4];
  } mine;
  for (unsigned i = 0; i < 8; ++i) mine.a[i] = half_of<T>(a[i / 2], i % 2);
  for (unsigned i = 0; i < 4; ++i) mine.b[i] = half_of<T>(i < 2 ? b0 : b1, i % 2);
  const Held* const held = emulated::of_warp(mine);
  const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  if (lane == 0) ++emulated::fragment_products;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned lower = i / 2, column = 2 * t + i % 2;
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned inner = k % 8 / 2, word = k / 8;
      c[i] += held[g * 4 + inner].a[(lower + 2 * word) * 2 + k % 2] *
              held[column * 4 + inner].b[word * 2 + k % 2];
    }
  }
}

struct Rows16 {
  const void* from;
  std::uint16_t half[8];
};
inline const Rows16* rows_of_warp(const void* row) {
  emulated::want_aligned(row, "ldmatrix of a row that is not aligned to 16 bytes");
  Rows16 mine{row, {}};
  std::memcpy(mine.half, row, 16);
  const Rows16* const rows = emulated::of_warp(mine);
  if (threadIdx.x % 32 == 0)
    for (unsigned i = 0; i < 4; ++i) {  // of each matrix, 8 rows fill the 32 banks
      unsigned banks = 0;
      for (unsigned j = 0; j < 8; ++j)
        banks |= 1u << reinterpret_cast<std::uintptr_t>(rows[8 * i + j].from) / 16 % 8;
      if (banks != 0xff) ++emulated::bank_conflicts;
    }
  return rows;
}
inline unsigned both_of(unsigned low, unsigned high) { return low | high << 16; }

inline void load_matrices(unsigned (&to)[4], const void* row) {
  const Rows16* const rows = rows_of_warp(row);
  const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  for (unsigned i = 0; i < 4; ++i)
    to[i] = both_of(rows[8 * i + g].half[2 * t], rows[8 * i + g].half[2 * t + 1]);
}
inline void load_matrices_transposed(unsigned (&to)[4], const void* row) {
  const Rows16* const rows = rows_of_warp(row);
  const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  for (unsigned i = 0; i < 4; ++i)
    to[i] = both_of(rows[8 * i + 2 * t].half[g], rows[8 * i + 2 * t + 1].half[g]);
}

inline void copy_async(void* shared, const void* global, bool exists) {
  emulated::want_aligned(shared, "cp.async to where 16 bytes are not aligned");
  emulated::want_aligned(global, "cp.async from where 16 bytes are not aligned");
  emulated::Copies::of_this_thread().add(shared, exists ? global : nullptr, 16);
}
inline void copy_word_async(void* shared, const void* global, bool exists) {
  emulated::Copies::of_this_thread().add(shared, exists ? global : nullptr, 4);
}
inline void commit_copies() { emulated::Copies::of_this_thread().commit(); }
template <int pending>
void wait_for_copies() {
  emulated::Copies::of_this_thread().wait(pending);
}

inline unsigned opaque(unsigned x) { return x; }

}  // namespace shardexpr::nn::detail
