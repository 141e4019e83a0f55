// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/agree.hpp>
#include <shardexpr/engine/core.hpp>
#include <shardexpr/engine/exchange.hpp>
#include <shardexpr/engine/kept_state.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>

namespace shardexpr {

/// Every rank sees the files: each reads what it keeps, and no more.
struct LoadOnEachRank {};
/// Rank 0 alone sees the files: it reads the model flat by flat, and all take what they keep from
/// a broadcast. No rank ever holds more than the largest flat.
///
/// Source:  FSDP's cpu_ram_efficient_loading with sync_module_states.
struct LoadOnRank0 {};

namespace detail {

/// Fills what every rank keeps with what `read(kind, name, first, span<T>)` gives of parameters and
/// moments: in every rank, or in rank 0 alone.
///
/// Order:   collective.
/// Errors:  what `read` throws, on every rank.
template <class M, class S, class Read>
void fill_state(Core<M, S>& core, LoadOnEachRank, const char* doing, Read read) {
  agree(core, doing, [&] {
    KeptState<SwapAccess::writes, M, S>{core}.visit(
        StateShare::all, [&](const StateStretch& stretch, auto values) {
          read(stretch.kind, *stretch.name, stretch.first, values);
        });
  });
}

/// Cost:    a broadcast of the state; memory of the device for the largest flat and its moments.
template <class M, class S, class Read>
void fill_state(Core<M, S>& core, LoadOnRank0, const char* doing, Read read) {
  using Storage = typename S::precision::storage;
  using Compute = typename S::precision::compute;
  using Moment = typename S::precision::optimizer;
  KeptState<SwapAccess::writes, M, S> state{core};
  for (std::size_t f = 0; f < core.layout.flat_count(); ++f) {
    const FlatLayout& flat = core.layout.flat(f);
    const std::size_t moments = flat.is_trainable ? S::optimizer::moments : 0;
    const std::size_t parameter_bytes =
        flat.padded * (flat.is_trainable ? sizeof(Storage) : sizeof(Compute));
    const auto memory = core.device->template allocate<std::byte>(
        parameter_bytes + moments * flat.padded * sizeof(Moment), Purpose::other);
    const Drain drain{core.timeline};
    // At which byte of it an element of the flat is.
    const auto byte_of = [&](std::size_t kind, std::size_t element, std::size_t element_bytes) {
      const std::size_t begin =
          kind == 0 ? 0 : parameter_bytes + (kind - 1) * flat.padded * sizeof(Moment);
      return begin + element * element_bytes;
    };
    agree(core, doing, [&] {
      if (core.mesh.world().rank() != 0) return;
      core.visit_on_host(comm_stream, memory.span(), [&](std::span<std::byte> all) {
        state.for_each_parameter(
            f, [&](const std::string& name, const Shape& shape, std::size_t offset) {
              const auto read_kind = [&]<class T>(std::size_t kind, std::type_identity<T>) {
                std::byte* const begin = all.data() + byte_of(kind, offset, sizeof(T));
                read(kind, name, 0, std::span{reinterpret_cast<T*>(begin), shape.count()});
              };
              if (flat.is_trainable)
                read_kind(0, std::type_identity<Storage>{});
              else
                read_kind(0, std::type_identity<Compute>{});
              for (std::size_t k = 1; k <= moments; ++k) read_kind(k, std::type_identity<Moment>{});
            });
      });
    });
    core.mesh.world().broadcast(core.begin(comm_stream, {"load"}), memory.span(), 0);
    agree(core, doing, [&] {
      core.visit_on_host(
          comm_stream, std::span<const std::byte>{memory.span()},
          [&](std::span<const std::byte> all) {
            const auto take = [&]<class T>(const StateStretch& stretch, std::span<T> values) {
              std::memcpy(values.data(),
                          all.data() + byte_of(stretch.kind, stretch.in_flat, sizeof(T)),
                          values.size_bytes());
            };
            state.visit_flat(StateShare::all, f, take);
          });
    });
  }
}

/// A text of rank 0's becomes every rank's.
/// Order:   collective.
template <class M, class S>
void share_text(Core<M, S>& core, std::string& text) {
  text.resize(static_cast<std::size_t>(exchange(core, std::uint64_t{text.size()}).front()));
  if (!text.empty()) broadcast_from_rank0(core, std::as_writable_bytes(std::span{text}));
}

}  // namespace detail
}  // namespace shardexpr
