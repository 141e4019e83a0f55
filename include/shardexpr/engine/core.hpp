// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/mesh.hpp>
#include <shardexpr/engine/state.hpp>
#include <shardexpr/engine/timeline.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/plan/mesh_shape.hpp>
#include <shardexpr/plan/step_counts.hpp>

#include <cstddef>
#include <exception>

namespace shardexpr::detail {

/// What the parts of a trainer share: where things lie, who speaks to whom, what runs when.
template <class M, class S>
struct Core {
  using Device = typename S::device;
  using Comm = typename S::communicator;
  static constexpr std::size_t stream_count = group_of<typename S::sharding> != 0 ? 3 : 2;
  using Timeline = detail::Timeline<Device, stream_count>;
  using Mark = typename Timeline::Mark;
  using Needs = typename Timeline::Needs;

  Core(Device& on, Comm& comm, const typename M::Config& config, std::size_t micro_batches)
      : device{&on},
        mesh{comm, mesh_shape<S>(comm.size())},
        layout{config, mesh.shape().shards, grouping_of<S, M>()},
        counts{count_step<S>(layout, mesh.shape(), micro_batches)},
        state{on, layout, mesh.shard().rank(), gradients_in_place<S>(micro_batches)},
        timeline{on, 16 * layout.group_count() + 64} {}

  /// To enqueue an operation on; reports and traces call it `label`.
  Context<Device> begin(StreamId stream, const Label& label) {
    const Context<Device> on = timeline.context(stream);
    device->annotate(on.stream, label);
    return on;
  }

  Device* device;
  Mesh<Comm> mesh;
  Layout<M> layout;
  StepCounts counts;  // how large arenas must be
  State<S, M, Device> state;
  Timeline timeline;
};

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

}  // namespace shardexpr::detail
