// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/nn/cuda/convert.cuh>
#include <shardexpr/nn/cuda/launch.cuh>
#include <shardexpr/nn/cuda/tensor_core.cuh>

#include <cstddef>

#include <cuda_runtime.h>

// Tiles of a head's rows in shared memory, and a warp's products of them on tensor cores.
//
// A row is `head` elements of 16 bits, in pieces of 16 bytes. Piece p of row r lies where p ^ (r %
// 8) would: so 8 rows of one piece, which ldmatrix takes at a time, are in different banks.
namespace shardexpr::nn::detail {

/// What a thread moves at once.
struct alignas(16) Piece {
  unsigned words[4];
};

inline constexpr unsigned warp_lanes = 32;

template <unsigned head>
inline constexpr unsigned row_pieces = head / 8;

/// Where a piece of a tile lies, in elements.
template <unsigned head>
__device__ constexpr unsigned piece_at(unsigned row, unsigned piece) {
  return row * head + ((piece ^ (row % 8)) * 8);
}

/// Begins to copy `rows` rows from `first` on, which lie `stride` apart; from `end` on there are
/// none, and zeros are written.
template <unsigned rows, unsigned threads, unsigned head, class T>
__device__ inline void copy_tile(T* tile, const T* from, unsigned stride, unsigned first,
                                 unsigned end) {
  constexpr unsigned at_once = threads / row_pieces<head>;
  static_assert(threads % row_pieces<head> == 0 && rows % at_once == 0 && at_once % 8 == 0);
  const unsigned row = threadIdx.x / row_pieces<head>, piece = threadIdx.x % row_pieces<head>;
  from += std::size_t{first + row} * stride + piece * 8;
  tile += piece_at<head>(row, piece);
  SHARDEXPR_UNROLL
  for (unsigned i = 0; i < rows; i += at_once) {
    copy_async(tile + i * head, from, first + row + i < end);
    from += std::size_t{at_once} * stride;
  }
}

/// Where this lane's row of a block of 16 rows and 16 elements lies, as ldmatrix asks for it. All
/// factors are loaded so.
template <unsigned head>
class LaneRow {
 public:
  __device__ LaneRow()
      : first_{opaque(piece_at<head>(threadIdx.x % 16, threadIdx.x % warp_lanes / 16))} {}
  /// Of the block of rows from `row`, a multiple of 8, and of elements from 16 `k` on.
  template <class T>
  const __device__ T* of(const T* tile, unsigned row, unsigned k) const {
    return tile + row * head + (first_ ^ (16 * k));
  }

 private:
  unsigned first_;
};

/// 16 M rows of a tile as left factors, loaded where they are needed.
template <class T, unsigned head, unsigned M>
struct RowsInTile {
  LaneRow<head> lane;
  const T* rows;

  __device__ void load(unsigned (&to)[M][4], unsigned k) const {
    SHARDEXPR_UNROLL
    for (unsigned m = 0; m < M; ++m) load_matrices(to[m], lane.of(rows, 16 * m, k));
  }
};
/// The same, kept in registers.
template <class T, unsigned head, unsigned M>
struct RowsInRegisters {
  unsigned words[head / 16][M][4];

  __device__ void take(const RowsInTile<T, head, M>& tile) {
    SHARDEXPR_UNROLL
    for (unsigned k = 0; k < head / 16; ++k) tile.load(words[k], k);
  }
  __device__ void load(unsigned (&to)[M][4], unsigned k) const {
    SHARDEXPR_UNROLL
    for (unsigned m = 0; m < M; ++m) {
      SHARDEXPR_UNROLL
      for (unsigned i = 0; i < 4; ++i) to[m][i] = words[k][m][i];
    }
  }
};

/// Where element i of a fragment lies in its 16 x 8 block.
__device__ inline unsigned fragment_row(unsigned i) {
  return threadIdx.x % warp_lanes / 4 + i / 2 * 8;
}
__device__ inline unsigned fragment_column(unsigned i) { return threadIdx.x % 4 * 2 + i % 2; }

template <unsigned M, unsigned N>
__device__ inline void set_zero(float (&c)[M][N][4]) {
  SHARDEXPR_UNROLL
  for (unsigned m = 0; m < M; ++m) {
    SHARDEXPR_UNROLL
    for (unsigned n = 0; n < N; ++n) {
      SHARDEXPR_UNROLL
      for (unsigned i = 0; i < 4; ++i) c[m][n][i] = 0;
    }
  }
}

/// c (16 M, 8 N) = left right^T, `right` being 8 N rows of a tile.
template <class T, unsigned head, unsigned M, unsigned N, class Left>
__device__ inline void multiply_by_rows(float (&c)[M][N][4], const Left& left,
                                        const LaneRow<head>& lane, const T* right) {
  static_assert(N % 2 == 0);
  set_zero(c);
  SHARDEXPR_UNROLL
  for (unsigned k = 0; k < head / 16; ++k) {
    unsigned a[M][4];
    left.load(a, k);
    SHARDEXPR_UNROLL
    for (unsigned n = 0; n < N; n += 2) {
      unsigned b[4];
      load_matrices(b, lane.of(right, 8 * n, k));  // a row is a column of the factor
      SHARDEXPR_UNROLL
      for (unsigned m = 0; m < M; ++m) {
        multiply_add_fragment<T>(c[m][n], a[m], b[0], b[2]);
        multiply_add_fragment<T>(c[m][n + 1], a[m], b[1], b[3]);
      }
    }
  }
}

/// c (16 M, head) += left right; `left` is (16 M, 16 K), `right` 16 K rows of a tile.
template <class T, unsigned head, unsigned M, unsigned K>
__device__ inline void multiply_add_tile(float (&c)[M][head / 8][4],
                                         const unsigned (&left)[M][K][4], const LaneRow<head>& lane,
                                         const T* right) {
  SHARDEXPR_UNROLL
  for (unsigned k = 0; k < K; ++k) {
    SHARDEXPR_UNROLL
    for (unsigned n = 0; n < head / 8; n += 2) {
      unsigned b[4];
      load_matrices_transposed(b, lane.of(right, 16 * k, n / 2));
      SHARDEXPR_UNROLL
      for (unsigned m = 0; m < M; ++m) {
        multiply_add_fragment<T>(c[m][n], left[m][k], b[0], b[1]);
        multiply_add_fragment<T>(c[m][n + 1], left[m][k], b[2], b[3]);
      }
    }
  }
}

/// A product (16 M, 16 K), rounded, as a left factor.
template <class T, unsigned M, unsigned K>
__device__ inline void round_to_left(unsigned (&to)[M][K][4], const float (&c)[M][2 * K][4]) {
  SHARDEXPR_UNROLL
  for (unsigned m = 0; m < M; ++m) {
    SHARDEXPR_UNROLL
    for (unsigned k = 0; k < K; ++k) {
      SHARDEXPR_UNROLL
      for (unsigned i = 0; i < 4; ++i) {
        const float(&block)[4] = c[m][2 * k + i / 2];
        to[m][k][i] = round_two<T>(block[i % 2 * 2], block[i % 2 * 2 + 1]);
      }
    }
  }
}

/// Writes the first `count` of a warp's 16 M rows, scaled and rounded, to rows that lie `stride`
/// apart; through `room`, that many rows of a tile that no other warp reads or writes, so that
/// they are written in whole pieces.
template <class T, unsigned head, unsigned M>
__device__ inline void store_rows(const float (&c)[M][head / 8][4], const float (&scale)[M][2],
                                  T* room, T* to, unsigned stride, unsigned count) {
  __syncwarp();  // what was read there has been read
  SHARDEXPR_UNROLL
  for (unsigned m = 0; m < M; ++m) {
    SHARDEXPR_UNROLL
    for (unsigned n = 0; n < head / 8; ++n) {
      SHARDEXPR_UNROLL
      for (unsigned i = 0; i < 4; i += 2) {
        const unsigned row = 16 * m + fragment_row(i), at = piece_at<head>(row, n);
        *reinterpret_cast<unsigned*>(room + at + fragment_column(0)) =
            round_two<T>(c[m][n][i] * scale[m][i / 2], c[m][n][i + 1] * scale[m][i / 2]);
      }
    }
  }
  __syncwarp();
  constexpr unsigned at_once = warp_lanes / row_pieces<head>;
  const unsigned lane = threadIdx.x % warp_lanes;
  const unsigned first = lane / row_pieces<head>, piece = lane % row_pieces<head>;
  SHARDEXPR_UNROLL
  for (unsigned i = 0; i < 16 * M / at_once; ++i) {
    const unsigned row = first + i * at_once;
    if (row < count)
      *reinterpret_cast<Piece*>(to + std::size_t{row} * stride + piece * 8) =
          *reinterpret_cast<const Piece*>(room + piece_at<head>(row, piece));
  }
}

}  // namespace shardexpr::nn::detail
