// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/core/macros.hpp>

#include <cstddef>
#include <type_traits>

// What the ranks of one process do in a collective where kernels do it: each reads its peers'
// memory in place. The bits are those of rank_sum.hpp.

namespace shardexpr::detail {

/// Memory of each rank, by value: kernels take some KiB of arguments.
template <class T>
struct Rows {
  static constexpr std::size_t most = 256;
  T* row[most];
};

/// full[r n + i] = rows[r][i]. A row may be its own slice of `full`.
template <class T>
struct GatherRows {
  Rows<const T> rows;
  std::size_t count;
  T* full;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    const T* from = rows.row[i / count] + i % count;
    if (from != full + i) full[i] = *from;
  }
};

template <class T>
struct CopyRow {
  const T* from;
  T* to;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const { to[i] = from[i]; }
};

/// (of(0) + of(1) + ...) scale, rounded once.
template <class T, class Of>
SHARDEXPR_HOST_DEVICE T sum_in_order(std::size_t world, SumOf<T> scale, Of of) {
  using Sum = SumOf<T>;
  Sum sum = static_cast<Sum>(of(0));
  for (std::size_t r = 1; r < world; ++r) sum += static_cast<Sum>(of(r));
  if constexpr (std::is_integral_v<Sum>)
    return sum;
  else
    return static_cast<T>(sum * scale);
}

/// to[i] = (rows[0][i] + rows[1][i] + ...) scale. `to` may be one of the rows.
template <class T>
struct SumRows {
  Rows<const T> rows;
  std::size_t world;
  SumOf<T> scale;
  T* to;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    to[i] = sum_in_order<T>(world, scale, [&](std::size_t r) { return rows.row[r][i]; });
  }
};

/// The same, where peers sent their rows: `sent` holds them one behind the other, `stride` elements
/// apart, with a gap for this rank, whose row is `own`.
template <class T>
struct SumSentRows {
  const T* sent;
  std::size_t stride;
  const T* own;
  std::size_t rank, world;
  SumOf<T> scale;
  T* to;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    to[i] = sum_in_order<T>(
        world, scale, [&](std::size_t r) { return r == rank ? own[i] : sent[r * stride + i]; });
  }
};

/// values[i] = values[i] factor
template <class T>
struct ScaleElement {
  T* values;
  T factor;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const { values[i] *= factor; }
};

/// The sum of rows, written to every row.
template <class T>
struct SumRowsToAll {
  Rows<T> rows;
  std::size_t world;
  SumOf<T> scale;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    const T sum = sum_in_order<T>(world, scale, [&](std::size_t r) { return rows.row[r][i]; });
    for (std::size_t r = 0; r < world; ++r) rows.row[r][i] = sum;
  }
};

}  // namespace shardexpr::detail
