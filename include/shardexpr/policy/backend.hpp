// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>

namespace shardexpr {

class Cpu;      // device/cpu.hpp
class Threads;  // comm/threads.hpp
class Solo;     // comm/solo.hpp

/// Where memory lives and work runs. The device's own header must be included where a trainer is
/// made; naming it here needs nothing.
template <class D>
struct On {
  using axis = axis::Device;
  using device = D;
};

/// What ranks speak through.
template <class C>
struct Over {
  using axis = axis::Communicator;
  using communicator = C;
};

/// `device`: a type that is a `Device` where a trainer is made.
template <class P>
concept DevicePolicy = OnAxis<P, axis::Device> && requires {
  typename P::device;
};
/// `communicator`: a type that is a `Communicator` where a trainer is made.
template <class P>
concept CommunicatorPolicy = OnAxis<P, axis::Communicator> && requires {
  typename P::communicator;
};

template <>
struct axis_traits<axis::Device> {
  template <class P>
  static constexpr bool accepts = DevicePolicy<P>;
  using standard = On<Cpu>;
};
template <>
struct axis_traits<axis::Communicator> {
  template <class P>
  static constexpr bool accepts = CommunicatorPolicy<P>;
  using standard = Over<Threads>;
};

}  // namespace shardexpr
