// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/core/lanes.hpp>
#include <shardexpr/core/loop.hpp>
#include <shardexpr/device/cpu_copy.hpp>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace shardexpr::detail {

// Elements that are summed at a time where a partial sum must wait: it stays in the first cache.
inline constexpr std::size_t sum_block = 1024;

/// out[i] = ((rows[0][i] + rows[1][i]) + ...) * scale. `out` may be one of the rows. Only additions
/// and then one product: nothing that a compiler may contract. fp32 alone is left to the compiler.
template <class Sum, class T, class... Row>
void add_rows(std::size_t count, Sum scale, T* out, const Row*... rows) {
  constexpr bool is_narrow = sizeof(T) == 2 || (... || (sizeof(Row) == 2));
  if constexpr (is_narrow && has_lanes<T> && (... && has_lanes<Row>)) {
    std::size_t at = 0;
    for (; at + lane_count <= count; at += lane_count)
      store_lanes(out + at, (... + load_lanes(rows + at)) * every_lane(scale));
    count -= at;
    out += at;
    ((rows += at), ...);
  }
  for_independent(count, [&](std::size_t i) {
    const Sum sum = (... + static_cast<Sum>(rows[i]));
    if constexpr (std::is_integral_v<Sum>)
      out[i] = sum;
    else
      out[i] = static_cast<T>(sum * scale);  // a sum is scaled by 1: the same bits
  });
}

template <class T>
constexpr SumOf<T> scale_of(Reduction reduction, std::size_t world) {
  if (reduction == Reduction::sum) return SumOf<T>{1};
  return static_cast<SumOf<T>>(1) / static_cast<SumOf<T>>(world);
}

/// Sums `world` rows in rank order, in `SumOf<T>`, and rounds once.
///
/// Shapes:  row(rank) (count,) for each rank -> out (count,), which may be one of the rows.
/// Cost:    two to four ranks in one pass; more in blocks that stay in cache.
template <class T, class Row>
void sum_rows(std::size_t world, std::size_t count, SumOf<T> scale, T* out, Row row) {
  switch (world) {
    case 1:
      if (out != row(0)) copy_bytes(out, row(0), count * sizeof(T));
      return;
    case 2:
      return add_rows(count, scale, out, row(0), row(1));
    case 3:
      return add_rows(count, scale, out, row(0), row(1), row(2));
    case 4:
      return add_rows(count, scale, out, row(0), row(1), row(2), row(3));
  }
  using Sum = SumOf<T>;
  alignas(64) Sum partial[sum_block];
  for (std::size_t at = 0; at < count; at += sum_block) {
    const std::size_t n = std::min(sum_block, count - at);
    add_rows(n, Sum{1}, partial, row(0) + at, row(1) + at, row(2) + at, row(3) + at);
    std::size_t rank = 4;
    for (; rank + 2 < world; rank += 2)
      add_rows(n, Sum{1}, partial, partial, row(rank) + at, row(rank + 1) + at);
    if (rank + 2 == world)
      add_rows(n, scale, out + at, partial, row(rank) + at, row(rank + 1) + at);
    else
      add_rows(n, scale, out + at, partial, row(rank) + at);
  }
}

/// The sums of elements [begin, end) of all rows, written to every row.
///
/// Shapes:  row(rank) is a T* to at least `end` elements, for each rank.
/// Cost:    block by block while the sum is in cache.
template <class T, class Row>
void sum_rows_to_all(std::size_t world, std::size_t begin, std::size_t end, SumOf<T> scale,
                     Row row) {
  alignas(64) T sum[sum_block];
  for (std::size_t at = begin; at < end; at += sum_block) {
    const std::size_t n = std::min(sum_block, end - at);
    sum_rows<T>(world, n, scale, sum, [&](std::size_t rank) -> const T* { return row(rank) + at; });
    for (std::size_t rank = 0; rank < world; ++rank) copy_bytes(row(rank) + at, sum, n * sizeof(T));
  }
}

}  // namespace shardexpr::detail
