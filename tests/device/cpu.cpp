// SPDX-License-Identifier: Apache-2.0
#include <shardexpr/core/bytes.hpp>
#include <shardexpr/device/cpu.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

namespace shardexpr::testing {

TEST_CASE("MemoryAccount: live, peak and count, by purpose") {
  MemoryAccount account;
  CHECK(account.live_bytes() == 0);
  account.add(Purpose::parameters, 100);
  account.add(Purpose::gathered, 50);
  CHECK(account.live_bytes() == 150);
  CHECK(account.live_bytes(Purpose::parameters) == 100);
  CHECK(account.live_bytes(Purpose::gathered) == 50);
  CHECK(account.live_bytes(Purpose::optimizer) == 0);
  account.remove(Purpose::gathered, 50);
  account.add(Purpose::other, 20);
  CHECK(account.live_bytes() == 120);
  CHECK(account.live_bytes(Purpose::gathered) == 0);
  CHECK(account.peak_bytes() == 150);
  CHECK(account.allocation_count() == 3);
  static_assert(purpose_names[static_cast<std::size_t>(Purpose::other)] == "other");
}

TEST_CASE("Cpu buffers are zeroed, aligned, charged, and given back") {
  Cpu device;
  for (std::size_t count : {1ul, 63ul, 64ul, 1000ul, 2_MiB}) {
    auto buffer = device.allocate<float>(count, Purpose::activations);
    CHECK(buffer.count() == count);
    CHECK(buffer.size_bytes() == count * 4);
    CHECK(buffer.span().size() == count);
    CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % buffer_alignment_bytes == 0);
    CHECK(std::all_of(buffer.data(), buffer.data() + count, [](float x) { return x == 0; }));
    CHECK(device.account().live_bytes(Purpose::activations) == count * 4);
    std::fill_n(buffer.data(), count, 1.0f);  // the next one must be zeroed again
  }
  CHECK(device.account().live_bytes() == 0);
  CHECK(device.account().peak_bytes() == 8_MiB);
}

TEST_CASE("Cpu buffers move with their charge") {
  Cpu device;
  auto a = device.allocate<float>(10, Purpose::parameters);
  float* data = a.data();
  auto b = std::move(a);
  CHECK(b.data() == data);
  CHECK(b.count() == 10);
  CHECK(a.data() == nullptr);
  CHECK(a.count() == 0);
  CHECK(device.account().live_bytes() == 40);
  b = device.allocate<float>(5, Purpose::gradients);
  CHECK(device.account().live_bytes(Purpose::parameters) == 0);
  CHECK(device.account().live_bytes(Purpose::gradients) == 20);
  b = {};
  CHECK(device.account().live_bytes() == 0);
  auto empty = device.allocate<float>(0, Purpose::other);
  CHECK(empty.data() == nullptr);
  CHECK(device.account().allocation_count() == 2);
}

TEST_CASE("Cpu copy: sizes around the streaming threshold, any offset") {
  Cpu device;
  Cpu::Stream stream;
  const std::size_t limit = detail::streaming_copy_bytes;
  std::vector<unsigned char> from(limit + 4096), to(limit + 4096);
  std::mt19937_64 random{5};
  for (auto& x : from) x = static_cast<unsigned char>(random());
  for (std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{63}, std::size_t{4097},
                           limit - 1, limit, limit + 1, limit + 63, limit + 64, limit + 1000})
    for (std::size_t from_at : {0, 1, 64, 100})
      for (std::size_t aligned : {0, 1}) {
        std::fill(to.begin(), to.end(), 0xee);
        std::size_t to_at = 128;
        if (aligned)  // the streaming path, where the size allows it
          to_at += 64 - reinterpret_cast<std::uintptr_t>(to.data()) % 64;
        else
          to_at += 65 - reinterpret_cast<std::uintptr_t>(to.data()) % 64;
        device.copy(stream, std::span<const unsigned char>{from}.subspan(from_at, size),
                    std::span{to}.subspan(to_at, size));
        CAPTURE(size);
        CHECK((size == 0 || std::memcmp(to.data() + to_at, from.data() + from_at, size) == 0));
        const auto other = [](unsigned char x) { return x != 0xee; };
        CHECK(std::none_of(to.begin(), to.begin() + to_at, other));
        CHECK(std::none_of(to.begin() + to_at + size, to.end(), other));
      }
}

TEST_CASE_TEMPLATE("Cpu cast: what the dtypes convert, within what it names", To, bf16, fp16, float,
                   double) {
  Cpu device;
  Cpu::Stream stream;
  std::mt19937_64 random{8};
  std::vector<float> from(1000);
  for (float& x : from) x = std::ldexp(static_cast<float>(random() % 4001) - 2000.0f, -12);
  for (std::size_t count : {0, 1, 31, 500, 998}) {
    std::vector<To> to(1000, To(7.0f));
    device.cast(stream, std::span<const float>{from}.subspan(2, count),
                std::span{to}.subspan(1, count));
    std::vector<float> back(1000, 9.0f);
    device.cast(stream, std::span<const To>{to}.subspan(1, count),
                std::span{back}.subspan(1, count));
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < 1000; ++i) {
      const bool is_named = i >= 1 && i < 1 + count;
      const To expected = is_named ? static_cast<To>(from[i + 1]) : To(7.0f);
      wrong += to[i] != expected;
      wrong += back[i] != (is_named ? static_cast<float>(expected) : 9.0f);
    }
    CAPTURE(count);
    CHECK(wrong == 0);
  }
}

TEST_CASE("Cpu fill_zero and for_each touch what they name") {
  Cpu device;
  Cpu::Stream stream;
  auto x = device.allocate<float>(100, Purpose::other);
  const Context<Cpu> ctx{device, stream};
  float* data = x.data();
  ctx.for_each(100, reads(), writes(x), [=](std::size_t i) { data[i] = static_cast<float>(i); });
  for (std::size_t i = 0; i < 100; ++i) CHECK(data[i] == static_cast<float>(i));
  device.fill_zero(stream, x.span().subspan(10, 5));
  for (std::size_t i = 0; i < 100; ++i)
    CHECK(data[i] == (i >= 10 && i < 15 ? 0.0f : static_cast<float>(i)));
  device.fill_zero(stream, std::span<float>{});
}

TEST_CASE("sum_squares: the same bits however blocks of 64 are split over ranks") {
  Cpu device;
  Cpu::Stream stream;
  std::mt19937_64 random{6};
  const auto check = [&]<class T>(T) {
    const std::size_t count = 64 * 37 + 11;
    std::vector<T> x(count);
    for (T& value : x)
      value = static_cast<T>(std::ldexp(static_cast<double>(random() >> 11) * 0x1p-53 - 0.5,
                                        static_cast<int>(random() % 80) - 40));
    ExactSum whole;
    device.sum_squares(stream, std::span<const T>{x}, &whole);
    long double wide = 0;
    for (T value : x) wide += static_cast<long double>(value) * value;
    const double expected = static_cast<double>(wide);
    CHECK(std::abs(whole.value() - expected) <= expected * 0x1p-46);
    for (int repeat = 0; repeat < 100; ++repeat) {
      std::vector<ExactSum> part(1 + random() % 7);
      for (std::size_t at = 0; at < count;) {
        const std::size_t n = std::min<std::size_t>(count - at, 64 * (1 + random() % 12));
        device.sum_squares(stream, std::span<const T>{x}.subspan(at, n),
                           &part[random() % part.size()]);
        at += n;
      }
      ExactSum total;
      for (const ExactSum& sum : part) total.add(sum);
      CHECK(std::bit_cast<std::uint64_t>(total.value()) ==
            std::bit_cast<std::uint64_t>(whole.value()));
    }
  };
  check(float{});
  check(double{});
}

TEST_CASE("sum_squares: zeros that pad a block change nothing; infinities and NaNs show") {
  Cpu device;
  Cpu::Stream stream;
  std::vector<float> x(100, 1.5f);
  ExactSum bare, padded;
  device.sum_squares(stream, std::span<const float>{x}, &bare);
  x.resize(128);
  device.sum_squares(stream, std::span<const float>{x}, &padded);
  CHECK(bare.value() == padded.value());
  CHECK(bare.value() == 225.0);
  x[70] = std::numeric_limits<float>::infinity();
  ExactSum infinite;
  device.sum_squares(stream, std::span<const float>{x}, &infinite);
  CHECK(std::isinf(infinite.value()));
  x[3] = std::numeric_limits<float>::quiet_NaN();
  ExactSum nan;
  device.sum_squares(stream, std::span<const float>{x}, &nan);
  CHECK(std::isnan(nan.value()));
}

}  // namespace shardexpr::testing
