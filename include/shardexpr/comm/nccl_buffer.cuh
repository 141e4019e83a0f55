// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/nccl_channel.cuh>
#include <shardexpr/device/account.hpp>
#include <shardexpr/device/cuda_memory.cuh>

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

namespace shardexpr {

/// Memory of one rank that NCCL gathers into in place. Moves, never copies.
template <class T>
class NcclBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  NcclBuffer() = default;
  /// Zeroed.
  /// Errors:  std::bad_alloc; nothing is charged then.
  NcclBuffer(std::shared_ptr<detail::NcclChannel> channel, std::size_t count,
             MemoryAccount& account)
      : NcclBuffer{} {  // so that what fails below leaves nothing
    channel_ = std::move(channel);
    count_ = count;
    const detail::CudaCurrent current{channel_->gpu()};
    memory_ = channel_->allocate(size_bytes(), handle_);
    is_plain_ = memory_ == nullptr;
    if (is_plain_) memory_ = detail::CudaMemory::instance().take(channel_->gpu(), size_bytes());
    account_ = &account;
    account_->add(Purpose::gathered, size_bytes());
    detail::cuda_zero(memory_, size_bytes());
  }
  NcclBuffer(NcclBuffer&& other) noexcept { swap(other); }
  NcclBuffer& operator=(NcclBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~NcclBuffer() {
    if (account_ == nullptr) return;
    account_->remove(Purpose::gathered, size_bytes());
    if (is_plain_)
      detail::CudaMemory::instance().give(memory_);
    else
      channel_->release(memory_, handle_);
  }

  T* data() const { return static_cast<T*>(memory_); }
  std::size_t count() const { return count_; }
  std::size_t size_bytes() const { return count_ * sizeof(T); }
  std::span<T> span() const { return {data(), count_}; }

 private:
  void swap(NcclBuffer& other) noexcept {
    std::swap(channel_, other.channel_);
    std::swap(memory_, other.memory_);
    std::swap(handle_, other.handle_);
    std::swap(is_plain_, other.is_plain_);
    std::swap(count_, other.count_);
    std::swap(account_, other.account_);
  }

  std::shared_ptr<detail::NcclChannel> channel_;
  void *memory_ = nullptr, *handle_ = nullptr;
  bool is_plain_ = false;  // not NCCL's
  std::size_t count_ = 0;
  MemoryAccount* account_ = nullptr;
};

}  // namespace shardexpr
