// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/device/account.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

namespace shardexpr {

/// One rank's handle on memory that all ranks of a process share. The memory is freed with the last
/// handle; each handle gives back the bytes that its rank was charged. Moves, never copies.
template <class T>
class SharedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  SharedBuffer() = default;
  SharedBuffer(std::shared_ptr<void> memory, std::size_t count, MemoryAccount& account,
               std::size_t charged_bytes)
      : memory_{std::move(memory)},
        count_{count},
        account_{&account},
        charged_bytes_{charged_bytes} {
    account_->add(Purpose::gathered, charged_bytes_);
  }
  SharedBuffer(SharedBuffer&& other) noexcept
      : memory_{std::move(other.memory_)},
        count_{std::exchange(other.count_, 0)},
        account_{std::exchange(other.account_, nullptr)},
        charged_bytes_{other.charged_bytes_} {}
  SharedBuffer& operator=(SharedBuffer&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(count_, other.count_);
    std::swap(account_, other.account_);
    std::swap(charged_bytes_, other.charged_bytes_);
    return *this;
  }
  ~SharedBuffer() {
    if (account_ != nullptr) account_->remove(Purpose::gathered, charged_bytes_);
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
};

}  // namespace shardexpr
