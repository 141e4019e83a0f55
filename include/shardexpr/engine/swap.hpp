// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/device/access.hpp>
#include <shardexpr/device/account.hpp>
#include <shardexpr/engine/slots.hpp>
#include <shardexpr/engine/state.hpp>
#include <shardexpr/engine/timeline.hpp>
#include <shardexpr/engine/unit_names.hpp>
#include <shardexpr/io/swap_file.hpp>
#include <shardexpr/model/layout.hpp>
#include <shardexpr/plan/swap_layout.hpp>

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>

namespace shardexpr::detail {

/// How a device's disk is reached: a device may name its own, as tests do.
template <class D>
struct system_of : std::type_identity<LinuxSystem> {};
template <class D>
  requires requires { typename D::System; }
struct system_of<D> : std::type_identity<typename D::System> {};

/// What a user says about the disk; nothing, where the strategy uses none.
struct NoNvme {};
template <class S>
using SwapOptions = std::conditional_t<is_on_disk<S>, NvmeOptions, NoNvme>;

/// A rank's file, and the memory of the host that its content passes through. Who uses a piece of
/// that memory orders it; here it only lies.
template <class S, class M, bool Needed = is_on_disk<S>>
class Swap {
  using Device = typename S::device;
  using Host = HostOf<Device>;
  using Timeline = typename TimelineOf<S>::type;
  using File = SwapFile<typename system_of<Device>::type>;
  static_assert(File::block_bytes == swap_block_bytes);

 public:
  using SwapLayout = detail::SwapLayout<S>;

  Swap(Device& device, const Layout<M>& layout, const State<S, M, Device>& state,
       const NvmeOptions& options, std::size_t rank)
      : layout_{state.all_kept()},
        units_{&layout},
        rank_{rank},
        file_{options, rank, layout_.size_bytes()},
        checksums_{device.host().account(), File::checksum_bytes(layout_.size_bytes())},
        parameters{device.host(), 2 * layout_.parameter_slot_bytes()},
        chunks{device.host(), 3 * layout_.slot_bytes()},
        gradients{device.host(), 2 * layout_.gradient_slot_bytes()} {}

  const SwapLayout& layout() const { return layout_; }
  std::size_t chunk_count() const { return layout_.chunks().size(); }
  File& file() { return file_; }
  const File& file() const { return file_; }

  /// `bytes` of the file from `offset` on -> memory; `what` of flat f they are.
  void read(const Context<Host>& on, std::size_t offset, std::span<std::byte> to, const char* what,
            std::size_t f) {
    on.run(reads(range(offset, to.size())), writes(to), [this, offset, to, what, f] {
      file_.read(offset, to, Description{*units_, what, f});
    });
  }
  void write(const Context<Host>& on, std::span<const std::byte> from, std::size_t offset,
             const char* what, std::size_t f) {
    on.run(reads(from), writes(range(offset, from.size())), [this, offset, from, what, f] {
      file_.write(offset, from, Description{*units_, what, f});
    });
  }

  using Chunk = typename SwapLayout::Chunk;
  /// A chunk in one of the slots.
  struct View {
    std::span<typename S::precision::storage> masters;
    std::array<std::span<typename S::precision::optimizer>, S::optimizer::moments> moments;
    std::span<typename S::precision::gradient> gradients;
    typename S::precision::compute* shadow;
  };
  View view(const Chunk& chunk, std::size_t slot) const {
    const auto at = layout_.sections(chunk.count);
    std::byte* memory = chunks.at(slot);
    View view;
    view.masters = values<typename S::precision::storage>(memory, chunk.count);
    for (std::size_t k = 0; k < view.moments.size(); ++k)
      view.moments[k] = values<typename S::precision::optimizer>(
          memory + at.moments + k * at.moment_stride, chunk.count);
    view.gradients = values<typename S::precision::gradient>(memory + at.gradients, chunk.count);
    view.shadow = reinterpret_cast<typename S::precision::compute*>(memory + at.shadow);
    return view;
  }
  /// The file's chunk -> a slot; what an update writes of it -> the file. Parameters that are not
  /// in the chunk are those of the flat.
  void read(const Context<Host>& on, const Chunk& chunk, std::size_t slot) {
    if (!chunk.has_masters)
      read(on, layout_.parameters(chunk.flat) + masters_at(chunk), masters(chunk, slot),
           "parameters", chunk.flat);
    read(on, chunk.offset,
         chunks.span(slot).subspan(layout_.begin(chunk), layout_.size_bytes(chunk)),
         "optimizer state", chunk.flat);
  }
  void write(const Context<Host>& on, const Chunk& chunk, std::size_t slot) {
    if (!chunk.has_masters)
      write(on, masters(chunk, slot), layout_.parameters(chunk.flat) + masters_at(chunk),
            "parameters", chunk.flat);
    const std::size_t begin = layout_.begin(chunk);
    write(on, chunks.span(slot).subspan(begin, layout_.sections(chunk.count).gradients - begin),
          chunk.offset, "optimizer state", chunk.flat);
  }

 private:
  template <class T>
  static std::span<T> values(std::byte* memory, std::size_t count) {
    return {reinterpret_cast<T*>(memory), count};
  }
  static std::size_t masters_at(const Chunk& chunk) {
    return chunk.first * sizeof(typename S::precision::storage);
  }
  std::span<std::byte> masters(const Chunk& chunk, std::size_t slot) const {
    return chunks.span(slot).first(layout_.sections(chunk.count).moments);
  }
  /// Says what lies somewhere in the file, for errors.
  struct Description {
    const Layout<M>& layout;
    const char* what;
    std::size_t f;

    std::string operator()() const {
      return std::string{what} + " of unit " + names_of_units(layout, [&](std::size_t u) {
               return layout.unit(u).group == layout.flat(f).group;
             });
    }
  };
  struct Charge {
    MemoryAccount* account;
    std::size_t size_bytes;
    Charge(MemoryAccount& to, std::size_t bytes) : account{&to}, size_bytes{bytes} {
      account->add(Purpose::other, size_bytes);
    }
    Charge(const Charge&) = delete;
    Charge& operator=(const Charge&) = delete;
    ~Charge() { account->remove(Purpose::other, size_bytes); }
  };

  FileRange range(std::size_t offset, std::size_t count) const { return {rank_, offset, count}; }

  SwapLayout layout_;
  const Layout<M>* units_;
  std::size_t rank_;
  File file_;
  Charge checksums_;

 public:
  // A flat's parameters; a chunk, as `SwapLayout::Sections` divides it; a chunk's gradients.
  Slots<Host, std::byte, Timeline, 2> parameters;
  Slots<Host, std::byte, Timeline, 3> chunks;
  Slots<Host, std::byte, Timeline, 2> gradients;
};

template <class S, class M>
class Swap<S, M, false> {
 public:
  template <class Device, class... Rest>
  explicit Swap(Device&, const Rest&...) {}
  static constexpr std::size_t chunk_count() { return 0; }
};

}  // namespace shardexpr::detail
