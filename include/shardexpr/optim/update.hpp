// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/device/concepts.hpp>

#include <array>
#include <cstddef>
#include <span>

namespace shardexpr {

/// One pass over what a rank owns: reads p, g and the moments, writes p and the moments.
///
/// `update` is called for each element, in any order, on copies that the loop writes back:
///
///   void operator()(float& p, float g, float* m) const;  // m[0] ... m[M - 1]
///
/// Shapes:  p, g, each moment (n,).
/// Order:   enqueued on the context's stream.
/// Cost:    (3 + 2 M) n elements moved, M the number of moments: 28 bytes a parameter for AdamW.
template <class D, class Update, std::size_t M>
void apply_update(const Context<D>& context, const Update& update, std::span<float> p,
                  std::span<const float> g, const std::array<float*, M>& moments) {
  float* const param = p.data();
  const float* const grad = g.data();
  std::array<Access, M + 1> written{};
  written[0] = {param, p.size_bytes()};
  for (std::size_t k = 0; k < M; ++k) written[k + 1] = {moments[k], p.size_bytes()};
  context.for_each(p.size(), reads(g), Writes<M + 1>{written}, [=](std::size_t i) {
    float m[M > 0 ? M : 1];
    for (std::size_t k = 0; k < M; ++k) m[k] = moments[k][i];
    float x = param[i];
    update(x, grad[i], m);
    param[i] = x;
    for (std::size_t k = 0; k < M; ++k) moments[k][i] = m[k];
  });
}

}  // namespace shardexpr
