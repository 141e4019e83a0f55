// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <utility>

namespace shardexpr::detail {

/// The memory that units are gathered into; none where parameters are not sharded.
template <class S, bool Needed = S::sharding::parameters>
class GatherStorage {
  using T = typename S::precision::compute;
  using Comm = typename S::communicator;
  using Device = typename S::device;

 public:
  GatherStorage(Device& device, Comm& comm, std::size_t count)
      : buffer_{comm.template gather_buffer<T>(device, count)} {}
  T* data() const { return buffer_.data(); }

 private:
  decltype(std::declval<Comm&>().template gather_buffer<T>(std::declval<Device&>(), 0)) buffer_;
};
template <class S>
class GatherStorage<S, false> {
 public:
  template <class Device, class Comm>
  GatherStorage(Device&, Comm&, std::size_t) {}
};

}  // namespace shardexpr::detail
