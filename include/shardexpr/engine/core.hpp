// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/mesh.hpp>
#include <shardexpr/engine/fits.hpp>
#include <shardexpr/engine/state.hpp>
#include <shardexpr/engine/swap.hpp>
#include <shardexpr/engine/timeline.hpp>
#include <shardexpr/engine/transfer_bytes.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/plan/mesh_shape.hpp>
#include <shardexpr/plan/step_counts.hpp>

#include <cstddef>
#include <exception>
#include <span>
#include <type_traits>

namespace shardexpr::detail {

/// When an exception leaves a verb, nothing may run on that points to what the caller owns.
template <class Timeline>
struct Drain {
  Timeline& timeline;
  int exceptions = std::uncaught_exceptions();
  explicit Drain(Timeline& t) : timeline{t} {}
  Drain(const Drain&) = delete;
  Drain& operator=(const Drain&) = delete;
  ~Drain() {
    if (std::uncaught_exceptions() > exceptions) timeline.drain();
  }
};

/// What the parts of a trainer share: where things lie, who speaks to whom, what runs when.
template <class M, class S>
struct Core {
  using Device = typename S::device;
  using Comm = typename S::communicator;
  using Host = std::conditional_t<needs_host<S>, HostOf<Device>, Device>;
  using Timeline = typename TimelineOf<S>::type;
  using Mark = typename Timeline::Mark;
  using Needs = typename Timeline::Needs;

  Core(Device& on, Comm& comm, const typename M::Config& config, std::size_t micro_batches,
       const SwapOptions<S>& nvme)
      : device{&on},
        mesh{comm, mesh_shape<S>(comm.size())},
        layout{config, mesh.shape().shards, grouping_of<S, M>()},
        counts{count_step<S>(layout, mesh.shape(), micro_batches)},
        state{fitting<M, S>(on, config, comm.size(), micro_batches), layout, mesh.shard().rank(),
              gradients_in_place<S>(micro_batches)},
        swap{on, layout, state, nvme, comm.rank()},
        timeline{on, 16 * layout.group_count() + 8 * swap.chunk_count() + 64} {}

  /// To enqueue an operation on; reports and traces call it `label`.
  Context<Device> begin(StreamId stream, const Label& label) {
    Context<Device> on = timeline.context(stream);
    on.unit = label.unit;
    device->annotate(on.stream, label);
    return on;
  }
  /// The same for what the host computes.
  Context<Host> begin_on_host(StreamId stream, const Label& label) {
    const Context<Host> on = timeline.context(stream, host());
    device->annotate(on.stream, label);
    return on;
  }
  /// Copies between device and host, one way or the other, behind what the stream waits for.
  template <class T>
  void copy_up(const Label& label, std::span<const T> from, std::span<T> to) {
    const Context<Device> on = begin(up_stream, label);
    on.device.copy(on.stream, from, to);
    moved.to_device_bytes += from.size_bytes();
  }
  template <class T>
  void copy_down(const Label& label, std::span<const T> from, std::span<T> to) {
    const Context<Device> on = begin(down_stream, label);
    on.device.copy(on.stream, from, to);
    moved.to_host_bytes += from.size_bytes();
  }
  /// Calls `visit` with memory of the device as the host can read it, or, where T is not const,
  /// change it: behind all that was enqueued on the stream, and before this returns.
  /// Cost:    the host waits; where it cannot reach the device, memory of the host meanwhile.
  template <class T, class Visit>
  void visit_on_host(StreamId id, std::span<T> values, Visit visit) {
    timeline.synchronize(id);
    if constexpr (shares_memory<S>) {
      visit(values);
    } else {
      using Value = std::remove_const_t<T>;
      const auto seen = host().template allocate<Value>(values.size(), Purpose::transfers);
      const Drain drain{timeline};
      const Context<Device> on = timeline.context(id);
      on.device.copy(on.stream, std::span<const Value>{values}, seen.span());
      timeline.synchronize(id);
      visit(std::span<T>{seen.span()});
      if constexpr (!std::is_const_v<T>) {
        on.device.copy(on.stream, std::span<const Value>{seen.span()}, values);
        timeline.synchronize(id);
      }
    }
  }
  Host& host() {
    if constexpr (needs_host<S>)
      return device->host();
    else
      return *device;
  }

  Device* device;
  Mesh<Comm> mesh;
  Layout<M> layout;
  StepCounts counts;  // how large arenas must be
  State<S, M, Device> state;
  Swap<S, M> swap;
  TransferBytes moved;  // between device and host
  Timeline timeline;    // last: what it runs touches the others
};

}  // namespace shardexpr::detail
