// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/type_name.hpp>
#include <shardexpr/engine/sharded.hpp>

#include <string>

namespace shardexpr {

namespace detail {
template <class Trainer>
struct name_of_trainer;
template <class M, class... Ps>
struct name_of_trainer<sharded<M, Strategy<Ps...>>> {
  static std::string get() {
    return "Sharded<" + type_name<M>() + ((", " + type_name<Ps>()) + ... + ">");
  }
};
template <auto Broken, class M, class... Ps>
struct name_of_trainer<Refused<Broken, M, Ps...>> {
  static std::string get() { return {}; }
};
}  // namespace detail

/// A trainer's type with every axis written out, as a program may write it:
/// `Sharded<Gpt, FullShard, AdamW, FullPrecision, On<Cpu>, Over<Threads>>`.
template <class Trainer>
std::string trainer_name() {
  return detail::name_of_trainer<Trainer>::get();
}

}  // namespace shardexpr
