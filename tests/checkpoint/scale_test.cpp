// SPDX-License-Identifier: Apache-2.0
// Headers and indexes of very many tensors, in orders that a quadratic reader could not bear.
#include <shardexpr/checkpoint/safetensors_header.hpp>
#include <shardexpr/checkpoint/safetensors_index.hpp>
#include <shardexpr/checkpoint/safetensors_layout.hpp>
#include <shardexpr/checkpoint/safetensors_set_writer.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "../support/sanitized.hpp"
#include "stored.hpp"
#include <doctest/doctest.h>
#include <time.h>

namespace {

/// Of this thread, so that others on the machine do not count.
double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <class Work>
double least_seconds(Work work) {
  double least = std::numeric_limits<double>::max();
  for (int i = 0; i < 3; ++i) {
    const double begin = cpu_seconds();
    work();
    least = std::min(least, cpu_seconds() - begin);
  }
  return least;
}

constexpr std::size_t many = SANITIZED ? 40'000 : 200'000, few = many / 8;

/// n log n is nine times as much, n * n is 64 times.
template <class Prepare>
void check_not_quadratic(Prepare prepare) {
  const double short_run = least_seconds(prepare(few)), long_run = least_seconds(prepare(many));
  CAPTURE(short_run);
  CAPTURE(long_run);
  CHECK(long_run < 28 * short_run);
}

/// Names that differ late; `backwards`: against the order of their bytes in the file.
std::string name_of(std::size_t i, bool backwards) {
  const std::string number = std::to_string(backwards ? 999'999 - i : 100'000 + i);
  return "model.layers.with.a.long.name.that.all.of.them.have.in.common." + number;
}

std::string header_of(std::size_t count, bool backwards, std::uint64_t extent) {
  std::string text = "{";
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t begin = (backwards ? count - 1 - i : i) * extent;
    text += i == 0 ? "\"" : ",\"";
    text += name_of(i, backwards);
    text += R"(":{"dtype":"U8","shape":[)";
    text += std::to_string(extent);
    text += R"(],"data_offsets":[)";
    text += std::to_string(begin);
    text += ',';
    text += std::to_string(begin + extent);
    text += "]}";
  }
  return container(text + "}", std::string(static_cast<std::size_t>(count * extent), 'd'));
}

}  // namespace

TEST_CASE("a header of 200,000 tensors") {
  for (const bool backwards : {false, true})
    for (const std::uint64_t extent : {0, 1})
      check_not_quadratic([&](std::size_t count) {
        return [=, file = header_of(count, backwards, extent)] {
          const shardexpr::SafetensorsHeader header = parse(file);
          REQUIRE(header.tensors.size() == count);
          std::size_t found = 0;
          for (std::size_t i = 0; i < count; ++i)
            found += header.find(name_of(i, backwards)) != nullptr;
          CHECK(found == count);
        };
      });
}

TEST_CASE("metadata of 200,000 keys") {
  check_not_quadratic([](std::size_t count) {
    std::string text = R"({"__metadata__":{)";
    for (std::size_t i = 0; i < count; ++i)
      ((text += i == 0 ? "\"" : ",\"") += name_of(i, i % 2 == 0)) += R"(":"")";
    return [=, file = container(text + "}}")] { CHECK(parse(file).metadata.size() == count); };
  });
}

TEST_CASE("a layout, an index and a set of 200,000 tensors") {
  check_not_quadratic([](std::size_t count) {
    return [=] {
      std::vector<shardexpr::TensorToStore> tensors;
      for (std::size_t i = 0; i < count; ++i)
        tensors.push_back({name_of(i, i % 2 == 0), i % 3 == 0 ? "F32" : "BF16", {1}});
      const auto set = shardexpr::lay_out_safetensors_set(std::move(tensors), {}, count / 10);
      CHECK(set.files.size() > 20);
      const std::string text = shardexpr::index_text(set.index);
      const auto index = shardexpr::parse_safetensors_index("index", text);
      CHECK(index.entries.size() == count);
      CHECK(index.files().size() == set.files.size());
    };
  });
}
