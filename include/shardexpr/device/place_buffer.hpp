// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/account.hpp>

#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

namespace shardexpr::detail {

/// Typed memory of `Place`, charged to one account, which returns itself by `Place::deallocate`.
/// Moves, never copies.
template <class Place, class T>
class PlaceBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  PlaceBuffer() = default;
  /// Takes memory that `Place` gave, and charges it.
  PlaceBuffer(T* data, std::size_t count, MemoryAccount& account, Purpose purpose)
      : data_{data}, count_{count}, account_{&account}, purpose_{purpose} {
    account.add(purpose, size_bytes());
  }
  PlaceBuffer(PlaceBuffer&& other) noexcept
      : data_{std::exchange(other.data_, nullptr)},
        count_{std::exchange(other.count_, 0)},
        account_{other.account_},
        purpose_{other.purpose_} {}
  PlaceBuffer& operator=(PlaceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    std::swap(account_, other.account_);
    std::swap(purpose_, other.purpose_);
    return *this;
  }
  ~PlaceBuffer() {
    if (data_ == nullptr) return;
    account_->remove(purpose_, size_bytes());
    Place::deallocate(data_);
  }

  T* data() const { return data_; }
  std::size_t count() const { return count_; }
  std::size_t size_bytes() const { return count_ * sizeof(T); }
  std::span<T> span() const { return {data_, count_}; }

 private:
  T* data_ = nullptr;
  std::size_t count_ = 0;
  MemoryAccount* account_ = nullptr;
  Purpose purpose_ = Purpose::other;
};

}  // namespace shardexpr::detail
