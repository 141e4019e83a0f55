// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "rounding.hpp"

namespace harness {

struct AttentionSizes {
  std::size_t batch, length, heads, head;
};

/// Roundings of an attention in fp32 that depend on its order.
struct AttentionRoundings {
  std::size_t exponent;  // of a score and what makes it an exponent, besides the sum over the head
  std::size_t sum;       // of a row's probabilities
  std::size_t out;       // of a row's out, at each of its terms
};

/// How far the results of an attention in T may be from those in double on the same inputs, its
/// backward on the same out and lse. Probabilities are rounded to T before v is multiplied by them,
/// and so are they and the gradient of the scores in backward.
///
/// `exact` has tensors in double: qkv (B, T, 3 C), out and dout (B, T, C), lse (B, heads, T).
template <class T>
class AttentionError {
 public:
  /// Of an element: the terms that were rounded to T, and what else is lost.
  struct Error {
    double rounded = 0, lost = 0;

    /// A term x, known to within `before`, is rounded and multiplied by y, and joins a sum.
    void add(double x, double before, double y, std::size_t summands) {
      x = std::abs(x) + before, y = std::abs(y);
      rounded += x * y;
      lost += (before + smallest_number<T> / 2) * y + sum_loss(x * y, 2 * summands);
    }
  };
  std::vector<double> lse;
  std::vector<Error> out, dqkv;

  template <class Exact>
  AttentionError(const AttentionSizes& c, const Exact& exact, const AttentionRoundings& roundings)
      : lse(exact.lse.count()), out(exact.out.count()), dqkv(exact.qkv.count()) {
    const std::size_t head = c.head, embed = c.heads * head;
    const double scale = 1 / std::sqrt(static_cast<double>(head));
    for (std::size_t b = 0; b < c.batch; ++b)
      for (std::size_t h = 0; h < c.heads; ++h)
        for (std::size_t row = 0; row < c.length; ++row) {
          const std::size_t first = b * c.length, o = (first + row) * embed + h * head;
          const std::size_t l = (b * c.heads + h) * c.length + row;
          const auto at = [&](std::size_t r, std::size_t part) {
            return ((first + r) * 3 + part) * embed + h * head;
          };
          const auto dot = [&](const double* x, const double* y, double& size) {
            double sum = size = 0;
            for (std::size_t i = 0; i < head; ++i)
              sum += x[i] * y[i], size += std::abs(x[i] * y[i]);
            return sum;
          };
          const double* const qkv = exact.qkv.view.data;
          const double* const dout = exact.dout.view.data + o;
          // What an exponent may be off, and with it a probability, of itself: that of the largest
          // score, for it enters the sum that divides.
          double exponent_loss = 0, size = 0;
          for (std::size_t key = 0; key <= row; ++key) {
            dot(qkv + at(row, 0), qkv + at(key, 1), size);
            exponent_loss = std::max(exponent_loss, sum_loss(size * scale + std::abs(exact.lse[l]),
                                                             2 * head + roundings.exponent));
          }
          lse[l] = exponent_loss + sum_loss(1, roundings.sum);
          const double p_loss = 2 * exponent_loss + sum_loss(1, roundings.sum + 8);
          double mean_size = 0, dp_size = 0;
          const double mean = dot(dout, exact.out.view.data + o, mean_size);
          for (std::size_t key = 0; key <= row; ++key) {
            const double score = dot(qkv + at(row, 0), qkv + at(key, 1), size) * scale;
            const double dp = dot(dout, qkv + at(key, 2), dp_size);
            const double p = std::exp(score - exact.lse[l]), ds = p * (dp - mean) * scale;
            const double ds_loss =
                p * scale * (dp_size + mean_size) * (p_loss + sum_loss(1, 2 * head + 4));
            for (std::size_t i = 0; i < head; ++i) {
              out[o + i].add(p, p * p_loss, qkv[at(key, 2) + i], roundings.out);
              dqkv[at(row, 0) + i].add(ds, ds_loss, qkv[at(key, 1) + i], c.length);
              dqkv[at(key, 1) + i].add(ds, ds_loss, qkv[at(row, 0) + i], c.length);
              dqkv[at(key, 2) + i].add(p, p * p_loss, dout[i], c.length);
            }
          }
        }
  }
};

/// The largest difference, as a part of what was allowed.
template <class T, class Error>
double worst_of(const sx::Tensor<T>& got, const Owned<double>& exact,
                const std::vector<Error>& error) {
  Worst worst;
  for (std::size_t i = 0; i < exact.count(); ++i)
    worst.see(got[i], exact[i], error[i].lost, error[i].rounded);
  return worst.ratio();
}

}  // namespace harness
