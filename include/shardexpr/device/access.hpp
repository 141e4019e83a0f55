// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace shardexpr {

/// The bytes that one enqueued operation reads or writes. Every operation on a stream names them:
/// an ordinary device drops the list unread, a checking one proves that events order it.
struct Access {
  const void* data = nullptr;
  std::size_t size_bytes = 0;
};

/// Bytes of a file, as an access: they lie where no memory does, above the highest address that a
/// process has.
struct FileRange {
  std::size_t file = 0;  ///< a number that the process gives it
  std::size_t offset = 0, count = 0;

  static constexpr std::uintptr_t base = std::uintptr_t{1} << 63;
  static constexpr std::uintptr_t largest_file = std::uintptr_t{1} << 48;

  const void* data() const {
    return reinterpret_cast<const void*>(base + file % (base / largest_file) * largest_file +
                                         offset);
  }
  std::size_t size_bytes() const { return count; }
};

/// `reads(x, w)`, `writes(y)`: anything with `data` (a pointer or a function giving one) and
/// `size_bytes()`.
template <std::size_t N>
struct Reads {
  std::array<Access, N> list;
};
/// Memory that an operation writes.
template <std::size_t N>
struct Writes {
  std::array<Access, N> list;
};

namespace detail {
template <class T>
constexpr Access access(const T& t) {
  const void* data = nullptr;
  if constexpr (requires { t.data(); })
    data = t.data();
  else
    data = t.data;
  // A frozen parameter's gradient has a shape and no memory.
  return {data, data == nullptr ? 0 : t.size_bytes()};
}
}  // namespace detail

/// What an operation reads; what has no memory counts as 0 bytes.
template <class... T>
constexpr Reads<sizeof...(T)> reads(const T&... t) {
  return {{detail::access(t)...}};
}
/// What an operation writes; the same.
template <class... T>
constexpr Writes<sizeof...(T)> writes(const T&... t) {
  return {{detail::access(t)...}};
}

}  // namespace shardexpr
