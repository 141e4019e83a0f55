// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/mesh.hpp>
#include <shardexpr/plan/step_counts.hpp>

#include <cstddef>
#include <utility>

namespace shardexpr::detail {

/// The memory that groups are gathered into; none where it is not needed.
template <class S, bool Needed, class T = typename S::precision::compute>
class GatherStorage {
  using Comm = typename S::communicator;
  using Device = typename S::device;

 public:
  GatherStorage(Device& device, Comm& comm, std::size_t count)
      : buffer_{comm.template gather_buffer<T>(device, count)} {}
  T* data() const { return buffer_.data(); }

 private:
  decltype(std::declval<Comm&>().template gather_buffer<T>(std::declval<Device&>(), 0)) buffer_;
};
template <class S, class T>
class GatherStorage<S, false, T> {
 public:
  template <class Device, class Comm>
  GatherStorage(Device&, Comm&, std::size_t) {}
  T* data() const { return nullptr; }
};

/// The memory that the K ranks of ReshardTo gather into, where it must be apart.
template <class S, class T = typename S::precision::compute, bool Needed = regathers_apart<S>>
class RegatherStorage : public GatherStorage<S, true, T> {
 public:
  template <class Device, class Comm>
  RegatherStorage(Device& device, Mesh<Comm>& mesh, std::size_t count)
      : GatherStorage<S, true, T>{device, mesh.reshard(), count} {}
};
template <class S, class T>
class RegatherStorage<S, T, false> {
 public:
  template <class Device, class Comm>
  RegatherStorage(Device&, Mesh<Comm>&, std::size_t) {}
};

}  // namespace shardexpr::detail
