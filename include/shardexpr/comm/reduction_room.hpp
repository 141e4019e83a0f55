// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/device/concepts.hpp>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>

// Where ranks send each other the pieces that are to be added up: memory that is reserved for the
// longest reduction, or made when one needs it.

namespace shardexpr::detail {

/// Elements [at, at + count) of values, as far as there are any.
template <class T>
std::span<T> piece_at(std::span<T> values, std::size_t at, std::size_t count) {
  const std::size_t begin = std::min(at, values.size());
  return values.subspan(begin, std::min(count, values.size() - begin));
}
/// Rank `rank`'s part of values that are cut into slices; those of the last ranks are shorter.
template <class T>
std::span<T> part_of(std::span<T> values, std::size_t slice, std::size_t rank) {
  return piece_at(values, rank * slice, slice);
}

class ReductionRoom {
 public:
  /// Elements of a part of `count` that are added up at a time: what is sent stays in a GPU's
  /// cache, and messages are long. The same in every rank.
  template <class T>
  static constexpr std::size_t elements_at_once(std::size_t world, std::size_t count) {
    const std::size_t most = std::max<std::size_t>(64_KiB, 16_MiB / world) / sizeof(T);
    return round_up(std::min(count, most), std::size_t{8});
  }
  template <class T>
  static constexpr std::size_t bytes_for(std::size_t world, std::size_t count) {
    return world == 1 || count == 0 ? 0 : world * elements_at_once<T>(world, count) * sizeof(T);
  }

  /// For as long as the result lives. Charged to Purpose::full_gradients.
  template <class D>
  std::shared_ptr<void> reserve(D& device, std::size_t size_bytes) {
    if (size_bytes == 0) return nullptr;
    if (auto room = reserved_.lock(); room != nullptr && room->size_bytes >= size_bytes)
      return room;
    const auto room = make(device, size_bytes);
    reserved_ = room;
    return room;
  }
  /// Where nobody reserved as much, more is made, for good, when the stream has come to an end. A
  /// host's is charged to nobody: communicators are often made before a Cpu, and end after it.
  template <class D>
  std::byte* take(const Context<D>& ctx, std::size_t size_bytes) {
    if (size_bytes == 0) return nullptr;
    if (const auto room = reserved_.lock(); room != nullptr && room->size_bytes >= size_bytes)
      return room->data;
    if (own_ == nullptr || own_->size_bytes < size_bytes) {
      if (own_ != nullptr) ctx.device.synchronize(ctx.stream);
      own_.reset();
      if constexpr (runs_on_host<D>) {
        std::shared_ptr<void> memory{ctx.device.allocate_zeroed(size_bytes), &D::deallocate};
        auto* const data = static_cast<std::byte*>(memory.get());
        own_ = std::make_shared<Memory>(Memory{data, size_bytes, std::move(memory)});
      } else {
        own_ = make(ctx.device, size_bytes);
      }
    }
    return own_->data;
  }

 private:
  struct Memory {
    std::byte* data;
    std::size_t size_bytes;
    std::shared_ptr<void> owner;  // a buffer of whichever device
  };
  template <class D>
  static std::shared_ptr<Memory> make(D& device, std::size_t size_bytes) {
    auto buffer = device.template allocate<std::byte>(size_bytes, Purpose::full_gradients);
    std::byte* const data = buffer.data();
    return std::make_shared<Memory>(
        Memory{data, size_bytes, std::make_shared<decltype(buffer)>(std::move(buffer))});
  }

  std::weak_ptr<Memory> reserved_;
  std::shared_ptr<Memory> own_;
};

}  // namespace shardexpr::detail
