// SPDX-License-Identifier: Apache-2.0
// Rounding of parameters: what `apply_update` writes. Statistical bounds are five deviations of
// what is summed, at fixed seeds: a test passes always or never.
#include <shardexpr/comm/solo.hpp>
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/engine/sharded.hpp>
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/optim/optimizers.hpp>
#include <shardexpr/optim/rounding.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "../support/train.hpp"
#include <doctest/doctest.h>

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

/// An update that makes one value of every parameter.
struct Becomes {
  float value;
  void operator()(float& p, float, float*) const { p = value; }
};
/// And one that takes the gradient.
struct BecomesGradient {
  void operator()(float& p, float g, float*) const { p = g; }
};

template <class T, class Update, class Rounding, std::size_t M = 0>
void update(std::span<T> p, std::span<const float> g, const Update& update,
            const Rounding& rounding, std::array<float*, M> m = {}) {
  sx::Cpu device;
  sx::Cpu::Stream stream;
  const sx::UpdateControl control;
  sx::apply_update(sx::Context<sx::Cpu>{device, stream}, update, rounding, &control,
                   sx::UpdateOperands<T, float, float, T, M>{p, g, m});
}
std::vector<float> noise(std::size_t count, std::uint64_t seed = 1) {
  std::vector<float> all(count);
  for (std::size_t i = 0; i < count; ++i) all[i] = sx::initial_value(seed, 7, i, sx::normal(1));
  return all;
}

/// The dtype's values about a finite one: the one toward zero, and the one beyond it.
template <class T>
struct Neighbours {
  double inner, outer;
  explicit Neighbours(float value) {
    T inner_value(std::abs(value));
    if (static_cast<float>(inner_value) > std::abs(value)) --inner_value.bits;
    T outer_value = inner_value;
    ++outer_value.bits;
    inner = std::copysign(static_cast<double>(inner_value), static_cast<double>(value));
    outer = std::copysign(static_cast<double>(outer_value), static_cast<double>(value));
  }
};

TEST_CASE_TEMPLATE("stochastic rounding takes both neighbours, and is right in the mean", T,
                   sx::bf16, sx::fp16) {
  // From the middle of the range down into fp16's subnormals, at all distances.
  std::vector<float> values{1.0009765f,  1.00390625f - 0x1p-20f,
                            -3.1415927f, 0.1f,
                            -1e-3f,      777.77f,
                            -2.3456e-5f, 3e-5f,
                            -4e-8f,      6.1e-5f};
  for (int eighth = 1; eighth < 8; ++eighth)
    values.push_back(1 + static_cast<float>(eighth) * 0x1p-10f);
  constexpr std::size_t count = 1024, steps = 64;
  const std::vector<float> g = noise(count);
  std::vector<T> p(count);
  for (const float value : values) {
    CAPTURE(value);
    const Neighbours<T> at{value};
    const double gap = at.outer - at.inner, up = (static_cast<double>(value) - at.inner) / gap;
    std::size_t ups = 0, neither = 0;
    for (std::size_t step = 1; step <= steps; ++step) {
      update(std::span{p}, std::span{g}, Becomes{value}, sx::StochasticRounding{3, step});
      for (const T& x : p) {
        const auto result = static_cast<double>(x);
        ups += result == at.outer;
        neither += result != at.outer && result != at.inner;
      }
    }
    CHECK(neither == 0);
    // A binomial: deviation sqrt(n q (1 - q)).
    const double n = count * steps;
    CHECK(std::abs(static_cast<double>(ups) - n * up) <= 5 * std::sqrt(n * up * (1 - up)));
    if (up == 0) CHECK(ups == 0);
  }
}

TEST_CASE_TEMPLATE("over steps, gradients, seeds or values alone, the mean is right too", T,
                   sx::bf16, sx::fp16) {
  const float value = 1.0f + 3 * 0x1p-12f;  // between neighbours of either dtype
  const Neighbours<T> at{value};
  const double up = (static_cast<double>(value) - at.inner) / (at.outer - at.inner);
  constexpr std::size_t n = 65536;
  const double bound = 5 * std::sqrt(n * up * (1 - up));
  std::size_t ups = 0;
  for (std::size_t step = 1; step <= n; ++step)
    ups += sx::StochasticRounding{3, step}.round<T>(value, 0.5f) > value;
  CHECK(std::abs(static_cast<double>(ups) - n * up) <= bound);
  ups = 0;
  for (const float g : noise(n)) ups += sx::StochasticRounding{3, 1}.round<T>(value, g) > value;
  CHECK(std::abs(static_cast<double>(ups) - n * up) <= bound);
  ups = 0;
  for (std::uint64_t seed = 0; seed < n; ++seed)
    ups += sx::StochasticRounding{seed, 1}.round<T>(value, 0.5f) > value;
  CHECK(std::abs(static_cast<double>(ups) - n * up) <= bound);
  // Values between 1 and 2; what each is moved by, in distances of its neighbours, has a deviation
  // of at most 1/2.
  double moved = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const float x = 1 + static_cast<float>(sx::mix(i) >> 41) * 0x1p-23f;
    const Neighbours<T> about{x};
    moved += (static_cast<double>(sx::StochasticRounding{3, 1}.round<T>(x, 0.5f)) -
              static_cast<double>(x)) /
             (about.outer - about.inner);
  }
  CHECK(std::abs(moved) <= 5 * std::sqrt(n * 0.25));
}

TEST_CASE_TEMPLATE("values of the dtype stay as they are, all of them", T, sx::bf16, sx::fp16) {
  std::vector<T> all(65536), p(all.size());
  std::vector<float> values(all.size());
  for (std::size_t bits = 0; bits < all.size(); ++bits) {
    all[bits].bits = static_cast<std::uint16_t>(bits);
    values[bits] = static_cast<float>(all[bits]);
  }
  for (std::size_t step = 1; step <= 8; ++step) {
    update(std::span{p}, std::span<const float>{values}, BecomesGradient{},
           sx::StochasticRounding{5, step});
    std::size_t moved = 0;
    for (std::size_t bits = 0; bits < all.size(); ++bits)
      moved += std::isnan(values[bits]) ? !std::isnan(static_cast<float>(p[bits]))
                                        : p[bits].bits != bits;
    CHECK(moved == 0);
  }
}

// One in 2^32: random bits that are all 0, which the formula of the hash lets us find.
TEST_CASE_TEMPLATE("not even the lowest noise moves a value of the dtype", T, sx::bf16, sx::fp16) {
  for (std::size_t step = 1; step <= 20; ++step) {
    const sx::StochasticRounding rounding{5, step};
    const std::uint64_t key = sx::mix(sx::mix(5) + step);
    const auto with_lowest = [&](float value) {
      const std::uint32_t inner = sx::detail::mix32(__builtin_bit_cast(std::uint32_t, value) ^
                                                    static_cast<std::uint32_t>(key));
      const auto g = static_cast<std::uint32_t>(key >> 32) - inner;
      return static_cast<float>(rounding.round<T>(value, __builtin_bit_cast(float, g)));
    };
    CHECK(with_lowest(1.5f) == 1.5f);
    CHECK(with_lowest(std::nextafter(1.5f, 2.0f)) > 1.5f);  // the bits are 0 indeed
    CHECK(with_lowest(-0.0f) == 0);
  }
}

TEST_CASE_TEMPLATE("what overflows is what overflows by nearest, at any step", T, sx::bf16,
                   sx::fp16) {
  constexpr bool is_bf16 = std::is_same_v<T, sx::bf16>;
  const float largest = is_bf16 ? 0x1.fep127f : 65504.0f;
  const float tie = is_bf16 ? 0x1.ffp127f : 65520.0f;
  const float beyond = is_bf16 ? std::numeric_limits<float>::max() : 1e6f;
  for (std::size_t step = 1; step <= 200; ++step) {
    const sx::StochasticRounding rounding{1, step};
    for (const float sign : {1.0f, -1.0f}) {
      const auto round = [&](float x) {
        return static_cast<float>(rounding.round<T>(sign * x, 0.25f));
      };
      CHECK(round(std::nextafter(tie, 0.0f)) == sign * largest);
      CHECK(round(std::nextafter(largest, inf)) == sign * largest);
      CHECK(round(tie) == sign * inf);
      CHECK(round(beyond) == sign * inf);
      CHECK(round(inf) == sign * inf);
      const float below = std::nextafter(largest, 0.0f);  // up to the largest, and no further
      CHECK(round(below) * sign <= largest);
    }
  }
}

TEST_CASE("small updates in bf16: to nearest none is ever seen, at random they add up") {
  // AdamW on a constant gradient takes steps of lr. Below 1, where parameters start, bf16 has
  // values at distances s = 2^-8; half of that is 20 times lr.
  constexpr std::size_t count = 1024, steps = 200;
  const sx::AdamW::Options options{.learning_rate = 1e-4f, .weight_decay = 0};
  std::vector<float> g(count);
  for (std::size_t i = 0; i < count; ++i) g[i] = 1 + static_cast<float>(i) / count;
  const auto train = [&](auto rounding_of) {
    std::vector<sx::bf16> p(count, sx::bf16(1.0f));
    std::vector<float> m(count), v(count);
    for (std::size_t step = 1; step <= steps; ++step)
      update(std::span{p}, std::span<const float>{g}, sx::AdamWUpdate{options, step},
             rounding_of(step), std::array{m.data(), v.data()});
    double moved = 0;
    for (const sx::bf16& x : p) moved += 1 - static_cast<double>(x);
    return moved / count;
  };
  CHECK(train([](std::size_t) { return sx::NearestRounding{}; }) == 0);
  // The sum of what rounding adds is a martingale: a step's variance is at most s lr.
  const double moved = train([](std::size_t step) { return sx::StochasticRounding{11, step}; });
  const double bound = 5 * std::sqrt(steps * 0x1p-8 * 1e-4 / count);
  CHECK(std::abs(moved - steps * 1e-4) <= bound);
  CHECK(bound < steps * 1e-4 / 10);
}

TEST_CASE_TEMPLATE("wherever a vector is cut, the same bits come out", Policy, sx::AdamW, sx::Adam,
                   sx::Sgd, sx::SgdMomentum, sx::Lion, sx::Adagrad) {
  constexpr std::size_t count = 1000, steps = 5;
  const auto run = [&](const std::vector<std::size_t>& ends) {
    std::vector<sx::bf16> p(count);
    std::vector<float> m(count), v(count);
    for (std::size_t i = 0; i < count; ++i)
      p[i] = sx::bf16(sx::initial_value(3, 9, i, sx::normal(1)));
    for (std::size_t step = 1; step <= steps; ++step) {
      const std::vector<float> g = noise(count, step);
      std::size_t begin = 0;
      for (const std::size_t end : ends) {
        update(std::span{p}.subspan(begin, end - begin), std::span{g}.subspan(begin, end - begin),
               typename Policy::Update{typename Policy::Options{}, step},
               sx::StochasticRounding{2, step}, std::array{m.data() + begin, v.data() + begin});
        begin = end;
      }
    }
    std::vector<std::uint16_t> bits;
    for (const sx::bf16& x : p) bits.push_back(x.bits);
    return bits;
  };
  const auto whole = run({count});
  CHECK(run({64, 512, count}) == whole);
  CHECK(run({1, 2, 5, 38, 333, 998, count}) == whole);
}

// A user's own rounding, in fp32: to multiples of 2^-12.
struct Coarse {
  static inline std::vector<std::size_t> steps;
  static inline std::uint64_t seed = 0;
  Coarse(std::uint64_t s, std::size_t step) {
    seed = s;
    steps.push_back(step);
  }
  template <class T>
  T round(float value, float) const {
    return static_cast<T>(std::nearbyint(value * 0x1p12f) * 0x1p-12f);
  }
};
struct RoundCoarse {
  using axis = sx::axis::Rounding;
  static constexpr bool is_random = false;
  using Rounding = Coarse;
};

TEST_CASE("a trainer writes parameters by the rounding of its strategy") {
  using Trainer =
      sx::Sharded<toy::Autoencoder, sx::NoShard, sx::Sgd, RoundCoarse, sx::Over<sx::Solo>>;
  sx::Cpu device;
  sx::Solo comm;
  Trainer trainer{device, comm, {}, {.seed = 17}};
  const auto off_grid = [&] {
    std::size_t count = 0;
    trainer.summon([&](const std::string&, sx::Tensor<const float> value) {
      for (std::size_t i = 0; i < value.count(); ++i)
        count += value[i] * 0x1p12f != std::nearbyint(value[i] * 0x1p12f);
    });
    return count;
  };
  CHECK(off_grid() > 100);
  std::vector<float> x(20);
  for (std::size_t s = 0; s < 3; ++s) {
    toy::fill(x, s, 0);
    (void)trainer.step({x.data()});
    CHECK(off_grid() == 0);
  }
  CHECK(Coarse::seed == 17);
  CHECK(Coarse::steps == std::vector<std::size_t>{1, 2, 3});
}

template <class... Ps>
using InBf16 =
    sx::Sharded<toy::Autoencoder, sx::Precision<sx::bf16, sx::bf16, sx::bf16, sx::bf16>, Ps...>;

TEST_CASE("stochastic rounding gives the same bits under every sharding") {
  const toy::Config config{.inputs = 13, .width = 37, .depth = 2, .rows = 3};
  for (std::size_t world = 1; world <= 4; ++world) {
    CAPTURE(world);
    const Outcome reference =
        train_toy<InBf16<sx::NoShard, sx::RoundStochastic>>(world, 10, config);
    CHECK(train_toy<InBf16<sx::ShardGradOp, sx::RoundStochastic>>(world, 10, config) == reference);
    CHECK(train_toy<InBf16<sx::FullShard, sx::RoundStochastic>>(world, 10, config) == reference);
    CHECK(train_toy<InBf16<sx::FullShard>>(world, 10, config).weights != reference.weights);
  }
}

}  // namespace
