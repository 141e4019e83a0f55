// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/core/loop.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

// Below nvcc the plain loops remain: its two passes have no use for a processor's instructions.
#if !defined(__CUDACC__) && (defined(__AVX512F__) || defined(__F16C__))
#define SHARDEXPR_CONVERTS_LANES
#include <immintrin.h>
#endif

namespace shardexpr::detail {

// A narrowed array of this size does not stay in a last-level cache beside what it was made from,
// and ordinary stores would first read the lines they overwrite. Widening writes twice what it
// reads: there streaming stores gained nothing.
inline constexpr std::size_t streaming_output_bytes = std::size_t{8} << 20;

/// How many elements `convert_lanes` takes at a time; 0: the target has no instruction for it, or
/// the plain loop is as fast.
template <class From, class To>
inline constexpr std::size_t lanes = 0;

template <class From, class To>
void convert_plainly(const From* from, To* to, std::size_t count) {
  for_independent(count,
                  [=](std::size_t i) { to[i] = static_cast<To>(static_cast<float>(from[i])); });
}

#if defined(SHARDEXPR_CONVERTS_LANES)

#if defined(__AVX512F__)
template <>
inline constexpr std::size_t lanes<fp32, fp16> = 16;
template <>
inline constexpr std::size_t lanes<fp16, fp32> = 16;

// g++ 12 takes the unmasked forms' undefined operand for an uninitialized variable.
inline constexpr __mmask16 all_lanes = 0xffff;

template <bool streams>
void store_lanes(void* to, __m256i values) {
  if constexpr (streams)
    _mm256_stream_si256(static_cast<__m256i*>(to), values);
  else
    _mm256_storeu_si256(static_cast<__m256i*>(to), values);
}
template <bool streams>
void convert_lanes(const fp32* from, fp16* to) {
  store_lanes<streams>(
      to, _mm512_maskz_cvtps_ph(all_lanes, _mm512_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT));
}
template <bool streams>
void convert_lanes(const fp16* from, fp32* to) {
  const void* const bits = from;
  _mm512_storeu_ps(
      to, _mm512_maskz_cvtph_ps(all_lanes, _mm256_loadu_si256(static_cast<const __m256i*>(bits))));
}

#if defined(__AVX512BF16__)
template <>
inline constexpr std::size_t lanes<fp32, bf16> = 16;

template <bool streams>
void convert_lanes(const fp32* from, bf16* to) {
  // The instruction takes subnormals for zeros. They are found by their bits: a comparison of
  // floats would miss them where the process runs with denormals as zeros.
  const __m512i twice = _mm512_maskz_slli_epi32(all_lanes, _mm512_loadu_si512(from), 1);
  const __m512i below = _mm512_sub_epi32(twice, _mm512_set1_epi32(1));
  if (_mm512_cmplt_epu32_mask(below, _mm512_set1_epi32(0x00ffffff)) != 0) [[unlikely]]
    return convert_plainly(from, to, lanes<fp32, bf16>);
  store_lanes<streams>(to, __builtin_bit_cast(__m256i, _mm512_cvtneps_pbh(_mm512_loadu_ps(from))));
}
#endif

#else  // F16C
template <>
inline constexpr std::size_t lanes<fp32, fp16> = 8;
template <>
inline constexpr std::size_t lanes<fp16, fp32> = 8;

template <bool streams>
void convert_lanes(const fp32* from, fp16* to) {
  const __m128i bits = _mm256_cvtps_ph(_mm256_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT);
  void* const out = to;
  if constexpr (streams)
    _mm_stream_si128(static_cast<__m128i*>(out), bits);
  else
    _mm_storeu_si128(static_cast<__m128i*>(out), bits);
}
template <bool streams>
void convert_lanes(const fp16* from, fp32* to) {
  const void* const bits = from;
  _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(bits))));
}
#endif

template <bool streams, class From, class To>
std::size_t convert_whole_lanes(const From* from, To* to, std::size_t count) {
  std::size_t at = 0;
  for (; at + lanes<From, To> <= count; at += lanes<From, To>)
    convert_lanes<streams>(from + at, to + at);
  return at;
}

#endif  // SHARDEXPR_CONVERTS_LANES

/// Converts each element as the dtypes convert one, to the bit: through fp32, rounded to nearest.
///
/// Shapes:  from (count,) -> to (count,), disjoint.
/// Cost:    one pass. With AVX-512-BF16 to bf16, with F16C or AVX-512 to and from fp16 by the
///          processor's own instructions, and then past the caches where `to` is narrower and
///          large.
template <class From, class To>
void convert(const From* from, To* to, std::size_t count) {
  if constexpr (std::is_same_v<From, To>) {
    if (count != 0) std::memcpy(to, from, count * sizeof(To));
  } else {
    std::size_t at = 0;
#if defined(SHARDEXPR_CONVERTS_LANES)
    if constexpr (lanes<From, To> != 0) {
      if (sizeof(To) < sizeof(From) && count * sizeof(To) >= streaming_output_bytes) {
        at = (0 - reinterpret_cast<std::uintptr_t>(to)) % 64 / sizeof(To);  // to the next line
        convert_plainly(from, to, at);
        at += convert_whole_lanes<true>(from + at, to + at, count - at);
        _mm_sfence();  // streaming stores are not ordered by the release that follows
      } else {
        at = convert_whole_lanes<false>(from, to, count);
      }
    }
#endif
    convert_plainly(from + at, to + at, count - at);
  }
}

}  // namespace shardexpr::detail

#undef SHARDEXPR_CONVERTS_LANES
