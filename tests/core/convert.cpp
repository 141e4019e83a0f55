// SPDX-License-Identifier: Apache-2.0
// convert() does what the dtypes do, to the bit, however long, wherever it lies and whichever
// instructions it was compiled for: CMakeLists.txt makes a program of each way to compile it.
#include <shardexpr/core/convert.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace shardexpr::testing {
namespace {

#if defined(SHARDEXPR_EXPECTED_LANES)  // the program for other instructions must not test these
static_assert(detail::lane_count == SHARDEXPR_EXPECTED_LANES);
#endif

/// Patterns drawn at random, and among them every kind that rounding or an instruction may treat
/// differently: zeros, subnormals of either format, halfway cases, the largest, infinities, NaNs.
std::vector<float> floats(std::size_t count, std::uint32_t seed) {
  std::vector<float> x(count);
  std::uint32_t draw = seed;
  for (float& value : x) {
    draw = draw * 1664525u + 1013904223u;
    const std::uint32_t any = draw ^ draw >> 16, sign = any & 0x80000000u;
    std::uint32_t bits = any;
    switch (draw >> 28) {
      case 0:
        bits = sign;
        break;
      case 1:
        bits = any & 0x807fffffu;
        break;  // a subnormal
      case 2:
        bits = sign | (any & 0x3ffu);
        break;  // a small one
      case 3:
        bits = sign | (0x33000000u + (any & 0x7ffffffu));
        break;  // subnormal in fp16
      case 4:
        bits = (any & 0xffff0000u) | 0x8000u;
        break;  // halfway in bf16
      case 5:
        bits = (any & 0xbfffe000u) | 0x1000u;
        break;  // halfway in fp16
      case 6:
        bits = sign | (0x477fe000u + (any & 0x3fffu));
        break;  // about fp16's largest
      case 7:
        bits = sign | (0x7f7f0000u + (any & 0xffffu));
        break;  // about bf16's largest
      case 8:
        bits = sign | 0x7f800000u;
        break;
      case 9:
        bits = sign | 0x7f800001u | (any & 0x7fffffu);
        break;  // a NaN of any kind
    }
    value = std::bit_cast<float>(bits);
  }
  return x;
}

template <class T>
std::vector<T> inputs(std::size_t count, std::uint32_t seed) {
  const std::vector<float> wide = floats(count, seed);
  std::vector<T> x(count);
  for (std::size_t i = 0; i < count; ++i) {
    if constexpr (sizeof(T) == 2)  // every pattern as likely
      x[i] = std::bit_cast<T>(
          static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(wide[i]) >> (i % 17)));
    else
      x[i] = static_cast<T>(wide[i]);
  }
  return x;
}

template <class T>
bool same_bits(const T* a, const T* b, std::size_t count) {
  return count == 0 || std::memcmp(a, b, count * sizeof(T)) == 0;
}

/// What the dtypes make of it, one element at a time.
template <class To, class From>
std::vector<To> one_by_one(const std::vector<From>& from) {
  std::vector<To> to(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) {
    if constexpr (std::is_same_v<From, To>)
      to[i] = from[i];
    else
      to[i] = static_cast<To>(static_cast<float>(from[i]));
  }
  return to;
}

/// An array that begins `offset` elements behind a cache line, with marks around it.
template <class T>
class Marked {
 public:
  Marked(std::size_t offset, std::size_t count)
      : bytes_((offset + count) * sizeof(T) + 192, mark), count_{count} {
    auto at = reinterpret_cast<std::uintptr_t>(bytes_.data()) + 64;
    data_ = bytes_.data() + 64 + (0 - at) % 64 + offset * sizeof(T);
  }
  T* data() { return reinterpret_cast<T*>(data_); }
  bool is_intact() const {
    const auto is_mark = [](unsigned char byte) { return byte == mark; };
    const unsigned char *first = bytes_.data(), *data = data_;
    return std::all_of(first, data, is_mark) &&
           std::all_of(data + count_ * sizeof(T), first + bytes_.size(), is_mark);
  }

 private:
  static constexpr unsigned char mark = 0xee;
  std::vector<unsigned char> bytes_;
  unsigned char* data_;
  std::size_t count_;
};

template <class From, class To>
struct Pair {
  using from = From;
  using to = To;
};

}  // namespace

TEST_CASE_TEMPLATE("convert: every length up to two lines, every offset in a line", P,
                   Pair<fp32, bf16>, Pair<bf16, fp32>, Pair<fp32, fp16>, Pair<fp16, fp32>,
                   Pair<bf16, fp16>, Pair<fp16, bf16>, Pair<double, bf16>, Pair<fp16, double>,
                   Pair<double, fp32>, Pair<fp32, fp32>, Pair<bf16, bf16>) {
  using From = typename P::from;
  using To = typename P::to;
  std::size_t wrong = 0, spilt = 0, compared = 0;
  for (std::size_t to_offset = 0; to_offset < 64 / sizeof(To); ++to_offset)
    for (std::size_t count = 0; count <= 67; ++count) {
      const std::size_t from_offset = (to_offset * 5 + count) % (64 / sizeof(From));
      const auto source =
          inputs<From>(count, static_cast<std::uint32_t>(to_offset * 100 + count + 1));
      Marked<From> from{from_offset, count};
      std::copy(source.begin(), source.end(), from.data());
      Marked<To> to{to_offset, count};
      detail::convert(from.data(), to.data(), count);
      wrong += !same_bits(to.data(), one_by_one<To>(source).data(), count);
      spilt += !to.is_intact() || !from.is_intact();
      compared += count;
    }
  CHECK(wrong == 0);
  CHECK(spilt == 0);
  CHECK(compared == 64 / sizeof(To) * (67 * 68 / 2));
}

TEST_CASE_TEMPLATE("convert: all patterns of 16 bits", T, bf16, fp16) {
  std::vector<T> from(0x10000);
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits)
    from[bits] = std::bit_cast<T>(static_cast<std::uint16_t>(bits));
  std::vector<float> to(from.size());
  detail::convert(from.data(), to.data(), from.size());
  CHECK(same_bits(to.data(), one_by_one<float>(from).data(), to.size()));
}

TEST_CASE_TEMPLATE("convert: each special value in each place of a vector", T, bf16, fp16) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float special[] = {0.0f,
                           -0.0f,
                           std::bit_cast<float>(0x00000001u),
                           std::bit_cast<float>(0x807fffffu),
                           std::bit_cast<float>(0x00008000u),
                           std::bit_cast<float>(0x00008001u),
                           std::bit_cast<float>(0x00018000u),
                           0x1p-126f,
                           -0x1p-24f,
                           0x1.8p-25f,
                           0x1p-25f,
                           65519.99f,
                           65520.0f,
                           0x1.fep127f,
                           0x1.ffp127f,
                           -0x1.fffffep127f,
                           infinity,
                           -infinity,
                           std::bit_cast<float>(0x7f800001u),
                           std::bit_cast<float>(0xffc12345u)};
  std::size_t wrong = 0;
  for (const float value : special)
    for (std::size_t place = 0; place < 48; ++place)
      for (const float others : {1.0f, 0.0f}) {
        std::vector<float> from(48, others);
        from[place] = value;
        std::vector<T> to(from.size());
        detail::convert(from.data(), to.data(), from.size());
        wrong += !same_bits(to.data(), one_by_one<T>(from).data(), to.size());
      }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("convert: large arrays, past the caches or not", P, Pair<fp32, bf16>,
                   Pair<fp32, fp16>, Pair<bf16, fp32>, Pair<fp16, fp32>) {
  using From = typename P::from;
  using To = typename P::to;
  const std::size_t limit = detail::streaming_output_bytes / sizeof(To);
  const auto source = inputs<From>(limit + 100, 7);
  const auto expected = one_by_one<To>(source);
  for (const std::size_t count : {limit - 1, limit, limit + 77})
    for (const std::size_t offset : {0u, 1u, 15u}) {
      Marked<To> to{offset, count};
      detail::convert(source.data() + 3, to.data(), count);
      CAPTURE(count);
      CAPTURE(offset);
      CHECK(same_bits(to.data(), expected.data() + 3, count));
      CHECK(to.is_intact());
    }
}

#if defined(__SSE2__)
// As programs run that were linked with -ffast-math.
TEST_CASE_TEMPLATE("convert: the same bits where float operations flush subnormals", P,
                   Pair<fp32, bf16>, Pair<fp32, fp16>, Pair<bf16, fp32>, Pair<fp16, fp32>) {
  using From = typename P::from;
  using To = typename P::to;
  const auto source = inputs<From>(4099, 9);
  const auto expected = one_by_one<To>(source);
  std::vector<To> to(source.size()), one(source.size());
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(mode | 0x8040u);  // flush to zero, denormals are zeros
  volatile float subnormal = 0x1p-130f, flushed = subnormal + subnormal;
  detail::convert(source.data(), to.data(), source.size());
  one = one_by_one<To>(source);
  _mm_setcsr(mode);
  CHECK(flushed == 0.0f);
  CHECK(same_bits(to.data(), expected.data(), to.size()));
  CHECK(same_bits(one.data(), expected.data(), to.size()));
}
#endif

}  // namespace shardexpr::testing
