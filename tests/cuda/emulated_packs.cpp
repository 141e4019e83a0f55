// SPDX-License-Identifier: Apache-2.0
// Functors that a GPU runs a pack at a time: each element once, and to the bits of one at a time.
#include <shardexpr/comm/rank_kernels.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/device/cuda.cuh>
#include <shardexpr/engine/offloaded_gradients.hpp>
#include <shardexpr/optim/adamw.hpp>
#include <shardexpr/optim/sgd.hpp>
#include <shardexpr/optim/sgd_momentum.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <set>
#include <span>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;
using namespace shardexpr::detail;

// Beside packs, threads and blocks of every size.
constexpr std::array<std::size_t, 12> counts{1, 3, 4, 7, 8, 9, 64, 1000, 1023, 4096, 4099, 40'013};

/// Memory of the GPU, some elements longer than what is used and begun `offset` elements late.
template <class T>
struct Values {
  Values(sx::Cuda& device, std::size_t n, std::size_t late, std::uint32_t seed)
      : memory{device.allocate<T>(n + late + 16, sx::Purpose::other)}, count{n}, offset{late} {
    std::mt19937 random{seed};
    for (T& value : memory.span())
      if constexpr (std::is_integral_v<T>) {
        value = static_cast<T>(random());
      } else if (random() % 16 == 0) {  // any bits: subnormal, infinite, not a number
        const std::uint64_t bits = (std::uint64_t{random()} << 32) | random();
        std::memcpy(&value, &bits, sizeof(T));
      } else {
        value = static_cast<T>(std::normal_distribution<float>{}(random));
      }
  }
  T* data() const { return memory.data() + offset; }
  std::span<T> span() const { return {data(), count}; }
  /// All of the memory, so that what is written beside the elements is seen.
  std::vector<unsigned char> bytes() const {
    const auto* first = reinterpret_cast<const unsigned char*>(memory.data());
    return {first, first + memory.size_bytes()};
  }
  sx::Cuda::Buffer<T> memory;
  std::size_t count, offset;
};

/// `to` after the functor that `make` gives was run on the device, and after it was called once for
/// each element: the bytes of both.
template <class To, class Make>
void check_bits(sx::Cuda& device, std::size_t n, std::size_t offset, Make make, bool can_pack) {
  CAPTURE(n);
  CAPTURE(offset);
  const Values<To> by_device{device, n, offset, 5}, by_hand{device, n, offset, 5};
  sx::Cuda::Stream stream{device, "packs"};
  const auto functor = make(by_device);
  CHECK(functor.can_pack() == can_pack);
  device.for_each(stream, n, sx::reads(), sx::writes(by_device.span()), functor);
  device.synchronize(stream);
  const auto same = make(by_hand);
  for (std::size_t i = 0; i < n; ++i) same(i);
  CHECK(by_device.bytes() == by_hand.bytes());
}

// How packs are handed out
// -------------------------------------------------------------------------

/// Notes who was done how, and that a thread loads all that it has under way before it finishes
/// any.
struct Noted {
  static constexpr std::size_t pack_elements = 4;
  int* by_element;
  int* by_pack;
  int* under_way;  // loads without a finish, and the most there ever were
  bool aligned;
  void operator()(std::size_t i) const { ++by_element[i]; }
  bool can_pack() const { return aligned; }
  std::array<std::size_t, 2> load(std::size_t first) const {  // 16 bytes: four at once
    ++under_way[0];
    under_way[1] = std::max(under_way[1], under_way[0]);
    return {first, first + 1};
  }
  void finish(std::size_t first, const std::array<std::size_t, 2>& loaded) const {
    --under_way[0];
    if (loaded[0] != first || loaded[1] != first + 1) return;
    for (std::size_t i = 0; i < pack_elements; ++i) ++by_pack[first + i];
  }
};
static_assert(PackFunctor<Noted> && packs_at_once<Noted> == 4);

TEST_CASE("each element is done once: by packs as far as they go, then one by one") {
  sx::Cuda device;
  sx::Cuda::Stream stream{device, "packs"};
  for (const std::size_t n : counts)
    for (const bool aligned : {true, false})
      for (const unsigned blocks : {0u, 1u, 3u}) {  // 0: as many as the device chooses
        CAPTURE(n);
        CAPTURE(aligned);
        CAPTURE(blocks);
        std::vector<int> by_element(n + 8), by_pack(n + 8), under_way(2);
        const Noted functor{by_element.data(), by_pack.data(), under_way.data(), aligned};
        if (blocks == 0)
          device.for_each(stream, n, sx::reads(), sx::writes(), functor);
        else if (aligned)
          device.enqueue(stream, sx::reads(), sx::writes(), [&](cudaStream_t on) {
            cuda_launch(on, blocks, cuda_block_threads, "packs", run_packs<Noted>, functor, n);
          });
        else
          continue;
        device.synchronize(stream);
        const std::size_t packed = aligned ? n / 4 * 4 : 0;
        std::vector<int> wanted_element(n + 8), wanted_pack(n + 8);
        for (std::size_t i = 0; i < n; ++i) (i < packed ? wanted_pack : wanted_element)[i] = 1;
        CHECK(by_element == wanted_element);
        CHECK(by_pack == wanted_pack);
        CHECK(under_way[0] == 0);
        // A thread's four packs stand a block's threads apart: they are full from 16 kilobytes on.
        CHECK(under_way[1] == (packed == 0 ? 0 : packed / 4 > 3 * 256 ? 4 : 1));
      }
}

TEST_CASE("for threads of the host beside a GPU, too") {
  const sx::Cuda device;
  for (const std::size_t n : counts) {
    CAPTURE(n);
    std::vector<int> by_element(n), by_pack(n), under_way(2);
    sx::Cuda::for_each_at_once(n, Noted{by_element.data(), by_pack.data(), under_way.data(), true});
    for (std::size_t i = 0; i < n; ++i) {
      CHECK(by_pack[i] == (i < n / 4 * 4));
      CHECK(by_element[i] == (i >= n / 4 * 4));
    }
  }
}

static_assert(pack_elements_of<float> == 4 && pack_elements_of<sx::bf16, float> == 4);
static_assert(pack_elements_of<sx::bf16> == 8 && pack_elements_of<double> == 2);
static_assert(pack_elements_of<char[3]> == 1 && !PackFunctor<CopyRow<std::array<char, 34>>>);

// Values
// -------------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("casts", From, sx::fp32, sx::bf16, sx::fp16) {
  sx::Cuda device;
  const auto check = [&]<class To>(To) {
    for (const std::size_t n : counts)
      for (const std::size_t offset : {0, 1, 8}) {
        const Values<From> from{device, n, offset, 3};
        check_bits<To>(
            device, n, offset,
            [&](const auto& to) {
              return CastElement<From, To>{from.data(), to.data()};
            },
            offset != 1);
      }
  };
  check(sx::fp32{});
  check(sx::bf16{});
  check(sx::fp16{});
}

TEST_CASE("a cast goes by packs only if both arrays begin where packs may") {
  alignas(16) static float f[8];
  alignas(16) static sx::bf16 b[16];
  using Cast = CastElement<float, sx::bf16>;
  CHECK(Cast{f, b}.can_pack());
  CHECK(Cast{f, b + 4}.can_pack());  // 4 elements of 16 bits are 8 bytes
  CHECK_FALSE(Cast{f, b + 2}.can_pack());
  CHECK_FALSE(Cast{f + 1, b}.can_pack());
}

/// State of an optimizer on a device, after three updates of which one is skipped.
template <class Policy, class Rounding, class Storage, class Gradient, class Moment, class Compute>
std::vector<std::vector<unsigned char>> updated(auto& device, std::size_t n, std::size_t offset,
                                                float limit) {
  using Device = std::remove_reference_t<decltype(device)>;
  typename Device::Stream stream{device, "update"};
  constexpr std::size_t m = Policy::moments;
  std::vector<std::vector<unsigned char>> all;
  std::mt19937 random{17};
  std::normal_distribution<float> normal;
  const auto fill = [&]<class T>(std::span<T> values) {
    for (T& value : values) value = static_cast<T>(normal(random));
  };
  const auto p = device.template allocate<Storage>(n + 16, sx::Purpose::other);
  const auto g = device.template allocate<Gradient>(n + 16, sx::Purpose::other);
  const auto copy = device.template allocate<Compute>(n + 16, sx::Purpose::other);
  const auto control = device.template allocate<sx::UpdateControl>(1, sx::Purpose::other);
  fill(p.span());
  std::vector<typename Device::template Buffer<Moment>> moments;
  std::array<Moment*, m> at{};
  for (std::size_t k = 0; k < m; ++k) {
    moments.push_back(device.template allocate<Moment>(n + 16, sx::Purpose::other));
    at[k] = moments[k].data() + offset;
  }
  for (std::size_t step = 1; step <= 3; ++step) {
    fill(g.span());
    control.data()[0] = {0.5f, limit, step == 2 ? 1u : 0u};
    const typename Policy::Update update{typename Policy::Options{}, step};
    apply_update(
        sx::Context<Device>{device, stream}, update, Rounding{7, step}, control.data(),
        sx::UpdateOperands<Storage, Gradient, Moment, Compute, m>{
            p.span().subspan(offset, n), g.span().subspan(offset, n), at, copy.data() + offset});
    device.synchronize(stream);
  }
  const auto add = [&](const auto& buffer) {
    const auto* first = reinterpret_cast<const unsigned char*>(buffer.data());
    all.emplace_back(first, first + buffer.size_bytes());
  };
  add(p);
  add(copy);
  for (const auto& moment : moments) add(moment);
  return all;
}

template <class Policy, class Rounding, class Storage, class Gradient, class Moment, class Compute>
void check_update() {
  sx::Cuda cuda;
  sx::Cpu cpu;
  for (const std::size_t n : {1, 9, 1000, 4099})
    for (const std::size_t offset : {0, 8, 1}) {
      CAPTURE(n);
      CAPTURE(offset);
      for (const float limit : {0.25f, 1e30f})
        CHECK(
            updated<Policy, Rounding, Storage, Gradient, Moment, Compute>(cuda, n, offset, limit) ==
            updated<Policy, Rounding, Storage, Gradient, Moment, Compute>(cpu, n, offset, limit));
    }
}
TEST_CASE("updates have the Cpu's bits, aligned or not, skipped or not") {
  using Nearest = sx::NearestRounding;
  check_update<sx::AdamW, Nearest, float, float, float, float>();
  check_update<sx::AdamW, Nearest, float, sx::bf16, float, sx::bf16>();
  check_update<sx::AdamW, Nearest, float, sx::fp16, sx::bf16, sx::fp16>();
  check_update<sx::AdamW, sx::StochasticRounding, sx::bf16, sx::bf16, sx::bf16, sx::bf16>();
  check_update<sx::AdamW, Nearest, sx::bf16, float, float, sx::bf16>();
  check_update<sx::Sgd, Nearest, float, sx::bf16, float, sx::bf16>();
  check_update<sx::SgdMomentum, Nearest, float, float, float, float>();
}
TEST_CASE("an update goes by packs only if all its arrays begin where packs may") {
  alignas(16) static float p[8], m[8], v[8];
  alignas(16) static sx::bf16 g[16], c[16];
  using Element =
      ElementUpdate<sx::AdamWUpdate, sx::NearestRounding, float, sx::bf16, float, sx::bf16, 2>;
  static_assert(PackFunctor<Element> && Element::pack_elements == 4 && packs_at_once<Element> == 1);
  const sx::AdamWUpdate update{{}, 1};
  const auto can = [&](float* pp, sx::bf16* gg, float* mm, float* vv, sx::bf16* cc) {
    const Element element{update, {}, {}, pp, gg, {mm, vv}, cc};
    return PreparedUpdate<Element>{element, nullptr}.can_pack();
  };
  CHECK(can(p, g, m, v, c));
  CHECK_FALSE(can(p + 1, g, m, v, c));
  CHECK_FALSE(can(p, g + 1, m, v, c));
  CHECK_FALSE(can(p, g, m + 1, v, c));
  CHECK_FALSE(can(p, g, m, v + 1, c));
  CHECK_FALSE(can(p, g, m, v, c + 1));
}

template <class T>
void check_rows(std::size_t world, std::size_t n, std::size_t offset) {
  CAPTURE(world);
  sx::Cuda device;
  const bool aligned = offset % (16 / sizeof(T)) == 0;
  std::vector<Values<T>> values;
  for (std::size_t r = 0; r < world; ++r) values.emplace_back(device, n, offset, 40 + r);
  const auto scale = static_cast<SumOf<T>>(0.37);
  const auto rows_of = [&](const Values<T>& to) {
    Rows<const T> rows;
    for (std::size_t r = 0; r < world; ++r) rows.row[r] = values[r].data();
    if (world > 1) rows.row[1] = to.data();  // in place
    return rows;
  };
  check_bits<T>(
      device, n, offset,
      [&](const auto& to) {
        return SumRows<T>{rows_of(to), world, scale, to.data()};
      },
      aligned);
  check_bits<T>(
      device, n, offset,
      [&](const auto& to) {
        return CopyRow<T>{values[0].data(), to.data()};
      },
      aligned);
  if constexpr (!std::is_integral_v<T>)
    if constexpr (sizeof(T) >= 4)
      check_bits<T>(
          device, n, offset,
          [&](const auto& to) {
            return ScaleElement<T>{to.data(), static_cast<T>(0.3)};
          },
          aligned);

  for (const std::size_t step : {n + 5, sx::round_up(n, 64)}) {
    const Values<T> sent{device, world * step, offset, 71};
    check_bits<T>(
        device, n, offset,
        [&](const auto& to) {
          return SumSentRows<T>{sent.data(), step,  values[0].data(), world - 1,
                                world,       scale, to.data()};
        },
        aligned && step % (16 / sizeof(T)) == 0);
  }

  // Every row is written.
  std::vector<std::vector<unsigned char>> found[2];
  for (const bool by_hand : {false, true}) {
    std::vector<Values<T>> all;
    for (std::size_t r = 0; r < world; ++r) all.emplace_back(device, n, offset, 40 + r);
    SumRowsToAll<T> functor{{}, world, scale};
    for (std::size_t r = 0; r < world; ++r) functor.rows.row[r] = all[r].data();
    CHECK(functor.can_pack() == aligned);
    if (by_hand)
      for (std::size_t i = 0; i < n; ++i) functor(i);
    else
      sx::Cuda::for_each_at_once(n, functor);
    for (const auto& row : all) found[by_hand].push_back(row.bytes());
  }
  CHECK(found[0] == found[1]);
}
TEST_CASE_TEMPLATE("sums of rows", T, float, sx::bf16, sx::fp16, double, std::int64_t) {
  for (const std::size_t world : {1, 2, 3, 6})
    for (const std::size_t n : {1, 9, 1000, 1023})
      for (const std::size_t offset : {0, 1}) {
        CAPTURE(n);
        CAPTURE(offset);
        check_rows<T>(world, n, offset);
      }
}

TEST_CASE("sums are in rank order, in fp32, scaled, and rounded once") {
  sx::Cuda device;
  const std::size_t n = 9, world = 3;
  std::vector<Values<sx::bf16>> rows;
  for (std::size_t r = 0; r < world; ++r) rows.emplace_back(device, n, 0, 90);
  const Values<sx::bf16> to{device, n, 0, 1}, sent{device, world * 16, 0, 2};
  for (std::size_t i = 0; i < n; ++i) {
    rows[0].data()[i] = sx::bf16{1.0f};
    rows[1].data()[i] = sx::bf16{i % 2 == 0 ? 0x1p-24f : 0x1p-9f};  // is lost beside 1, or is not
    rows[2].data()[i] = sx::bf16{i % 3 == 0 ? -1.0f : static_cast<float>(i) * 0x1p-9f};
  }
  const auto check = [&] {
    for (std::size_t i = 0; i < n; ++i) {
      const auto of = [&](std::size_t r) { return static_cast<float>(rows[r].data()[i]); };
      CHECK(to.data()[i].bits == sx::bf16{((of(0) + of(1)) + of(2)) * 0.25f}.bits);
    }
  };
  SumRows<sx::bf16> functor{{}, world, 0.25f, to.data()};
  for (std::size_t r = 0; r < world; ++r) functor.rows.row[r] = rows[r].data();
  sx::Cuda::for_each_at_once(n, functor);
  check();
  // As they were sent, but for this rank's own.
  for (std::size_t own = 0; own < world; ++own) {
    for (std::size_t r = 0; r < world; ++r)
      for (std::size_t i = 0; i < n; ++i)
        sent.data()[r * 16 + i] = r == own ? sx::bf16{77.0f} : rows[r].data()[i];
    sx::Cuda::for_each_at_once(
        n, SumSentRows<sx::bf16>{sent.data(), 16, rows[own].data(), own, world, 0.25f, to.data()});
    check();
  }
}

TEST_CASE_TEMPLATE("rows that are gathered", T, float, sx::bf16) {
  sx::Cuda device;
  constexpr std::size_t world = 3;
  for (const std::size_t count : {8, 12, 64, 65, 4096}) {
    const bool aligned = count % (16 / sizeof(T)) == 0;
    std::vector<Values<T>> values;
    for (std::size_t r = 0; r < world; ++r) values.emplace_back(device, count, 0, 60 + r);
    check_bits<T>(
        device, world * count, 0,
        [&](const auto& full) {
          GatherRows<T> functor{{}, world, count, full.data()};
          for (std::size_t r = 0; r < world; ++r) functor.rows.row[r] = values[r].data();
          functor.rows.row[1] = full.data() + count;  // in place
          return functor;
        },
        aligned);
    // A row that begins elsewhere: the last, which is looked at, too.
    GatherRows<T> functor{{}, world, count, values[0].data()};
    for (std::size_t r = 0; r < world; ++r) functor.rows.row[r] = values[r].data();
    CHECK(functor.can_pack() == aligned);
    ++functor.rows.row[world - 1];
    CHECK_FALSE(functor.can_pack());
  }
}

TEST_CASE("gradients that are added") {
  sx::Cuda device;
  for (const std::size_t n : counts)
    for (const std::size_t offset : {0, 1}) {
      const Values<sx::bf16> from{device, n, offset, 3};
      const Values<float> wide{device, n, offset, 4};
      check_bits<float>(
          device, n, offset,
          [&](const auto& to) {
            return AddTo<sx::bf16, float>{to.data(), from.data()};
          },
          offset == 0);
      check_bits<sx::bf16>(
          device, n, offset,
          [&](const auto& to) {
            return AddTo<float, sx::bf16>{to.data(), wide.data()};
          },
          offset == 0);
      CHECK_FALSE(AddTo<sx::bf16, float>{wide.data(), from.data() + 1}.can_pack());
    }
}

}  // namespace
