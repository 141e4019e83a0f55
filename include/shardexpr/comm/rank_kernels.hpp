// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/core/pack.hpp>

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

/// Whether packs may be read of the first `world` rows.
template <std::size_t N, class T>
bool rows_begin_packs(const Rows<T>& rows, std::size_t world) {
  for (std::size_t r = 0; r < world; ++r)
    if (!begin_packs<N>(rows.row[r])) return false;
  return true;
}

/// full[r n + i] = rows[r][i]. A row may be its own slice of `full`.
template <class T>
struct GatherRows {
  static constexpr std::size_t pack_elements = pack_elements_of<T>;
  Rows<const T> rows;
  std::size_t world, count;
  T* full;
  SHARDEXPR_HOST_DEVICE const T* from(std::size_t i) const {
    return rows.row[i / count] + i % count;
  }
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    if (from(i) != full + i) full[i] = *from(i);
  }
  bool can_pack() const {
    return count % pack_elements == 0 && begin_packs<pack_elements>(full) &&
           rows_begin_packs<pack_elements>(rows, world);
  }
  SHARDEXPR_HOST_DEVICE auto load(std::size_t first) const {
    return load_pack<pack_elements>(from(first));
  }
  SHARDEXPR_HOST_DEVICE void finish(std::size_t first, const Pack<T, pack_elements>& pack) const {
    if (from(first) != full + first) store_pack(full + first, pack);
  }
};

template <class T>
struct CopyRow {
  static constexpr std::size_t pack_elements = pack_elements_of<T>;
  const T* from;
  T* to;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const { to[i] = from[i]; }
  bool can_pack() const { return begin_packs<pack_elements>(from, to); }
  SHARDEXPR_HOST_DEVICE auto load(std::size_t first) const {
    return load_pack<pack_elements>(from + first);
  }
  SHARDEXPR_HOST_DEVICE void finish(std::size_t first, const Pack<T, pack_elements>& pack) const {
    store_pack(to + first, pack);
  }
};

/// of(0) + of(1) + ..., N elements of each, in `SumOf<T>`.
template <class T, std::size_t N, class Of>
SHARDEXPR_HOST_DEVICE Pack<SumOf<T>, N> sum_in_order(std::size_t world, Of of) {
  using Sum = SumOf<T>;
  const Pack<T, N> first = of(0);
  Pack<Sum, N> sum;
  for (std::size_t i = 0; i < N; ++i) sum.value[i] = static_cast<Sum>(first.value[i]);
#if defined(__CUDA_ARCH__)
#pragma unroll 4  // as many loads under way
#endif
  for (std::size_t r = 1; r < world; ++r) {
    const Pack<T, N> row = of(r);
    for (std::size_t i = 0; i < N; ++i) sum.value[i] += static_cast<Sum>(row.value[i]);
  }
  return sum;
}
/// sum scale, rounded once.
template <class T, std::size_t N>
SHARDEXPR_HOST_DEVICE Pack<T, N> scaled(const Pack<SumOf<T>, N>& sum, SumOf<T> scale) {
  Pack<T, N> result;
  for (std::size_t i = 0; i < N; ++i)
    if constexpr (std::is_integral_v<SumOf<T>>)
      result.value[i] = sum.value[i];
    else
      result.value[i] = static_cast<T>(sum.value[i] * scale);
  return result;
}

/// to[i] = (rows[0][i] + rows[1][i] + ...) scale. `to` may be one of the rows.
template <class T>
struct SumRows {
  static constexpr std::size_t pack_elements = pack_elements_of<T>, packs_at_once = 1;
  Rows<const T> rows;
  std::size_t world;
  SumOf<T> scale;
  T* to;
  template <std::size_t N>
  SHARDEXPR_HOST_DEVICE Pack<SumOf<T>, N> sum(std::size_t first) const {
    return sum_in_order<T, N>(world,
                              [&](std::size_t r) { return load_pack<N>(rows.row[r] + first); });
  }
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    store_pack(to + i, scaled<T, 1>(sum<1>(i), scale));
  }
  bool can_pack() const {
    return begin_packs<pack_elements>(to) && rows_begin_packs<pack_elements>(rows, world);
  }
  SHARDEXPR_HOST_DEVICE auto load(std::size_t first) const { return sum<pack_elements>(first); }
  SHARDEXPR_HOST_DEVICE void finish(std::size_t first,
                                    const Pack<SumOf<T>, pack_elements>& loaded) const {
    store_pack(to + first, scaled<T, pack_elements>(loaded, scale));
  }
};

/// The same, where peers sent their rows: `sent` holds them one behind the other, `stride` elements
/// apart, with a gap for this rank, whose row is `own`.
template <class T>
struct SumSentRows {
  static constexpr std::size_t pack_elements = pack_elements_of<T>, packs_at_once = 1;
  const T* sent;
  std::size_t stride;
  const T* own;
  std::size_t rank, world;
  SumOf<T> scale;
  T* to;
  template <std::size_t N>
  SHARDEXPR_HOST_DEVICE Pack<SumOf<T>, N> sum(std::size_t first) const {
    return sum_in_order<T, N>(world, [&](std::size_t r) {
      return load_pack<N>(r == rank ? own + first : sent + r * stride + first);
    });
  }
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    store_pack(to + i, scaled<T, 1>(sum<1>(i), scale));
  }
  bool can_pack() const {
    return stride % pack_elements == 0 && begin_packs<pack_elements>(sent, own, to);
  }
  SHARDEXPR_HOST_DEVICE auto load(std::size_t first) const { return sum<pack_elements>(first); }
  SHARDEXPR_HOST_DEVICE void finish(std::size_t first,
                                    const Pack<SumOf<T>, pack_elements>& loaded) const {
    store_pack(to + first, scaled<T, pack_elements>(loaded, scale));
  }
};

/// values[i] = values[i] factor
template <class T>
struct ScaleElement {
  static constexpr std::size_t pack_elements = pack_elements_of<T>;
  T* values;
  T factor;
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const { values[i] *= factor; }
  bool can_pack() const { return begin_packs<pack_elements>(values); }
  SHARDEXPR_HOST_DEVICE auto load(std::size_t first) const {
    return load_pack<pack_elements>(values + first);
  }
  SHARDEXPR_HOST_DEVICE void finish(std::size_t first, Pack<T, pack_elements> pack) const {
    for (T& value : pack.value) value *= factor;
    store_pack(values + first, pack);
  }
};

/// The sum of rows, written to every row.
template <class T>
struct SumRowsToAll {
  static constexpr std::size_t pack_elements = pack_elements_of<T>, packs_at_once = 1;
  Rows<T> rows;
  std::size_t world;
  SumOf<T> scale;
  template <std::size_t N>
  SHARDEXPR_HOST_DEVICE Pack<SumOf<T>, N> sum(std::size_t first) const {
    return sum_in_order<T, N>(world, [&](std::size_t r) {
      return load_pack<N>(static_cast<const T*>(rows.row[r]) + first);
    });
  }
  template <std::size_t N>
  SHARDEXPR_HOST_DEVICE void write(std::size_t first, const Pack<SumOf<T>, N>& sum) const {
    const Pack<T, N> result = scaled<T, N>(sum, scale);
    for (std::size_t r = 0; r < world; ++r) store_pack(rows.row[r] + first, result);
  }
  SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const { write<1>(i, sum<1>(i)); }
  bool can_pack() const { return rows_begin_packs<pack_elements>(rows, world); }
  SHARDEXPR_HOST_DEVICE auto load(std::size_t first) const { return sum<pack_elements>(first); }
  SHARDEXPR_HOST_DEVICE void finish(std::size_t first,
                                    const Pack<SumOf<T>, pack_elements>& loaded) const {
    write<pack_elements>(first, loaded);
  }
};

}  // namespace shardexpr::detail
