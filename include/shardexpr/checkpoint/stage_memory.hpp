// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include <sys/mman.h>

namespace shardexpr::detail {

/// Memory that a disk reads from or writes to by itself. In huge pages where the system has some: a
/// disk is told of each page, and from small ones it is half as fast. Mapped, not allocated: what
/// an allocator gives was in use before, in small pages.
class StageMemory {
 public:
  StageMemory() = default;
  /// Errors:  std::bad_alloc.
  explicit StageMemory(std::size_t bytes) : mapped_bytes_{bytes + huge_page_bytes} {
    void* const mapped =
        ::mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc{};
    mapped_ = mapped;
    const auto address = reinterpret_cast<std::uintptr_t>(mapped_);
    data_ = static_cast<std::byte*>(mapped_) +
            (huge_page_bytes - address % huge_page_bytes) % huge_page_bytes;
    (void)::madvise(data_, bytes, MADV_HUGEPAGE);  // where there are none, small ones do
  }
  StageMemory(StageMemory&& other) noexcept
      : mapped_{std::exchange(other.mapped_, nullptr)},
        data_{std::exchange(other.data_, nullptr)},
        mapped_bytes_{other.mapped_bytes_} {}
  StageMemory& operator=(StageMemory&& other) noexcept {
    std::swap(mapped_, other.mapped_);
    std::swap(data_, other.data_);
    std::swap(mapped_bytes_, other.mapped_bytes_);
    return *this;
  }
  ~StageMemory() {
    if (mapped_ != nullptr) ::munmap(mapped_, mapped_bytes_);
  }

  /// Null where nothing was asked for.
  std::byte* data() const { return data_; }

 private:
  static constexpr std::size_t huge_page_bytes = std::size_t{2} << 20;

  void* mapped_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t mapped_bytes_ = 0;
};

}  // namespace shardexpr::detail
