// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call.hpp>
#include <shardexpr/comm/concepts.hpp>
#include <shardexpr/device/cpu.hpp>

#include <cstddef>
#include <span>
#include <type_traits>

namespace shardexpr {

/// One rank alone. Needs nothing, sends nothing: a collective copies what it moves, if it moves.
///
/// Shapes:  as in `Communicator`, with W = 1.
/// Errors:  throws ConfigError for spans that do not fit, roots above 0 and means of integers.
/// Cost:    one copy, none in place.
class Solo {
 public:
  static constexpr bool gather_is_shared = false;

  std::size_t rank() const { return 0; }
  std::size_t size() const { return 1; }
  const Traffic& traffic() const { return traffic_; }

  template <class T, class D>
  void all_gather(const Context<D>& ctx, std::span<const std::type_identity_t<T>> shard,
                  std::span<T> full) {
    move<T>(ctx, call<T>(detail::Collective::all_gather, shard.size()), shard, full);
  }

  template <class T, class D>
  auto gather_buffer(D& device, std::size_t count) {
    ++sequence_;
    return device.template allocate<T>(count, Purpose::gathered);
  }

  template <class T, class D>
  void gather(const Context<D>& ctx, std::span<const std::type_identity_t<T>> shard,
              std::span<T> full) {
    move<T>(ctx, call<T>(detail::Collective::gather, shard.size()), shard, full);
  }

  template <detail::Summable T, class D>
  void reduce_scatter(const Context<D>& ctx, std::span<const std::type_identity_t<T>> full,
                      std::span<T> shard, Reduction reduction) {
    auto call = this->call<T>(detail::Collective::reduce_scatter, shard.size());
    call.reduction = reduction;
    detail::check_reduction<T>(call);
    move<T>(ctx, call, full, shard);
  }

  template <detail::Summable T, class D>
  void all_reduce(const Context<D>&, std::span<T> values, Reduction reduction) {
    auto call = this->call<T>(detail::Collective::all_reduce, values.size());
    call.reduction = reduction;
    detail::check_reduction<T>(call);
  }

  template <class T, class D>
  void broadcast(const Context<D>&, std::span<T> values, std::size_t root) {
    auto call = this->call<T>(detail::Collective::broadcast, values.size());
    call.root = root;
    detail::check_root(call, 1);
  }

  template <class T, class D>
  void all_to_all(const Context<D>& ctx, std::span<const std::type_identity_t<T>> from,
                  std::span<T> to) {
    const auto call = this->call<T>(detail::Collective::all_to_all, to.size());
    detail::check_disjoint<T>(call, from, to);
    move<T>(ctx, call, from, to);
  }

  template <class D>
  void barrier(const Context<D>&) {
    ++sequence_;
  }

  Solo split(int, int) {
    ++sequence_;
    return {};
  }

 private:
  template <class T>
  detail::Call call(detail::Collective collective, std::size_t count) {
    return detail::call_of<T>(collective, ++sequence_, count);
  }

  template <class T, class D>
  void move(const Context<D>& ctx, const detail::Call& call, std::span<const T> from,
            std::span<T> to) {
    detail::check_pieces(call, 1, "full", from.size(), to.size());
    detail::check_in_place<T>(call, from, to, 0);
    if (from.data() != to.data()) ctx.device.copy(ctx.stream, from, to);
  }

  std::size_t sequence_ = 0;
  Traffic traffic_;
};

static_assert(Communicator<Solo, Cpu>);

}  // namespace shardexpr
