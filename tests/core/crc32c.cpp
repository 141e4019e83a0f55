// SPDX-License-Identifier: Apache-2.0
#include <shardexpr/core/crc32c.hpp>

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

namespace {

using shardexpr::crc32c;

/// The definition: one bit after another.
std::uint32_t by_bits(std::span<const std::byte> bytes) {
  std::uint32_t crc = 0xffffffff;
  for (const std::byte byte : bytes) {
    crc ^= std::to_integer<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0u);
  }
  return ~crc;
}

std::uint32_t by_tables(std::span<const std::byte> bytes) {
  return ~shardexpr::detail::crc32c_by_tables(0xffffffff, bytes.data(), bytes.size());
}

std::vector<std::byte> random_bytes(std::size_t count) {
  std::mt19937 generator{7};
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(generator() & 0xff);
  return bytes;
}

// The tables are made at compile time. A 1 with one more zero behind it goes through the first
// table twice.
constexpr const auto& tables = shardexpr::detail::crc32c_tables;
static_assert(tables[0][1] == 0xf26b8303);
static_assert(tables[1][1] == ((tables[0][1] >> 8) ^ tables[0][tables[0][1] & 0xff]));

}  // namespace

TEST_CASE("crc32c gives the published values") {
  std::vector<std::byte> bytes(32);
  CHECK(crc32c(bytes) == 0x8a9136aa);  // RFC 3720 B.4, each as the number that its bytes mean
  std::fill(bytes.begin(), bytes.end(), std::byte{0xff});
  CHECK(crc32c(bytes) == 0x62a8ab43);
  for (std::size_t i = 0; i < 32; ++i) bytes[i] = static_cast<std::byte>(i);
  CHECK(crc32c(bytes) == 0x46dd794e);
  for (std::size_t i = 0; i < 32; ++i) bytes[i] = static_cast<std::byte>(31 - i);
  CHECK(crc32c(bytes) == 0x113fdb5c);
  constexpr unsigned char read_command[48] = {
      0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
      0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00,
      0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18, 0x28, 0x00, 0x00, 0x00,
      0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
  CHECK(crc32c(std::as_bytes(std::span{read_command})) == 0xd9963a56);

  constexpr std::string_view digits = "123456789";
  CHECK(crc32c(std::as_bytes(std::span{digits.data(), digits.size()})) == 0xe3069283);
  CHECK(crc32c({}) == 0);
}

TEST_CASE("crc32c is the definition at every length and alignment") {
  const std::vector<std::byte> bytes = random_bytes(13000);
  // Below, at and above one and several rounds of three streams of 1360.
  std::vector<std::size_t> lengths{4079, 4080, 4081, 4087, 4088, 5440, 8159, 8160, 8161, 12241};
  for (std::size_t length = 0; length < 200; ++length) lengths.push_back(length);
  std::size_t wrong = 0;
  for (std::size_t shift = 0; shift < 16; ++shift)
    for (const std::size_t length : lengths) {
      const auto part = std::span{bytes}.subspan(shift, length);
      const std::uint32_t expected = by_bits(part);
      wrong += crc32c(part) != expected;
      wrong += by_tables(part) != expected;
    }
  CHECK(wrong == 0);
}

TEST_CASE("crc32c of a block of 64 KiB finds each of its bits flipped") {
  std::vector<std::byte> bytes = random_bytes(65536);
  const std::uint32_t expected = crc32c(bytes);
  CHECK(expected == by_bits(bytes));
  std::size_t missed = 0;
  for (std::size_t at = 0; at < bytes.size(); at += 509) {  // a prime: every place in a word
    for (int bit = 0; bit < 8; ++bit) {
      bytes[at] ^= std::byte{1} << bit;
      missed += crc32c(bytes) == expected;
      bytes[at] ^= std::byte{1} << bit;
    }
  }
  CHECK(missed == 0);
}

TEST_CASE("crc32c goes on from a seed") {
  const std::vector<std::byte> bytes = random_bytes(30000);
  const std::uint32_t whole = crc32c(bytes);
  for (const std::size_t cut : {0u, 1u, 7u, 8u, 1360u, 4080u, 29999u, 30000u}) {
    const auto all = std::span<const std::byte>{bytes};
    CHECK(crc32c(all.subspan(cut), crc32c(all.first(cut))) == whole);
  }
}
