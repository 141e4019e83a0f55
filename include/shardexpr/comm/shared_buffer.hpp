// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/account.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

namespace shardexpr {

/// One rank's handle on memory that ranks share, of a process or of a machine. The memory is freed
/// with the last handle; each handle gives back the bytes that its rank was charged. Moves, never
/// copies.
template <class T>
class SharedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  SharedBuffer() = default;
  /// A handle on `count` elements of `memory`; `charged_bytes` of them are this rank's to account
  /// for.
  SharedBuffer(std::shared_ptr<void> memory, std::size_t count, MemoryAccount& account,
               std::size_t charged_bytes, Purpose purpose = Purpose::gathered)
      : memory_{std::move(memory)},
        count_{count},
        account_{&account},
        charged_bytes_{charged_bytes},
        purpose_{purpose} {
    account_->add(purpose_, charged_bytes_);
  }
  SharedBuffer(SharedBuffer&& other) noexcept
      : memory_{std::move(other.memory_)},
        count_{std::exchange(other.count_, 0)},
        account_{std::exchange(other.account_, nullptr)},
        charged_bytes_{other.charged_bytes_},
        purpose_{other.purpose_} {}
  SharedBuffer& operator=(SharedBuffer&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(count_, other.count_);
    std::swap(account_, other.account_);
    std::swap(charged_bytes_, other.charged_bytes_);
    std::swap(purpose_, other.purpose_);
    return *this;
  }
  ~SharedBuffer() {
    if (account_ != nullptr) account_->remove(purpose_, charged_bytes_);
  }

  T* data() const { return static_cast<T*>(memory_.get()); }
  std::size_t count() const { return count_; }
  std::size_t size_bytes() const { return count_ * sizeof(T); }
  std::span<T> span() const { return {data(), count_}; }

 private:
  std::shared_ptr<void> memory_;
  std::size_t count_ = 0;
  MemoryAccount* account_ = nullptr;
  std::size_t charged_bytes_ = 0;
  Purpose purpose_ = Purpose::gathered;
};

}  // namespace shardexpr
