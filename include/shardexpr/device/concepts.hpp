// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/exact_sum.hpp>
#include <shardexpr/core/source_location.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/account.hpp>
#include <shardexpr/device/label.hpp>

#include <concepts>
#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

namespace shardexpr {

namespace detail {
class OutsideFailure;  // device/outside_failure.hpp

struct AnyWork {
  void operator()() const {}
  void operator()(std::size_t) const {}
};
}  // namespace detail

/// For a stream whose operations wait for something else than memory, a disk: it has a thread where
/// others have none, so that what does not wait for it goes on.
struct OwnThread {};

/// Where memory lives and work runs. An object is one rank's device: it allocates, keeps the
/// account, and enqueues on streams; an event orders one stream behind another.
///
/// An operation names what it reads and writes and may start at any time after what was enqueued
/// before it on its stream; the host learns that it is done from `synchronize`. An event holds the
/// last point that was recorded in it; to wait for one that never was is nothing.
///
/// `D::shares_memory`: the host may read and write the device's memory as its own, when nothing is
/// under way there. Where it says no the engine goes through memory of the host beside the device.
///
/// `D::runs_on_host`, where it is there and true: an operation is run by a thread of the host, and
/// may be any callable. Elsewhere a kernel runs it: a named type of plain members, whose call is
/// marked SHARDEXPR_HOST_DEVICE. Such a device also has `D::for_each_at_once(count, functor)`, for
/// threads of the host beside it: it returns when the kernel has ended.
///
/// `D::available_bytes()`, where it is there: what could still be allocated. A trainer whose plan
/// needs more is refused.
///
/// `annotate`, `retire` and `note_live` tell a checking or tracing device what a stream is doing:
/// whom the next operations serve, that a block's content is dead, how much of an arena is in use.
/// Others do nothing there.
///
/// Errors:  what an operation throws is thrown by `synchronize` of its stream, and of every stream
///          that waited for it, and what was enqueued behind it does not run; a device that runs
///          it within the enqueuing call throws there. `drain` waits without throwing, for
///          destructors.
template <class D>
concept Device = requires(D& device, typename D::Stream& stream, typename D::Event& event,
                          std::span<const float> from, std::span<float> to, std::span<bf16> rounded,
                          ExactSum* sum) {
  requires std::constructible_from<typename D::Stream, D&, std::string_view>;
  { D::shares_memory } -> std::convertible_to<bool>;
  {
    device.template allocate<float>(std::size_t{1}, Purpose::other).data()
    } -> std::same_as<float*>;
  device.run(stream, reads(from), writes(to), detail::AnyWork{});
  device.for_each(stream, std::size_t{1}, reads(from), writes(to), detail::AnyWork{});
  device.copy(stream, from, to);
  device.cast(stream, from, rounded);
  device.fill_zero(stream, to);
  device.sum_squares(stream, from, sum);
  device.record(event, stream);
  device.wait(stream, event);
  device.synchronize(stream);
  device.drain(stream);
  device.annotate(stream, Label{});
  device.retire(stream, to);
  device.note_live(stream, Purpose::other, std::size_t{1});
  { device.account() } -> std::convertible_to<const MemoryAccount&>;
};

/// A device with a host beside it: memory that is plentiful, and operations on it that the host's
/// processor runs, on the device's streams and ordered by its events. `copy` of the device goes
/// between the two in either direction. A stream that is made with `OwnThread` may wait for a disk.
template <class D>
concept HasHost = Device<D> &&
    requires(D& device, typename D::Host& host, typename D::Stream& stream,
             std::span<const float> from, std::span<float> to, std::span<bf16> rounded,
             ExactSum* sum) {
  { device.host() } -> std::same_as<typename D::Host&>;
  requires std::same_as<typename D::Host::Stream, typename D::Stream>;
  requires std::constructible_from<typename D::Stream, D&, std::string_view, OwnThread>;
  { host.template allocate<float>(std::size_t{1}, Purpose::other).data() } -> std::same_as<float*>;
  host.run(stream, reads(from), writes(to), detail::AnyWork{});
  host.for_each(stream, std::size_t{1}, reads(from), writes(to), detail::AnyWork{});
  host.copy(stream, from, to);
  host.cast(stream, from, rounded);
  host.fill_zero(stream, to);
  host.sum_squares(stream, from, sum);
  host.retire(stream, to);
  host.note_live(stream, Purpose::other, std::size_t{1});
  { host.account() } -> std::convertible_to<const MemoryAccount&>;
};

namespace detail {
template <class D>
inline constexpr bool runs_on_host = requires {
  requires D::runs_on_host;
};
}  // namespace detail

/// What a unit's code gets to work with: a device and the stream to enqueue on, and for whom, which
/// communicators compare and name.
template <class D>
struct Context {
  D& device;
  typename D::Stream& stream;
  std::size_t unit = Label::no_unit;

  template <std::size_t R, std::size_t W, class Work>
  void run(const Reads<R>& reads, const Writes<W>& writes, Work&& work,
           SourceLocation where = SourceLocation::current()) const {
    device.run(stream, reads, writes, static_cast<Work&&>(work), where);
  }
  template <std::size_t R, std::size_t W, class Functor>
  void for_each(std::size_t count, const Reads<R>& reads, const Writes<W>& writes, Functor functor,
                SourceLocation where = SourceLocation::current()) const {
    device.for_each(stream, count, reads, writes, functor, where);
  }
  /// What a library enqueues by itself, where the device lets it: `launch(native stream)`.
  template <std::size_t R, std::size_t W, class Launch>
  void enqueue(const Reads<R>& reads, const Writes<W>& writes, Launch&& launch,
               SourceLocation where = SourceLocation::current()) const {
    const std::shared_ptr<const detail::OutsideFailure> no_danger;
    device.enqueue(stream, reads, writes, static_cast<Launch&&>(launch), no_danger, where);
  }
};

}  // namespace shardexpr
