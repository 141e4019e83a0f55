// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/comm/threads.hpp>

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <utility>

namespace sx = shardexpr;

/// A user's own communicator: `Threads` with a hook before each collective. Tests record with it,
/// and make a chosen rank fail at a chosen call.
class Observed {
 public:
  using Hook = std::function<void(const std::string& collective)>;
  static constexpr bool gather_is_shared = sx::Threads::gather_is_shared;

  Observed(sx::Threads&& comm, Hook hook) : owned_{std::move(comm)}, hook_{std::move(hook)} {}

  std::size_t rank() const { return owned_.rank(); }
  std::size_t size() const { return owned_.size(); }
  const sx::Traffic& traffic() const { return owned_.traffic(); }

  template <class T, class D>
  void all_gather(const sx::Context<D>& c, std::span<const std::type_identity_t<T>> a,
                  std::span<T> b) {
    hook_("all_gather");
    owned_.all_gather(c, a, b);
  }
  template <class T, class D>
  auto gather_buffer(D& device, std::size_t count) {
    hook_("gather_buffer");
    return owned_.gather_buffer<T>(device, count);
  }
  template <class T, class D>
  void gather(const sx::Context<D>& c, std::span<const std::type_identity_t<T>> a, std::span<T> b) {
    hook_("gather");
    owned_.gather(c, a, b);
  }
  template <class T, class D>
  void reduce_scatter(const sx::Context<D>& c, std::span<const std::type_identity_t<T>> a,
                      std::span<T> b, sx::Reduction r) {
    hook_("reduce_scatter");
    owned_.reduce_scatter(c, a, b, r);
  }
  template <class T, class D>
  void all_reduce(const sx::Context<D>& c, std::span<T> a, sx::Reduction r) {
    hook_("all_reduce");
    owned_.all_reduce(c, a, r);
  }
  template <class T, class D>
  void broadcast(const sx::Context<D>& c, std::span<T> a, std::size_t root) {
    hook_("broadcast");
    owned_.broadcast(c, a, root);
  }
  template <class T, class D>
  void all_to_all(const sx::Context<D>& c, std::span<const std::type_identity_t<T>> a,
                  std::span<T> b) {
    hook_("all_to_all");
    owned_.all_to_all(c, a, b);
  }
  template <class D>
  void barrier(const sx::Context<D>& c) {
    hook_("barrier");
    owned_.barrier(c);
  }
  Observed split(int color, int key) { return {owned_.split(color, key), hook_}; }

 private:
  sx::Threads owned_;
  Hook hook_;
};
