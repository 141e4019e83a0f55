// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>

namespace shardexpr {

/// Parameters begin, and shards are cut, at multiples of this many elements: SIMD loads and
/// transfers are aligned, no cache line has two owners, and a block of gradients is never split
/// between ranks, whatever the world size (docs/adr/0003-blocks-of-64.md).
inline constexpr std::size_t block_elements = 64;

/// Buffers begin at multiples of this many bytes.
inline constexpr std::size_t buffer_alignment_bytes = 256;
/// So do those on a host that are at least as long: disks transfer nothing that is aligned to less.
inline constexpr std::size_t host_alignment_bytes = 4096;

/// n / d, rounded up.
constexpr std::size_t ceil_div(std::size_t n, std::size_t d) { return (n + d - 1) / d; }
/// The least multiple of `to` that is not below n.
constexpr std::size_t round_up(std::size_t n, std::size_t to) { return ceil_div(n, to) * to; }

inline namespace literals {
/// `4_KiB` are 4096 bytes.
constexpr std::size_t operator""_KiB(unsigned long long n) { return std::size_t{n} << 10; }
/// `1_MiB` is 2^20 bytes.
constexpr std::size_t operator""_MiB(unsigned long long n) { return std::size_t{n} << 20; }
/// `1_GiB` is 2^30 bytes.
constexpr std::size_t operator""_GiB(unsigned long long n) { return std::size_t{n} << 30; }
}  // namespace literals

}  // namespace shardexpr
