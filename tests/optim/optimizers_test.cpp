// SPDX-License-Identifier: Apache-2.0
// Every optimizer against PyTorch's, in fp32 and in bf16: tests/fixtures/optimizers_fixture.py.
//
// How far two correct runs may be apart is derived, not chosen. `Reference` is the published
// formula on `Bounded` numbers: exact values, and a bound on the error of a computation that rounds
// each result to the dtype. PyTorch does that, and rounds to bf16 what it stores after each of its
// operations. Ours rounds each operation to fp32 and p and the moments to the dtype, which is less.
// So both lie within the bound of the exact value, and within twice the bound of each other.
#include <shardexpr/device/cpu.hpp>
#include <shardexpr/model/initialize.hpp>
#include <shardexpr/optim/optimizers.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../support/bounded.hpp"
#include "../support/json_fixture.hpp"
#include <doctest/doctest.h>

namespace {

namespace sx = shardexpr;

// The formulas, one element each: an independent second writing of optim/.
// -------------------------

struct AdamReference {
  bool decoupled;
  double lr, b1, b2, eps, wd;
  Bounded m{}, v{};

  void operator()(Bounded& p, Bounded g, std::size_t t) {
    const auto c = Bounded::constant;
    const double n = static_cast<double>(t);
    if (decoupled)
      p = p * c(1 - lr * wd);
    else
      g = g + c(wd) * p;
    // PyTorch's m + (1 - b1) (g - m) has a rounding more than this form.
    m = c(b1) * m + (c(1 - b1) * g).rounded();
    v = c(b2) * v + c(1 - b2) * g * g;
    const Bounded root = sqrt(v) * c(1 / std::sqrt(1 - std::pow(b2, n)));
    p = p - c(lr / (1 - std::pow(b1, n))) * (m / (root + c(eps)));
  }
};
struct SgdReference {
  double lr, momentum, dampening, wd;
  bool nesterov;
  Bounded m{};

  void operator()(Bounded& p, Bounded g, std::size_t t) {
    const auto c = Bounded::constant;
    g = g + c(wd) * p;
    m = t == 1 ? g : c(momentum) * m + c(1 - dampening) * g;
    p = p - c(lr) * (momentum == 0 ? g : nesterov ? g + c(momentum) * m : m);
  }
};
struct LionReference {
  double lr, b1, b2, wd;
  Bounded m{};

  void operator()(Bounded& p, const Bounded& g, std::size_t) {
    const auto c = Bounded::constant;
    const Bounded direction = c(b1) * m + c(1 - b1) * g;
    REQUIRE(std::abs(direction.value()) > direction.error());  // else the sign would hang on it
    p = p * c(1 - lr * wd) - c(direction.value() > 0 ? lr : -lr);
    m = c(b2) * m + c(1 - b2) * g;
  }
};
struct AdagradReference {
  double lr, lr_decay, eps, wd;
  Bounded s{};

  void operator()(Bounded& p, Bounded g, std::size_t t) {
    const auto c = Bounded::constant;
    g = g + c(wd) * p;
    s = s + g * g;
    p = p - c(lr / (1 + static_cast<double>(t - 1) * lr_decay)) * (g / (sqrt(s) + c(eps)));
  }
};

// The runs ----------------------------------------------------------------------------------------

struct Data {
  std::uint64_t seed;
  std::size_t count;
  std::vector<std::size_t> steps;  // that are shown

  template <class T>
  std::vector<T> values(const std::string& name, sx::Init init) const {
    std::vector<T> all(count);
    for (std::size_t i = 0; i < count; ++i)
      all[i] = T(sx::initial_value(seed, sx::hash_of(name), i, init));
    return all;
  }
  template <class T>
  std::vector<T> parameters() const {
    return values<T>("parameter", sx::normal(1));
  }
  template <class T>
  std::vector<T> gradients(std::size_t t) const {
    return values<T>("gradient." + std::to_string(t), {0.25f, 1});
  }
};

/// Parameters, gradients and moments of `T`, by `apply_update`; `seen(s, p)` after each shown step.
template <class Policy, class T, class Seen>
void run(const Data& data, const typename Policy::Options& options, Seen seen) {
  sx::Cpu device;
  sx::Cpu::Stream stream;
  const sx::Context<sx::Cpu> on{device, stream};
  const sx::UpdateControl control;
  std::vector<T> p = data.parameters<T>();
  std::array<std::vector<T>, Policy::moments> moments;
  std::array<T*, Policy::moments> m{};
  for (std::size_t k = 0; k < m.size(); ++k) {
    moments[k].assign(data.count, T(0.0f));
    m[k] = moments[k].data();
  }
  for (std::size_t t = 1, s = 0; s < data.steps.size(); ++t) {
    const std::vector<T> g = data.gradients<T>(t);
    sx::apply_update(on, typename Policy::Update{options, t}, sx::NearestRounding{}, &control,
                     sx::UpdateOperands<T, T, T, T, Policy::moments>{p, g, m});
    if (t == data.steps[s]) seen(s++, p);
  }
}
template <class T, class Reference>
std::vector<std::vector<Bounded>> bounds(const Data& data, const Reference& reference) {
  std::vector<std::vector<Bounded>> shown(data.steps.size());
  for (std::size_t i = 0; i < data.count; ++i) {
    Reference update = reference;
    Bounded p{data.parameters<T>()[i]};
    for (std::size_t t = 1, s = 0; s < data.steps.size(); ++t) {
      update(p, Bounded{data.gradients<T>(t)[i]}, t);
      if (t == data.steps[s]) shown[s++].push_back(p);
    }
  }
  return shown;
}

template <class Policy, class T, class Reference>
void compare(const Data& data, const typename Policy::Options& options, const Reference& reference,
             const Json& torch, double unit) {
  Bounded::unit = unit;
  const auto exact = bounds<T>(data, reference);
  double widest = 0;
  run<Policy, T>(data, options, [&](std::size_t s, const std::vector<T>& p) {
    for (std::size_t i = 0; i < data.count; ++i) {
      CAPTURE(data.steps[s]);
      CAPTURE(i);
      const double theirs = torch.array()[s].array()[i].real();
      const double ours = static_cast<double>(p[i]), bound = exact[s][i].error();
      CHECK(std::abs(theirs - exact[s][i].value()) <= bound);
      CHECK(std::abs(ours - exact[s][i].value()) <= bound);
      CHECK(std::abs(ours - theirs) <= 2 * bound);
      widest = std::max(widest, bound);
    }
  });
  CHECK(widest < 128 * unit);  // a bound that everything keeps would show nothing
}
template <class Policy, class Reference>
void compare(const Data& data, const Json& torch, const typename Policy::Options& options,
             const Reference& reference) {
  Policy::check(options);
  compare<Policy, sx::fp32>(data, options, reference, torch["fp32"], 0x1p-24);
  compare<Policy, sx::bf16>(data, options, reference, torch["bf16"], 0x1p-8);
}

TEST_CASE("every optimizer takes PyTorch's steps, within the rounding of the dtype") {
  const Json json = json_fixture("optimizers.json");
  Data data{json["seed"].count(), json["count"].count(), {}};
  for (const Json& step : json["steps"].array()) data.steps.push_back(step.count());
  std::string seen;
  for (const Json& one : json["cases"].array()) {
    const std::string name = one["optimizer"].string();
    CAPTURE(name);
    seen += name + " ";
    const Json& o = one["options"];
    const auto real = [&](const char* option) { return o[option].real(); };
    const auto number = [&](const char* option) { return static_cast<float>(real(option)); };
    const double lr = real("learning_rate"), wd = real("weight_decay");
    const float rate = number("learning_rate"), decay = number("weight_decay");
    if (name == "adamw" || name == "adam") {
      const AdamReference reference{name == "adamw", lr, real("beta1"), real("beta2"),
                                    real("epsilon"), wd};
      const float b1 = number("beta1"), b2 = number("beta2"), epsilon = number("epsilon");
      if (name == "adamw")
        compare<sx::AdamW>(data, one, {rate, b1, b2, epsilon, decay}, reference);
      else
        compare<sx::Adam>(data, one, {rate, b1, b2, epsilon, decay}, reference);
    } else if (name == "sgd") {
      compare<sx::Sgd>(data, one, {rate, decay}, SgdReference{lr, 0, 0, wd, false});
    } else if (name == "sgd_momentum") {
      const bool nesterov = o["nesterov"].count() == 1;
      compare<sx::SgdMomentum>(data, one,
                               {rate, number("momentum"), number("dampening"), nesterov, decay},
                               SgdReference{lr, real("momentum"), real("dampening"), wd, nesterov});
    } else if (name == "lion") {
      compare<sx::Lion>(data, one, {rate, number("beta1"), number("beta2"), decay},
                        LionReference{lr, real("beta1"), real("beta2"), wd});
    } else {
      REQUIRE(name == "adagrad");
      compare<sx::Adagrad>(data, one,
                           {rate, number("learning_rate_decay"), number("epsilon"), decay},
                           AdagradReference{lr, real("learning_rate_decay"), real("epsilon"), wd});
    }
  }
  CHECK(seen == "adamw adam sgd sgd_momentum sgd_momentum lion adagrad ");
}

}  // namespace
