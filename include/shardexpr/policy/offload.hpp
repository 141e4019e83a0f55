// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/policy/axis.hpp>

#include <concepts>
#include <cstddef>

namespace shardexpr {

/// Where a kind of state lies between the moments at which it is used.
enum class Place { device, host, nvme };

/// A place that a policy names.
template <class P>
concept PlaceOfState = requires {
  { P::place } -> std::convertible_to<Place>;
};

/// The device's memory.
struct OnDevice {
  static constexpr Place place = Place::device;
};

/// The host's memory; of a CPU the same memory, under an account of its own.
struct OnHost {
  static constexpr Place place = Place::host;
};

/// A file on a disk. Its directory is a run-time value, `Options::nvme`. Parameters pass through
/// the host's memory group by group, an optimizer's state 2^20 elements at a time.
struct OnNvme {
  static constexpr Place place = Place::nvme;
};

/// For the optimizer: the same, `Elements` at a time, a multiple of 32768. Three times as many are
/// in memory: one chunk is read while another is updated and a third written.
template <std::size_t Elements>
struct OnNvmeBy {
  static constexpr Place place = Place::nvme;
  static constexpr std::size_t chunk_elements = Elements;
};

/// For the optimizer: of the elements that a rank updates, the host updates this fraction, rounded
/// down to an element, and the device meanwhile the others. DeepSpeed's twin-flow `ratio`, there in
/// whole sub-groups.
template <std::size_t Numerator, std::size_t Denominator>
struct Partly {
  static constexpr Place place = Place::host;
  static constexpr std::size_t numerator = Numerator, denominator = Denominator;
};

/// Where parameters lie that units do not compute with just now, and where the optimizer's state
/// does: moments, reduced gradients, and parameters in storage dtype where they are kept apart. It
/// is updated where it lies, from a disk on the host.
template <class P>
concept OffloadPolicy = OnAxis<P, axis::Offload> && PlaceOfState<typename P::parameters> &&
    PlaceOfState<typename P::optimizer>;

/// Each state where it is wanted. `Parameters` goes to the device for every gather, in compute
/// dtype; gradients come down in the reduce dtype as soon as they are reduced; an optimizer that is
/// elsewhere than the parameters sends them in compute dtype after its update.
///
/// Errors:  a disk's are IoError; see io/swap_file.hpp.
/// Source:  Ren et al., ZeRO-Offload, ATC 2021; Rajbhandari et al., ZeRO-Infinity, SC21.
template <class Parameters, class Optimizer>
struct Offload {
  using axis = axis::Offload;
  using parameters = Parameters;
  using optimizer = Optimizer;
};

/// All between steps lies on the device. The default.
using OffloadNone = Offload<OnDevice, OnDevice>;
/// All between steps lies on the host. FSDP's CPUOffload.
using OffloadAll = Offload<OnHost, OnHost>;

namespace detail {
template <class P>
inline constexpr bool is_partial = requires {
  P::denominator;
};
/// Elements of an optimizer's state on a disk that pass through memory at a time.
template <class P>
inline constexpr std::size_t chunk_of = std::size_t{1} << 20;
template <class P>
  requires requires { P::chunk_elements; }
inline constexpr std::size_t chunk_of<P> = P::chunk_elements;
/// Chunks begin at whole blocks of the file in every dtype.
inline constexpr std::size_t chunk_step = 32768;

template <class S>
inline constexpr Place parameters_place = S::offload::parameters::place;
template <class S>
inline constexpr Place optimizer_place = S::offload::optimizer::place;
/// The device updates something.
template <class S>
inline constexpr bool device_updates =
    optimizer_place<S> == Place::device || is_partial<typename S::offload::optimizer>;
/// Something lies elsewhere than on the device; on a disk.
template <class S>
inline constexpr bool is_offloaded =
    parameters_place<S> != Place::device || optimizer_place<S> != Place::device;
template <class S>
inline constexpr bool is_on_disk =
    parameters_place<S> == Place::nvme || optimizer_place<S> == Place::nvme;
}  // namespace detail

template <>
struct axis_traits<axis::Offload> {
  template <class P>
  static constexpr bool accepts = OffloadPolicy<P>;
  using standard = OffloadNone;
};

}  // namespace shardexpr
