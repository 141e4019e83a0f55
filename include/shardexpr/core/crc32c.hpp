// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

// Below nvcc the tables remain: its two passes have no use for a processor's instructions.
#if !defined(__CUDACC__) && defined(__x86_64__) && defined(__SSE4_2__)
#define SHARDEXPR_CRC32C_INSTRUCTION
#include <nmmintrin.h>
#endif

namespace shardexpr {
namespace detail {

// A checksum is a polynomial over one bit, its lowest power in the highest bit: a byte that is
// shifted out on the right has met the divisor.
inline constexpr std::uint32_t crc32c_divisor = 0x82f63b78;

constexpr std::uint32_t crc32c_product(std::uint32_t a, std::uint32_t b) {
  std::uint32_t sum = 0;
  for (std::uint32_t power = 0x80000000; power != 0; power >>= 1) {
    if ((a & power) != 0) sum ^= b;
    b = (b >> 1) ^ ((b & 1) != 0 ? crc32c_divisor : 0);
  }
  return sum;
}

/// What `bytes` zeros behind it multiply a checksum by: x to the power of 8 `bytes`.
constexpr std::uint32_t crc32c_zeros(std::size_t bytes) {
  std::uint32_t power = 0x80000000, square = 0x00800000;  // x^0 and x^8
  for (; bytes != 0; bytes >>= 1) {
    if ((bytes & 1) != 0) power = crc32c_product(power, square);
    square = crc32c_product(square, square);
  }
  return power;
}

using Crc32cTable = std::array<std::uint32_t, 256>;

/// The checksum of each byte with `bytes - 1` zeros behind it.
constexpr Crc32cTable crc32c_table(std::size_t bytes) {
  Crc32cTable table{};
  const std::uint32_t factor = crc32c_zeros(bytes);
  for (std::uint32_t bit = 1; bit < 256; bit <<= 1) table[bit] = crc32c_product(bit, factor);
  for (std::uint32_t value = 1; value < 256; ++value) {
    const std::uint32_t others = value & (value - 1);
    table[value] = table[others] ^ table[value ^ others];
  }
  return table;
}

inline constexpr std::array<Crc32cTable, 8> crc32c_tables{
    crc32c_table(1), crc32c_table(2), crc32c_table(3), crc32c_table(4),
    crc32c_table(5), crc32c_table(6), crc32c_table(7), crc32c_table(8)};

/// Appends bytes to a checksum that is not yet inverted, eight at a time.
inline std::uint32_t crc32c_by_tables(std::uint32_t crc, const std::byte* from, std::size_t count) {
  const auto& table = crc32c_tables;
  for (; count >= 8; from += 8, count -= 8) {
    std::uint32_t next = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      const std::uint32_t byte = (crc >> (8 * i) & 0xff) ^ std::to_integer<std::uint32_t>(from[i]);
      next ^= table[7 - i][byte] ^ table[3 - i][std::to_integer<std::uint32_t>(from[4 + i])];
    }
    crc = next;
  }
  for (; count > 0; ++from, --count)
    crc = (crc >> 8) ^ table[0][(crc & 0xff) ^ std::to_integer<std::uint32_t>(*from)];
  return crc;
}

#if defined(SHARDEXPR_CRC32C_INSTRUCTION)
// The instruction takes three cycles, and one can begin in each: three streams of bytes keep it
// busy. Sixteen rounds of them are a block of 64 KiB less 256 bytes.
inline constexpr std::size_t crc32c_stream_bytes = 1360;

/// Four tables, one for each byte of a checksum that `bytes` zeros follow.
template <std::size_t bytes>
inline constexpr std::array<Crc32cTable, 4> crc32c_join{
    crc32c_table(bytes), crc32c_table(bytes - 1), crc32c_table(bytes - 2), crc32c_table(bytes - 3)};

template <std::size_t bytes>
std::uint32_t crc32c_behind(std::uint32_t crc) {
  const auto& table = crc32c_join<bytes>;
  return table[0][crc & 0xff] ^ table[1][crc >> 8 & 0xff] ^ table[2][crc >> 16 & 0xff] ^
         table[3][crc >> 24];
}

inline std::uint64_t crc32c_word(const std::byte* from) {
  std::uint64_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

inline std::uint32_t crc32c_by_instruction(std::uint32_t crc, const std::byte* from,
                                           std::size_t count) {
  constexpr std::size_t stream = crc32c_stream_bytes;
  for (; count >= 3 * stream; from += 3 * stream, count -= 3 * stream) {
    std::uint64_t a = crc, b = 0, c = 0;
    for (std::size_t i = 0; i < stream; i += 8) {
      // Streams this short end before the processor fetches ahead in them by itself: it is told to
      // fetch the next round. Past the end of the bytes nothing comes of it.
      if (i % 64 == 0)
        for (std::size_t line = 0; line < 3; ++line)
          _mm_prefetch(reinterpret_cast<const char*>(from) + 3 * stream + 3 * i + 64 * line,
                       _MM_HINT_T0);
      a = _mm_crc32_u64(a, crc32c_word(from + i));
      b = _mm_crc32_u64(b, crc32c_word(from + stream + i));
      c = _mm_crc32_u64(c, crc32c_word(from + 2 * stream + i));
    }
    crc = crc32c_behind<2 * stream>(static_cast<std::uint32_t>(a)) ^
          crc32c_behind<stream>(static_cast<std::uint32_t>(b)) ^ static_cast<std::uint32_t>(c);
  }
  std::uint64_t rest = crc;
  for (; count >= 8; from += 8, count -= 8) rest = _mm_crc32_u64(rest, crc32c_word(from));
  crc = static_cast<std::uint32_t>(rest);
  for (; count > 0; ++from, --count) crc = _mm_crc32_u8(crc, std::to_integer<unsigned char>(*from));
  return crc;
}
#endif

}  // namespace detail

/// CRC-32C (Castagnoli), as iSCSI, ext4 and others use it.
///
/// Shapes:  any length and alignment. `seed` is the checksum of what stands before `bytes`: so a
///          text may come in pieces.
/// Cost:    one pass over `bytes`: eight a cycle where the compiler targets SSE4.2, about one by
///          tables elsewhere.
/// Source:  RFC 3720, appendix B.4; the joined streams after Gopal et al., Fast CRC Computation for
///          iSCSI Polynomial Using CRC32 Instruction, Intel 2011.
inline std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t seed = 0) {
#if defined(SHARDEXPR_CRC32C_INSTRUCTION)
  return ~detail::crc32c_by_instruction(~seed, bytes.data(), bytes.size());
#else
  return ~detail::crc32c_by_tables(~seed, bytes.data(), bytes.size());
#endif
}

}  // namespace shardexpr

#undef SHARDEXPR_CRC32C_INSTRUCTION
