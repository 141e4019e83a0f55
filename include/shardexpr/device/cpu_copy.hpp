// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace shardexpr::detail {

// Above this size a copy no longer fits beside its source in a last-level cache, and ordinary
// stores would first read the lines they overwrite.
inline constexpr std::size_t streaming_copy_bytes = std::size_t{8} << 20;

// What other cores have read of the block before, and will read again: an ordinary store takes each
// line back from their caches first. Below this size that costs less than going through memory.
inline constexpr std::size_t streaming_share_bytes = std::size_t{32} << 10;

/// memcpy with non-temporal stores where the block is large: half the write traffic.
inline void copy_bytes(void* to, const void* from, std::size_t size_bytes,
                       std::size_t streaming_from = streaming_copy_bytes) {
#if defined(__SSE2__)
  if (size_bytes >= streaming_from && reinterpret_cast<std::uintptr_t>(to) % 64 == 0) {
    const std::size_t lines = size_bytes / 64;
    auto* out = static_cast<unsigned char*>(to);
    auto* in = static_cast<const unsigned char*>(from);
    for (std::size_t i = 0; i < lines; ++i, out += 64, in += 64) {
#if defined(__AVX512F__)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(out), _mm512_loadu_si512(in));
#elif defined(__AVX__)
      const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
      const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + 32));
      _mm256_stream_si256(reinterpret_cast<__m256i*>(out), a);
      _mm256_stream_si256(reinterpret_cast<__m256i*>(out + 32), b);
#else
      for (int j = 0; j < 64; j += 16)
        _mm_stream_si128(reinterpret_cast<__m128i*>(out + j),
                         _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + j)));
#endif
    }
    _mm_sfence();  // streaming stores are not ordered by the release that follows
    std::memcpy(out, in, size_bytes % 64);
    return;
  }
#endif
  if (size_bytes != 0) std::memcpy(to, from, size_bytes);
}

}  // namespace shardexpr::detail
