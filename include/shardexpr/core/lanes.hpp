// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>

#include <cstddef>
#include <type_traits>

// Below nvcc plain loops remain: its two passes have no use for a processor's instructions.
#if !defined(__CUDACC__) && (defined(__AVX512F__) || (defined(__AVX2__) && defined(__F16C__)))
#define SHARDEXPR_LANES
#include <immintrin.h>
#endif

// As many values as the processor converts at a time: `Lanes` holds them in fp32, `load_lanes`
// widens them, `store_lanes` rounds as the dtypes do, to the bit. g++ would not use those
// instructions by itself. Without them `lane_count` is 0, and nothing else is declared.
namespace shardexpr::detail {

#if !defined(SHARDEXPR_LANES)
inline constexpr std::size_t lane_count = 0;

#elif defined(__AVX512F__)
using Lanes = __m512;
inline constexpr std::size_t lane_count = 16;
// g++ 12 takes the unmasked forms' undefined operand for an uninitialized variable.
inline constexpr __mmask16 all_lanes = 0xffff;

inline __m256i bits_at(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
inline void store_bits(void* to, __m256i bits) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), bits);
}
inline void stream_bits(void* to, __m256i bits) {
  _mm256_stream_si256(static_cast<__m256i*>(to), bits);
}

inline Lanes every_lane(fp32 value) { return _mm512_set1_ps(value); }
inline Lanes load_lanes(const fp32* from) { return _mm512_loadu_ps(from); }
inline Lanes load_lanes(const bf16* from) {
  const __m512i bits = _mm512_maskz_cvtepu16_epi32(all_lanes, bits_at(from));
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(all_lanes, bits, 16));
}
inline Lanes load_lanes(const fp16* from) {
  return _mm512_maskz_cvtph_ps(all_lanes, bits_at(from));
}

inline __m256i rounded(Lanes values, const bf16*) {
  const __m512i x = _mm512_castps_si512(values);
#if defined(__AVX512BF16__)
  // The instruction takes subnormals for zeros. They are found by their bits: a comparison of
  // floats would miss them where the process runs with denormals as zeros.
  const __m512i twice = _mm512_maskz_slli_epi32(all_lanes, x, 1);
  const __m512i below = _mm512_sub_epi32(twice, _mm512_set1_epi32(1));
  if (_mm512_cmplt_epu32_mask(below, _mm512_set1_epi32(0x00ffffff)) == 0) [[likely]]
    return __builtin_bit_cast(__m256i, _mm512_cvtneps_pbh(values));
#endif
  const __m512i upper = _mm512_maskz_srli_epi32(all_lanes, x, 16);
  const __m512i odd = _mm512_maskz_and_epi32(all_lanes, upper, _mm512_set1_epi32(1));
  const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  const __m512i nearest = _mm512_maskz_srli_epi32(all_lanes, _mm512_add_epi32(x, half), 16);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  return _mm512_maskz_cvtepi32_epi16(
      all_lanes, _mm512_mask_or_epi32(nearest, is_nan, upper, _mm512_set1_epi32(0x40)));
}
inline __m256i rounded(Lanes values, const fp16*) {
  return _mm512_maskz_cvtps_ph(all_lanes, values, _MM_FROUND_TO_NEAREST_INT);
}
inline void store_lanes(fp32* to, Lanes values) { _mm512_storeu_ps(to, values); }

#else  // AVX2 and F16C
using Lanes = __m256;
inline constexpr std::size_t lane_count = 8;

inline __m128i bits_at(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from));
}
inline void store_bits(void* to, __m128i bits) {
  _mm_storeu_si128(static_cast<__m128i*>(to), bits);
}
inline void stream_bits(void* to, __m128i bits) {
  _mm_stream_si128(static_cast<__m128i*>(to), bits);
}

inline Lanes every_lane(fp32 value) { return _mm256_set1_ps(value); }
inline Lanes load_lanes(const fp32* from) { return _mm256_loadu_ps(from); }
inline Lanes load_lanes(const bf16* from) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits_at(from)), 16));
}
inline Lanes load_lanes(const fp16* from) { return _mm256_cvtph_ps(bits_at(from)); }

inline __m128i rounded(Lanes values, const bf16*) {
  const __m256i x = _mm256_castps_si256(values), upper = _mm256_srli_epi32(x, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  const __m256i nearest = _mm256_srli_epi32(_mm256_add_epi32(x, half), 16);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  const __m256i wide = _mm256_blendv_epi8(nearest, quiet, is_nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
}
inline __m128i rounded(Lanes values, const fp16*) {
  return _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT);
}
inline void store_lanes(fp32* to, Lanes values) { _mm256_storeu_ps(to, values); }
#endif

/// Whether `load_lanes` and `store_lanes` know the dtype.
template <class T>
inline constexpr bool has_lanes = lane_count != 0 &&
                                  (std::is_same_v<T, fp32> || std::is_same_v<T, bf16> ||
                                   std::is_same_v<T, fp16>);

#if defined(SHARDEXPR_LANES)
inline void store_lanes(bf16* to, Lanes values) { store_bits(to, rounded(values, to)); }
inline void store_lanes(fp16* to, Lanes values) { store_bits(to, rounded(values, to)); }

/// Converts whole lanes of `from` and returns how many elements those are.
template <class From, class To>
std::size_t convert_lanes(const From* from, To* to, std::size_t count) {
  std::size_t at = 0;
  for (; at + lane_count <= count; at += lane_count) store_lanes(to + at, load_lanes(from + at));
  return at;
}
/// The same past the caches, to a 16-bit dtype; `to` begins a cache line.
template <class From, class To>
std::size_t stream_lanes(const From* from, To* to, std::size_t count) {
  std::size_t at = 0;
  for (; at + lane_count <= count; at += lane_count)
    stream_bits(to + at, rounded(load_lanes(from + at), to));
  _mm_sfence();  // streaming stores are not ordered by the release that follows
  return at;
}
#endif

}  // namespace shardexpr::detail

#undef SHARDEXPR_LANES
