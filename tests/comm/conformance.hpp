// SPDX-License-Identifier: Apache-2.0
#pragma once
// What every communicator must do, in numbered cases. A backend brings a world (worlds.hpp) and
// calls `conformance<World>()` in one TEST_CASE. Every case computes what it expects from the
// ranks' inputs alone, one element at a time, and compares bits.
#include <shardexpr/comm/call.hpp>
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/core/dtype.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

namespace shardexpr::testing {

inline std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Element `i` of rank `rank`'s input: exponents spread, so that the order of a sum shows.
template <class T>
T value(std::uint64_t seed, std::size_t rank, std::size_t i) {
  const std::uint64_t bits = mix(mix(seed * 1031 + rank) + i);
  if constexpr (std::is_floating_point_v<T>) {
    const T unit = static_cast<T>(static_cast<std::int64_t>(bits >> 16) - (std::int64_t{1} << 47));
    return unit * static_cast<T>(std::uint64_t{1} << (bits & 15)) * static_cast<T>(0x1p-50);
  } else if constexpr (std::is_convertible_v<T, float>) {
    return static_cast<T>(value<float>(seed, rank, i));
  } else if constexpr (sizeof(T) == 8) {
    return static_cast<T>(bits >> 8);
  } else {
    return static_cast<T>(bits & 0xff);
  }
}

template <class T>
std::vector<T> input(std::uint64_t seed, std::size_t rank, std::size_t count) {
  std::vector<T> x(count);
  for (std::size_t i = 0; i < count; ++i) x[i] = value<T>(seed, rank, i);
  return x;
}

/// The plain reference: ranks added in order, one product, one rounding.
template <class T>
std::vector<T> reduced(std::uint64_t seed, std::size_t world, std::size_t first, std::size_t count,
                       Reduction reduction) {
  using Sum = detail::SumOf<T>;
  std::vector<T> x(count);
  for (std::size_t i = 0; i < count; ++i) {
    Sum sum = static_cast<Sum>(value<T>(seed, 0, first + i));
    for (std::size_t rank = 1; rank < world; ++rank)
      sum = sum + static_cast<Sum>(value<T>(seed, rank, first + i));
    if (reduction == Reduction::mean) sum = sum * (Sum{1} / static_cast<Sum>(world));
    x[i] = static_cast<T>(sum);
  }
  return x;
}

/// Whether a communicator adds up elements of 32 and 64 bits in rank order.
template <class C>
inline constexpr bool sums_in_rank_order = true;

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// What ranks' inputs, from element `first` on, come to: the plain reference's bits, or, where the
/// order is the transport's and tells, within a rounding an addition of the largest sum on the way.
template <class C, class T>
bool is_reduced(const std::vector<T>& got, std::uint64_t seed, std::size_t world, std::size_t first,
                Reduction reduction) {
  const auto expected = reduced<T>(seed, world, first, got.size(), reduction);
  if constexpr (sums_in_rank_order<C> || sizeof(T) == 2 || std::is_integral_v<T>) {
    return same_bits(got, expected);
  } else {
    for (std::size_t i = 0; i < got.size(); ++i) {
      T magnitude = 0;
      for (std::size_t rank = 0; rank < world; ++rank)
        magnitude += std::abs(value<T>(seed, rank, first + i));
      const T unit = std::numeric_limits<T>::epsilon() * magnitude;
      if (!(std::abs(got[i] - expected[i]) <= static_cast<T>(world - 1) * unit)) return false;
    }
    return true;
  }
}

/// A device buffer with this content.
template <class T, class D>
auto put(const Context<D>& ctx, const std::vector<T>& host) {
  auto buffer = ctx.device.template allocate<T>(host.size(), Purpose::other);
  ctx.device.copy(ctx.stream, std::span<const T>{host}, buffer.span());
  ctx.device.synchronize(ctx.stream);
  return buffer;
}

template <class D, class T>
std::vector<T> get(const Context<D>& ctx, std::span<T> from) {
  std::vector<T> host(from.size());
  ctx.device.copy(ctx.stream, std::span<const T>{from}, std::span<T>{host});
  ctx.device.synchronize(ctx.stream);
  return host;
}

inline constexpr std::size_t some_counts[] = {0, 1, 3, 17, 64, 1001, 4096};
inline constexpr Reduction reductions[] = {Reduction::sum, Reduction::mean};

template <class T, class C, class D>
void check_all_gather(C& comm, const Context<D>& ctx, std::size_t n, bool in_place,
                      std::uint64_t seed) {
  const std::size_t world = comm.size(), rank = comm.rank();
  std::vector<T> expected;
  for (std::size_t peer = 0; peer < world; ++peer) {
    const auto x = input<T>(seed, peer, n);
    expected.insert(expected.end(), x.begin(), x.end());
  }
  auto shard = put(ctx, input<T>(seed, rank, n));
  auto full = ctx.device.template allocate<T>(world * n, Purpose::other);
  auto from = in_place ? full.span().subspan(rank * n, n) : shard.span();
  if (in_place) ctx.device.copy(ctx.stream, std::span<const T>{shard.span()}, from);
  comm.all_gather(ctx, std::span<const T>{from}, full.span());
  CHECK(same_bits(get(ctx, full.span()), expected));
  CHECK(same_bits(get(ctx, shard.span()), input<T>(seed, rank, n)));
}

template <class T, class C, class D>
void check_reduce_scatter(C& comm, const Context<D>& ctx, std::size_t n, Reduction reduction,
                          bool in_place, std::uint64_t seed) {
  const std::size_t world = comm.size(), rank = comm.rank();
  const auto mine = input<T>(seed, rank, world * n);
  auto full = put(ctx, mine);
  auto shard = ctx.device.template allocate<T>(n, Purpose::other);
  const auto to = in_place ? full.span().subspan(rank * n, n) : shard.span();
  comm.reduce_scatter(ctx, std::span<const T>{full.span()}, to, reduction);
  const auto sum = get(ctx, to);
  CHECK(is_reduced<C>(sum, seed, world, rank * n, reduction));
  auto left = mine;  // nothing else may change
  if (in_place) std::copy(sum.begin(), sum.end(), left.begin() + rank * n);
  CHECK(same_bits(get(ctx, full.span()), left));
}

template <class T, class C, class D>
void check_all_reduce(C& comm, const Context<D>& ctx, std::size_t n, Reduction reduction,
                      std::uint64_t seed) {
  auto values = put(ctx, input<T>(seed, comm.rank(), n));
  comm.all_reduce(ctx, values.span(), reduction);
  CHECK(is_reduced<C>(get(ctx, values.span()), seed, comm.size(), 0, reduction));
}

template <class T, class C, class D>
void check_broadcast(C& comm, const Context<D>& ctx, std::size_t n, std::size_t root,
                     std::uint64_t seed) {
  auto values = put(ctx, input<T>(seed, comm.rank(), n));
  comm.broadcast(ctx, values.span(), root);
  CHECK(same_bits(get(ctx, values.span()), input<T>(seed, root, n)));
}

template <class T, class C, class D>
void check_all_to_all(C& comm, const Context<D>& ctx, std::size_t n, std::uint64_t seed) {
  const std::size_t world = comm.size(), rank = comm.rank();
  auto from = put(ctx, input<T>(seed, rank, world * n));
  auto to = ctx.device.template allocate<T>(world * n, Purpose::other);
  comm.all_to_all(ctx, std::span<const T>{from.span()}, to.span());
  std::vector<T> expected;
  for (std::size_t peer = 0; peer < world; ++peer)
    for (std::size_t i = 0; i < n; ++i) expected.push_back(value<T>(seed, peer, rank * n + i));
  CHECK(same_bits(get(ctx, to.span()), expected));
}

template <class T, class C, class D, class Buffer>
void check_gather(C& comm, const Context<D>& ctx, Buffer& buffer, std::size_t first, std::size_t n,
                  bool in_place, std::uint64_t seed) {
  const std::size_t world = comm.size(), rank = comm.rank();
  auto shard = put(ctx, input<T>(seed, rank, n));
  const auto full = buffer.span().subspan(first, world * n);
  if (in_place) {
    comm.barrier(ctx);  // the others are done with what this overwrites
    ctx.device.copy(ctx.stream, std::span<const T>{shard.span()}, full.subspan(rank * n, n));
    comm.gather(ctx, std::span<const T>{full.subspan(rank * n, n)}, full);
  } else {
    comm.gather(ctx, std::span<const T>{shard.span()}, full);
  }
  std::vector<T> expected;
  for (std::size_t peer = 0; peer < world; ++peer) {
    const auto x = input<T>(seed, peer, n);
    expected.insert(expected.end(), x.begin(), x.end());
  }
  CHECK(same_bits(get(ctx, full), expected));
}

/// One collective drawn by `seed`, the same in every rank, checked.
template <class C, class D, class Buffer>
void check_random(C& comm, const Context<D>& ctx, Buffer& buffer, std::uint64_t seed) {
  const std::uint64_t draw = mix(seed);
  const std::size_t n = (draw >> 8) % 300;
  const bool flag = (draw >> 40) & 1;
  const Reduction reduction = reductions[(draw >> 41) & 1];
  switch (draw % 10) {
    case 0:
      return check_all_gather<float>(comm, ctx, n, flag, seed);
    case 1:
      return check_reduce_scatter<float>(comm, ctx, n, reduction, flag, seed);
    case 2:
      return check_all_reduce<float>(comm, ctx, n, reduction, seed);
    case 3:
      return check_broadcast<double>(comm, ctx, n, (draw >> 20) % comm.size(), seed);
    case 4:
      return check_all_to_all<std::int64_t>(comm, ctx, n, seed);
    case 5:
      return comm.barrier(ctx);
    case 6:
      return check_all_reduce<double>(comm, ctx, n, reduction, seed);
    case 7:
      return check_reduce_scatter<bf16>(comm, ctx, n, reduction, flag, seed);
    case 8:
      return check_all_reduce<fp16>(comm, ctx, n, reduction, seed);
    default:
      return check_gather<float>(comm, ctx, buffer, 0, n % (buffer.count() / comm.size() + 1), flag,
                                 seed);
  }
}

template <class World>
void conformance() {
  const auto run = [](auto body) { World::run(body); };

  SUBCASE("01 ranks are numbered from 0 to W-1") {
    run([](auto& comm, auto ctx) {
      REQUIRE(comm.rank() < comm.size());
      const std::int64_t mine = static_cast<std::int64_t>(comm.rank());
      auto all = put(ctx, std::vector<std::int64_t>(comm.size(), -1));
      auto shard = put(ctx, std::vector<std::int64_t>{mine});
      comm.all_gather(ctx, shard.span(), all.span());
      const auto seen = get(ctx, all.span());
      for (std::size_t i = 0; i < seen.size(); ++i) CHECK(seen[i] == std::int64_t(i));
    });
  }
  SUBCASE("02 all_gather") {
    run([](auto& comm, auto ctx) {
      for (std::size_t n : some_counts) {
        check_all_gather<float>(comm, ctx, n, false, 2);
        check_all_gather<double>(comm, ctx, n, false, 2);
        check_all_gather<std::int64_t>(comm, ctx, n, false, 2);
        check_all_gather<bf16>(comm, ctx, n, false, 2);
        check_all_gather<std::byte>(comm, ctx, n, false, 2);
      }
    });
  }
  SUBCASE("03 all_gather in place") {
    run([](auto& comm, auto ctx) {
      for (std::size_t n : some_counts) check_all_gather<float>(comm, ctx, n, true, 3);
    });
  }
  SUBCASE("04 reduce_scatter") {
    run([](auto& comm, auto ctx) {
      for (std::size_t n : some_counts)
        for (Reduction reduction : reductions) {
          check_reduce_scatter<float>(comm, ctx, n, reduction, false, 4);
          check_reduce_scatter<double>(comm, ctx, n, reduction, false, 4);
          check_reduce_scatter<bf16>(comm, ctx, n, reduction, false, 4);
          check_reduce_scatter<fp16>(comm, ctx, n, reduction, false, 4);
        }
      check_reduce_scatter<std::int64_t>(comm, ctx, 33, Reduction::sum, false, 4);
    });
  }
  SUBCASE("05 reduce_scatter in place") {
    run([](auto& comm, auto ctx) {
      for (std::size_t n : some_counts)
        for (Reduction reduction : reductions) {
          check_reduce_scatter<float>(comm, ctx, n, reduction, true, 5);
          check_reduce_scatter<bf16>(comm, ctx, n, reduction, true, 5);
          check_reduce_scatter<fp16>(comm, ctx, n, reduction, true, 5);
        }
    });
  }
  SUBCASE("06 all_reduce, any count") {
    run([](auto& comm, auto ctx) {
      for (std::size_t n : {0, 1, 2, 5, 63, 64, 65, 1000, 1024, 5003})
        for (Reduction reduction : reductions) {
          check_all_reduce<float>(comm, ctx, n, reduction, 6);
          check_all_reduce<double>(comm, ctx, n, reduction, 6);
          check_all_reduce<bf16>(comm, ctx, n, reduction, 6);
          check_all_reduce<fp16>(comm, ctx, n, reduction, 6);
        }
      check_all_reduce<std::int64_t>(comm, ctx, 33, Reduction::sum, 6);
    });
  }
  SUBCASE("07 all_reduce has the bits of reduce_scatter and all_gather") {
    run([](auto& comm, auto ctx) {
      if (!sums_in_rank_order<std::remove_cvref_t<decltype(comm)>>) return;
      const std::size_t n = 777, world = comm.size();
      for (Reduction reduction : reductions) {
        auto once = put(ctx, input<float>(7, comm.rank(), world * n));
        auto twice = put(ctx, input<float>(7, comm.rank(), world * n));
        auto slice = twice.span().subspan(comm.rank() * n, n);
        comm.all_reduce(ctx, once.span(), reduction);
        comm.reduce_scatter(ctx, twice.span(), slice, reduction);
        comm.all_gather(ctx, slice, twice.span());
        CHECK(same_bits(get(ctx, once.span()), get(ctx, twice.span())));
      }
    });
  }
  SUBCASE("08 broadcast from every root") {
    run([](auto& comm, auto ctx) {
      for (std::size_t n : some_counts)
        for (std::size_t root = 0; root < comm.size(); ++root) {
          check_broadcast<float>(comm, ctx, n, root, 8);
          check_broadcast<fp16>(comm, ctx, n, root, 8);
          check_broadcast<std::byte>(comm, ctx, n, root, 8);
        }
    });
  }
  SUBCASE("09 all_to_all") {
    run([](auto& comm, auto ctx) {
      for (std::size_t n : some_counts) {
        check_all_to_all<float>(comm, ctx, n, 9);
        check_all_to_all<bf16>(comm, ctx, n, 9);
        check_all_to_all<std::byte>(comm, ctx, n, 9);
      }
    });
  }
  SUBCASE("10 gather buffers are zeroed, gather fills them, again and again") {
    run([](auto& comm, auto ctx) {
      const std::size_t n = 501;
      auto buffer = comm.template gather_buffer<float>(ctx.device, comm.size() * n);
      CHECK(buffer.count() == comm.size() * n);
      CHECK(same_bits(get(ctx, buffer.span()), std::vector<float>(comm.size() * n)));
      for (std::uint64_t seed = 0; seed < 20; ++seed)
        check_gather<float>(comm, ctx, buffer, 0, n, false, seed);
    });
  }
  SUBCASE("11 gather in place, and into a part of a buffer") {
    run([](auto& comm, auto ctx) {
      const std::size_t world = comm.size();
      auto buffer = comm.template gather_buffer<double>(ctx.device, world * 500);
      auto moved = std::move(buffer);
      check_gather<double>(comm, ctx, moved, 0, 500, true, 11);
      comm.barrier(ctx);
      check_gather<double>(comm, ctx, moved, world * 7, 400, false, 12);
      check_gather<double>(comm, ctx, moved, world * 7, 0, false, 12);
      auto narrow = comm.template gather_buffer<bf16>(ctx.device, world * 500);
      check_gather<bf16>(comm, ctx, narrow, 0, 500, true, 11);
      comm.barrier(ctx);
      check_gather<bf16>(comm, ctx, narrow, world * 7, 400, false, 12);
    });
  }
  SUBCASE("12 gather buffers are charged: each of those who share one pays its part") {
    run([](auto& comm, auto ctx) {
      const std::size_t count = comm.size() * 640;
      const std::size_t share = ceil_div(count * sizeof(float), World::sharers(comm));
      const MemoryAccount& account = ctx.device.account();
      {
        auto a = comm.template gather_buffer<float>(ctx.device, count);
        CHECK(account.live_bytes(Purpose::gathered) == share);
        auto b = comm.template gather_buffer<float>(ctx.device, count);
        CHECK(account.live_bytes(Purpose::gathered) == 2 * share);
        a = std::move(b);
        CHECK(account.live_bytes(Purpose::gathered) == 2 * share);
        auto empty = comm.template gather_buffer<float>(ctx.device, 0);
        CHECK(empty.count() == 0);
      }
      CHECK(account.live_bytes() == 0);
      CHECK(account.peak_bytes() == 2 * share);
    });
  }
  SUBCASE("13 gather buffers are one where the world says so") {
    run([](auto& comm, auto ctx) {
      auto buffer = comm.template gather_buffer<float>(ctx.device, comm.size());
      const auto mine = put(ctx, std::vector<float>{1});
      comm.barrier(ctx);
      ctx.device.copy(ctx.stream, std::span<const float>{mine.span()},
                      buffer.span().subspan(comm.rank(), 1));
      comm.barrier(ctx);
      const auto seen = get(ctx, buffer.span());
      CHECK(std::count(seen.begin(), seen.end(), 1.f) == std::int64_t(World::sharers(comm)));
      comm.barrier(ctx);
    });
  }
  SUBCASE("14 traffic is the ring's, to the byte") {
    run([](auto& comm, auto ctx) {
      const std::size_t world = comm.size(), n = 10;
      auto full = put(ctx, std::vector<float>(world * n));
      auto other = put(ctx, std::vector<float>(world * n));
      auto shard = put(ctx, std::vector<float>(n));
      auto odd = put(ctx, std::vector<double>(world * n + 1));
      auto narrow = put(ctx, std::vector<bf16>(world * n));
      auto buffer = comm.template gather_buffer<float>(ctx.device, world * n);
      CHECK(comm.traffic() == Traffic{});
      comm.all_gather(ctx, shard.span(), full.span());
      comm.gather(ctx, shard.span(), buffer.span());
      const Traffic before = comm.traffic();
      comm.reduce_scatter(ctx, full.span(), shard.span(), Reduction::mean);
      comm.all_reduce(ctx, odd.span(), Reduction::sum);
      comm.broadcast(ctx, shard.span(), world - 1);
      comm.all_to_all(ctx, full.span(), other.span());
      comm.barrier(ctx);
      const Traffic in_four_bytes = comm.traffic();
      comm.reduce_scatter(ctx, narrow.span(), narrow.span().subspan(comm.rank() * n, n),
                          Reduction::mean);
      CHECK(comm.traffic() - in_four_bytes == Traffic{.reduce_scatter_bytes = (world - 1) * 20});
      CHECK(before == Traffic{.all_gather_bytes = 2 * (world - 1) * 40});
      const Traffic expected{
          .all_gather_bytes = 0,
          .reduce_scatter_bytes = (world - 1) * 40,
          .all_reduce_bytes = 2 * (world - 1) * ((world * n + 1 + world - 1) / world) * 8,
          .broadcast_bytes = comm.rank() == world - 1 ? (world - 1) * 40 : 0,
          .all_to_all_bytes = (world - 1) * 40};
      CHECK(in_four_bytes - before == expected);
      CHECK(in_four_bytes.total() == before.total() + expected.total());
      ctx.device.synchronize(ctx.stream);  // the buffers go
    });
  }
  SUBCASE("15 split by color, ordered by key, then rank") {
    run([](auto& comm, auto ctx) {
      const std::size_t world = comm.size(), rank = comm.rank();
      auto same = comm.split(5, 0);
      CHECK(same.size() == world);
      CHECK(same.rank() == rank);
      auto reversed = comm.split(-1, -static_cast<int>(rank));
      CHECK(reversed.size() == world);
      CHECK(reversed.rank() == world - 1 - rank);
      auto alone = comm.split(static_cast<int>(rank), 3);
      CHECK(alone.size() == 1);
      auto half = comm.split(static_cast<int>(rank % 2), 0);
      CHECK(half.size() == (world + 1 - rank % 2) / 2);
      CHECK(half.rank() == rank / 2);
      auto sum = put(ctx, std::vector<std::int64_t>{static_cast<std::int64_t>(rank)});
      half.all_reduce(ctx, sum.span(), Reduction::sum);
      std::int64_t expected = 0;
      for (std::size_t peer = rank % 2; peer < world; peer += 2) expected += std::int64_t(peer);
      CHECK(get(ctx, sum.span())[0] == expected);
      CHECK(comm.traffic() == Traffic{});  // each communicator counts its own
    });
  }
  SUBCASE("16 split of a split, used in turns with its parents") {
    run([](auto& comm, auto ctx) {
      auto half = comm.split(comm.rank() % 2 == 0, 0);
      auto quarter = half.split(half.rank() % 2 == 0, -static_cast<int>(half.rank()));
      for (std::uint64_t seed = 0; seed < 10; ++seed) {
        check_all_reduce<float>(comm, ctx, 100, Reduction::mean, seed);
        check_all_gather<float>(quarter, ctx, 31, false, seed);
        check_reduce_scatter<float>(half, ctx, 77, Reduction::sum, false, seed);
        auto passing = quarter.split(0, 0);
        check_all_to_all<float>(passing, ctx, 5, seed);
      }
      auto buffer = half.template gather_buffer<float>(ctx.device, half.size() * 10);
      check_gather<float>(half, ctx, buffer, 0, 10, false, 16);
    });
  }
  SUBCASE("17 more than a million elements") {
    run([](auto& comm, auto ctx) {
      const std::size_t n = (std::size_t{1} << 20) + 3, world = comm.size();
      const std::size_t shard = n / world;
      check_all_gather<float>(comm, ctx, shard, false, 17);
      check_reduce_scatter<float>(comm, ctx, shard, Reduction::mean, false, 17);
      check_reduce_scatter<bf16>(comm, ctx, shard, Reduction::mean, false, 17);
      check_all_reduce<float>(comm, ctx, n, Reduction::mean, 17);
      check_all_reduce<fp16>(comm, ctx, n, Reduction::mean, 17);
      check_broadcast<float>(comm, ctx, n, world - 1, 17);
      check_all_to_all<float>(comm, ctx, shard, 17);
      auto buffer = comm.template gather_buffer<float>(ctx.device, world * shard);
      check_gather<float>(comm, ctx, buffer, 0, shard, false, 17);
    });
  }
  SUBCASE("18 long random sequences") {
    run([](auto& comm, auto ctx) {
      auto buffer = comm.template gather_buffer<float>(ctx.device, comm.size() * 128);
      for (std::uint64_t seed = 0; seed < 400; ++seed) check_random(comm, ctx, buffer, seed);
    });
  }
  SUBCASE("19 the same bits in every run") {
    for (int repeat = 0; repeat < 5; ++repeat)
      run([](auto& comm, auto ctx) {
        check_reduce_scatter<float>(comm, ctx, 5003, Reduction::mean, false, 19);
        check_all_reduce<float>(comm, ctx, 5003, Reduction::mean, 19);
      });
  }
  SUBCASE("20 zeros keep their sign, infinities and NaNs pass") {
    run([](auto& comm, auto ctx) {
      constexpr float infinity = std::numeric_limits<float>::infinity();
      const bool last = comm.rank() + 1 == comm.size();
      auto x = put(ctx, std::vector<float>{-0.0f, infinity, last ? -infinity : infinity,
                                           last ? std::numeric_limits<float>::quiet_NaN() : 1.0f});
      comm.all_reduce(ctx, x.span(), Reduction::mean);
      const auto seen = get(ctx, x.span());
      CHECK(std::signbit(seen[0]));
      CHECK(seen[1] == infinity);
      CHECK((comm.size() == 1 ? seen[2] == -infinity : std::isnan(seen[2])));
      CHECK(std::isnan(seen[3]));
    });
  }
  SUBCASE("21 a sum that fp16 cannot hold has a mean that it can") {
    run([](auto& comm, auto ctx) {
      for (Reduction reduction : reductions) {
        auto x = put(ctx, std::vector<fp16>(100, fp16(60000.0f)));
        comm.all_reduce(ctx, x.span(), reduction);
        const bool is_lost = reduction == Reduction::sum && comm.size() > 1;
        const float expected = is_lost ? std::numeric_limits<float>::infinity() : 60000.0f;
        const auto seen = get(ctx, x.span());
        CHECK(std::count(seen.begin(), seen.end(), expected) == 100);
      }
    });
  }
  SUBCASE("22 what does not fit is refused, in every rank, without waiting") {
    run([](auto& comm, auto ctx) {
      const std::size_t world = comm.size(), rank = comm.rank();
      auto full = put(ctx, std::vector<float>(world * 4 + 1));
      auto whole = full.span().first(world * 4), shard = full.span().first(3);
      auto other = put(ctx, std::vector<float>(world * 4));
      auto integers = put(ctx, std::vector<std::int64_t>(4));
      auto odd = full.span().subspan(rank * 4 + 1, 4);  // overlaps its slice, is not it
      CHECK_THROWS_AS(comm.all_gather(ctx, shard, whole), ConfigError);
      CHECK_THROWS_AS(comm.all_gather(ctx, odd, full.span().first(world * 4)), ConfigError);
      CHECK_THROWS_AS(comm.gather(ctx, shard, whole), ConfigError);
      CHECK_THROWS_AS(comm.reduce_scatter(ctx, whole, shard, Reduction::sum), ConfigError);
      CHECK_THROWS_AS(comm.reduce_scatter(ctx, whole, odd, Reduction::sum), ConfigError);
      CHECK_THROWS_AS(comm.all_reduce(ctx, integers.span(), Reduction::mean), ConfigError);
      CHECK_THROWS_AS(comm.broadcast(ctx, shard, world), ConfigError);
      CHECK_THROWS_AS(comm.all_to_all(ctx, whole, whole), ConfigError);
      CHECK_THROWS_AS(comm.all_to_all(ctx, full.span(), other.span()), ConfigError);
      CHECK(comm.traffic() == Traffic{});
      comm.barrier(ctx);  // and all goes on: every rank was refused alike
    });
  }
}

}  // namespace shardexpr::testing
