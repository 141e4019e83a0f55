// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/engine/core.hpp>

#include <algorithm>
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

/// What rank 0 has in memory of the host becomes every rank's, outside of steps.
/// Order:   collective; when it returns, it is done.
/// Cost:    as much memory of the device meanwhile.
template <class T, class M, class S>
void broadcast_from_rank0(Core<M, S>& core, std::span<T> values) {
  const auto memory = core.device->template allocate<T>(values.size(), Purpose::other);
  const Drain drain{core.timeline};
  if (core.mesh.world().rank() == 0)
    core.visit_on_host(comm_stream, memory.span(), [&](std::span<T> to) {
      std::copy(values.begin(), values.end(), to.begin());
    });
  core.mesh.world().broadcast(core.begin(comm_stream, {"broadcast"}), memory.span(), 0);
  core.visit_on_host(comm_stream, std::span<const T>{memory.span()}, [&](std::span<const T> from) {
    std::copy(from.begin(), from.end(), values.begin());
  });
}

}  // namespace shardexpr::detail
