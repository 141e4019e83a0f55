// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/account.hpp>

#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

namespace sx = shardexpr;

/// `Threads` as if between machines: no memory is shared, each rank gathers into its own.
class Unshared {
 public:
  static constexpr bool gather_is_shared = false;

  explicit Unshared(sx::Threads&& comm) : owned_{std::move(comm)} {}

  std::size_t rank() const { return owned_.rank(); }
  std::size_t size() const { return owned_.size(); }
  const sx::Traffic& traffic() const { return owned_.traffic(); }

  template <class T, class D>
  void all_gather(const sx::Context<D>& c, std::span<const std::type_identity_t<T>> a,
                  std::span<T> b) {
    owned_.all_gather(c, a, b);
  }
  template <class T, class D>
  auto gather_buffer(D& device, std::size_t count) {
    return device.template allocate<T>(count, sx::Purpose::gathered);
  }
  template <class T, class D>
  void gather(const sx::Context<D>& c, std::span<const std::type_identity_t<T>> a, std::span<T> b) {
    owned_.all_gather(c, a, b);
  }
  template <class T, class D>
  void reduce_scatter(const sx::Context<D>& c, std::span<const std::type_identity_t<T>> a,
                      std::span<T> b, sx::Reduction r) {
    owned_.reduce_scatter(c, a, b, r);
  }
  template <class T, class D>
  void all_reduce(const sx::Context<D>& c, std::span<T> a, sx::Reduction r) {
    owned_.all_reduce(c, a, r);
  }
  template <class T, class D>
  void broadcast(const sx::Context<D>& c, std::span<T> a, std::size_t root) {
    owned_.broadcast(c, a, root);
  }
  template <class T, class D>
  void all_to_all(const sx::Context<D>& c, std::span<const std::type_identity_t<T>> a,
                  std::span<T> b) {
    owned_.all_to_all(c, a, b);
  }
  template <class D>
  void barrier(const sx::Context<D>& c) {
    owned_.barrier(c);
  }
  Unshared split(int color, int key) { return Unshared{owned_.split(color, key)}; }

 private:
  sx::Threads owned_;
};
