// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/core.hpp>

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

namespace shardexpr::detail {

/// Something of every rank's, in rank order: a few bytes, outside of steps.
/// Order:   collective; when it returns, it is done.
template <class T, class M, class S>
std::vector<T> exchange(Core<M, S>& core, const T& mine) {
  static_assert(std::is_trivially_copyable_v<T>);
  const std::size_t world = core.mesh.world().size();
  const auto memory =
      core.device->template allocate<std::byte>((1 + world) * sizeof(T), Purpose::other);
  const std::span<std::byte> sent = memory.span().first(sizeof(T)),
                             all = memory.span().subspan(sizeof(T));
  const Drain drain{core.timeline};
  core.visit_on_host(comm_stream, sent,
                     [&](std::span<std::byte> to) { std::memcpy(to.data(), &mine, sizeof(T)); });
  core.mesh.world().all_gather(core.begin(comm_stream, {"exchange"}),
                               std::span<const std::byte>{sent}, all);
  std::vector<T> result(world);
  core.visit_on_host(comm_stream, std::span<const std::byte>{all},
                     [&](std::span<const std::byte> from) {
                       std::memcpy(result.data(), from.data(), from.size());
                     });
  return result;
}

}  // namespace shardexpr::detail
