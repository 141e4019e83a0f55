// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/type_name.hpp>
#include <shardexpr/engine/sharded.hpp>

#include <span>
#include <string>
#include <type_traits>

namespace shardexpr {

namespace detail {
template <class Trainer>
struct name_of_trainer;
// A policy that the pack would have without naming it, on an axis that few name.
template <class P, class... Ps>
consteval bool goes_without_saying() {
  using Axis = typename P::axis;
  if constexpr (is_one_of<Axis, axis::Sharding, axis::Optimizer, axis::Precision, axis::Device,
                          axis::Communicator>)
    return false;
  else  // a default depends on sharding, wrap and prefetch limit alone, never on its own axis
    return std::is_same_v<P, typename standard_of<axis_traits<Axis>, Ps...>::type>;
}
template <class P>
struct name_of_policy {
  static std::string get() { return type_name<P>(); }
};
// By the shortest of its names, with the dtypes' own.
template <class Storage, class Compute, class Reduce, class Optimizer, class Buffers>
struct name_of_policy<Precision<Storage, Compute, Reduce, Optimizer, Buffers>> {
  static std::string get() {
    using P = Precision<Storage, Compute, Reduce, Optimizer, Buffers>;
    const auto list = [](auto... names) {
      std::string all;
      ((all += (all.empty() ? "" : ", ") + std::string{names}), ...);
      return "<" + all + ">";
    };
    if (std::is_same_v<P, FullPrecision>) return "FullPrecision";
    if (std::is_same_v<P, MixedPrecision<Compute, Reduce>>)
      return "MixedPrecision" + list(dtype_name<Compute>, dtype_name<Reduce>);
    if (std::is_same_v<Buffers, Storage>)
      return "Precision" + list(dtype_name<Storage>, dtype_name<Compute>, dtype_name<Reduce>,
                                dtype_name<Optimizer>);
    return "Precision" + list(dtype_name<Storage>, dtype_name<Compute>, dtype_name<Reduce>,
                              dtype_name<Optimizer>, dtype_name<Buffers>);
  }
};
/// `policies`: what names each, or null for one that goes without saying.
inline std::string joined_trainer_name(const std::string& model,
                                       std::span<std::string (*const)()> policies) {
  std::string name = "Sharded<" + model;
  for (const auto name_of : policies)
    if (name_of != nullptr) name += ", " + name_of();
  return name + ">";
}
template <class M, class... Ps>
struct name_of_trainer<sharded<M, Strategy<Ps...>>> {
  static std::string get() {
    static constexpr std::string (*policies[])() = {
        goes_without_saying<Ps, Ps...>() ? nullptr : &name_of_policy<Ps>::get...};
    return joined_trainer_name(type_name<M>(), policies);
  }
};
template <auto Broken, class M, class... Ps>
struct name_of_trainer<Refused<Broken, M, Ps...>> {
  static std::string get() { return {}; }
};
}  // namespace detail

/// A trainer's type as a program may write it: sharding, optimizer, precision, device and
/// communicator always, of the other axes what is not the default.
/// `Sharded<Gpt, FullShard, AdamW, FullPrecision, On<Cpu>, Over<Threads>>`.
template <class Trainer>
std::string trainer_name() {
  return detail::name_of_trainer<Trainer>::get();
}

}  // namespace shardexpr
