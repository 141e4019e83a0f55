// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/macros.hpp>
#include <shardexpr/core/pack.hpp>
#include <shardexpr/device/concepts.hpp>
#include <shardexpr/optim/rounding.hpp>
#include <shardexpr/plan/step_summary.hpp>

#include <array>
#include <cstddef>
#include <span>
#include <type_traits>

namespace shardexpr {

/// What an update reads and writes, element by element.
template <class Storage, class Gradient, class Moment, class Compute, std::size_t M>
struct UpdateOperands {
  std::span<Storage> parameters;
  std::span<const Gradient> gradients;
  std::array<Moment*, M> moments;
  /// The parameters as units compute with them; unused where those are of `Storage`, too.
  Compute* copy = nullptr;

  /// Those of `count` elements from `first` on.
  UpdateOperands part(std::size_t first, std::size_t count) const {
    UpdateOperands part = *this;
    part.parameters = parameters.subspan(first, count);
    part.gradients = gradients.subspan(first, count);
    for (Moment*& moment : part.moments) moment += first;
    if (copy != nullptr) part.copy += first;
    return part;
  }
};

namespace detail {

/// An update of one element. Plain arrays, since device code may not call std::array's members;
/// inlined by demand, since clang++ finds rounding in 16 bits too long and would not vectorize.
template <class Update, class Rounding, class Storage, class Gradient, class Moment, class Compute,
          std::size_t M>
struct ElementUpdate {
  Update update;
  Rounding rounding;
  UpdateControl control;
  Storage* parameters;
  const Gradient* gradients;
  Moment* moments[M > 0 ? M : 1];
  Compute* copy;

  /// What becomes of the parameter; moments in place.
  [[gnu::always_inline]] SHARDEXPR_HOST_DEVICE Storage updated(float p, float g, float* m) const {
    g *= control.factor;
    g = g > control.limit ? control.limit : g;
    g = g < -control.limit ? -control.limit : g;
    update(p, g, m);
    return rounding.template round<Storage>(p, g);
  }

  [[gnu::always_inline]] SHARDEXPR_HOST_DEVICE void operator()(std::size_t i) const {
    float m[M > 0 ? M : 1];
    for (std::size_t k = 0; k < M; ++k) m[k] = static_cast<float>(moments[k][i]);
    const Storage rounded =
        updated(static_cast<float>(parameters[i]), static_cast<float>(gradients[i]), m);
    store(parameters[i], rounded);
    if constexpr (!std::is_same_v<Storage, Compute>)
      store(copy[i], static_cast<Compute>(static_cast<float>(rounded)));
    for (std::size_t k = 0; k < M; ++k) store(moments[k][i], static_cast<Moment>(m[k]));
  }

  // By packs, where a device has them (core/pack.hpp).
  static constexpr std::size_t pack_elements =
      pack_elements_of<Storage, Gradient, std::conditional_t<(M > 0), Moment, Storage>, Compute>;
  struct Loaded {
    Pack<Storage, pack_elements> p;
    Pack<Gradient, pack_elements> g;
    Pack<Moment, pack_elements> m[M > 0 ? M : 1];
  };
  bool can_pack() const {
    bool can = begin_packs<pack_elements>(parameters, gradients, copy);
    for (std::size_t k = 0; k < M; ++k) can = can && begin_packs<pack_elements>(moments[k]);
    return can;
  }
  SHARDEXPR_HOST_DEVICE Loaded load(std::size_t first) const {
    Loaded loaded;
    loaded.p = load_pack<pack_elements>(parameters + first);
    loaded.g = load_pack<pack_elements>(gradients + first);
    for (std::size_t k = 0; k < M; ++k) loaded.m[k] = load_pack<pack_elements>(moments[k] + first);
    return loaded;
  }
  SHARDEXPR_HOST_DEVICE void finish(std::size_t first, Loaded on) const {
    Pack<Compute, pack_elements> copied;
    for (std::size_t i = 0; i < pack_elements; ++i) {
      float m[M > 0 ? M : 1];
      for (std::size_t k = 0; k < M; ++k) m[k] = static_cast<float>(on.m[k].value[i]);
      on.p.value[i] =
          updated(static_cast<float>(on.p.value[i]), static_cast<float>(on.g.value[i]), m);
      copied.value[i] = static_cast<Compute>(static_cast<float>(on.p.value[i]));
      for (std::size_t k = 0; k < M; ++k) on.m[k].value[i] = static_cast<Moment>(m[k]);
    }
    store_pack(parameters + first, on.p);
    if constexpr (!std::is_same_v<Storage, Compute>) store_pack(copy + first, copied);
    for (std::size_t k = 0; k < M; ++k) store_pack(moments[k] + first, on.m[k]);
  }
};

/// The same before it is known what was decided.
template <class Element>
struct PreparedUpdate {
  Element element;
  const UpdateControl* control;

  bool can_pack() const { return element.can_pack(); }
  SHARDEXPR_HOST_DEVICE Element prepare(std::size_t& count) const {
    if (control->skips != 0) count = 0;
    Element prepared = element;
    prepared.control = *control;
    return prepared;
  }
};

}  // namespace detail

/// One pass over what a rank owns: reads p, g and the moments, writes p, the moments and the copy.
///
/// `update` is called for each element, in any order, on fp32 copies that the loop writes back, p
/// by `rounding`, moments rounded to nearest:
///
///   void operator()(float& p, float g, float* m) const;  // m[0] ... m[M - 1]
///   template <class T> T round(float p, float g) const;  // of `rounding`
///
/// Shapes:  parameters, gradients, each moment, copy (n,).
/// Order:   enqueued on the context's stream; `control` is read when its turn comes.
/// Cost:    every element is loaded and stored once. With fp32 throughout (3 + 2 M) 4 n bytes are
///          moved: 28 a parameter for AdamW, as many with a 16-bit gradient and copy.
template <class D, class Update, class Rounding, class Storage, class Gradient, class Moment,
          class Compute, std::size_t M>
void apply_update(const Context<D>& context, const Update& update, const Rounding& rounding,
                  const UpdateControl* control,
                  const UpdateOperands<Storage, Gradient, Moment, Compute, M>& on) {
  const std::size_t n = on.parameters.size();
  std::array<Access, M + 2> written{};
  written[0] = {on.parameters.data(), n * sizeof(Storage)};
  written[1] = {on.copy, std::is_same_v<Storage, Compute> ? 0 : n * sizeof(Compute)};
  for (std::size_t k = 0; k < M; ++k) written[k + 2] = {on.moments[k], n * sizeof(Moment)};
  using Element = detail::ElementUpdate<Update, Rounding, Storage, Gradient, Moment, Compute, M>;
  Element element{update, rounding, {}, on.parameters.data(), on.gradients.data(), {}, on.copy};
  for (std::size_t k = 0; k < M; ++k) element.moments[k] = on.moments[k];
  context.for_each(n, reads(on.gradients, std::span{control, 1}), Writes<M + 2>{written},
                   detail::PreparedUpdate<Element>{element, control});
}

}  // namespace shardexpr
