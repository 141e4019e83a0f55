// SPDX-License-Identifier: Apache-2.0
// A manifest that no run wrote is refused, whatever its checksum says.
#include <shardexpr/checkpoint/manifest.hpp>
#include <shardexpr/checkpoint/part_file.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "../support/error_of.hpp"
#include "manifests.hpp"
#include <doctest/doctest.h>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using shardexpr::FormatError;
using shardexpr::detail::FileSums;
using shardexpr::detail::Manifest;

/// What is said to a manifest in which `from` was replaced.
std::string refusal(std::string_view from, std::string_view to) {
  std::string text = some_manifest().text();
  const std::size_t at = text.find(from);
  REQUIRE(at != text.npos);
  text.replace(at, from.size(), to);
  return error_of<FormatError>([&] { (void)Manifest::parse("m.json", with_right_sum(text)); });
}
void check_says(const std::string& text, std::string_view what) {
  CAPTURE(text);
  CHECK(text == "m.json: " + std::string{what} + "; take another checkpoint");
}

}  // namespace

TEST_CASE("a manifest is read as it was written") {
  const Manifest manifest = some_manifest();
  const Manifest again = Manifest::parse("m.json", manifest.text());
  CHECK(again.text() == manifest.text());
  CHECK(again.parameters[0].count() == 35);
  CHECK(again.parameters[1].count() == 1);
  CHECK(again.parameters[2].count() == 0);
  CHECK(with_right_sum(manifest.text()) == manifest.text());
  // What a later version adds is skipped.
  CHECK(refusal("\"kind\"", "\"new\": [1, {}], \"kind\"") == "");
}

TEST_CASE("numbers that nothing has are refused, not multiplied") {
  check_says(refusal("\"world\": 2", "\"world\": 0"), "world is 0, not 1 to 1000000");
  check_says(refusal("\"world\": 2", "\"world\": 1000001"), "world is 1000001, not 1 to 1000000");
  CHECK(refusal("\"world\": 2", "\"world\": 1000000") == "");
  check_says(refusal("\"moments\": 2", "\"moments\": 18446744073709551615"),
             "moments is 18446744073709551615, not 0 to 64");
  check_says(refusal("\"step\": 3", "\"step\": 1000000000000000000"),
             "step is 1000000000000000000, not 0 to 999999999999999999");
  // 2^32 * 2^32, and 2^59 of 32 bits: one bit too many each.
  const char* const beyond =
      "parameter 'a.weight': the product of its extents, in bits, is beyond 64 bits";
  check_says(refusal("[5, 7]", "[4294967296, 4294967296]"), beyond);
  check_says(refusal("[5, 7]", "[576460752303423488]"), beyond);
  CHECK(refusal("[5, 7]", "[576460752303423487]") == "");
}

TEST_CASE("dtypes, names and sums that no run writes") {
  check_says(refusal("\"F32\", \"shape\"", "\"f32\", \"shape\""),
             "parameter 'a.weight' has dtype 'f32', which the format does not have");
  check_says(refusal("\"moment_dtype\": \"F32\"", "\"moment_dtype\": \"\""),
             "moments of dtype '', which the format does not have");
  check_says(refusal("\"name\": \"b\"", "\"name\": \"a.weight\""),
             "parameter 'a.weight' stands twice");
  check_says(refusal("state-00001", "state-00000"),
             "the file 'state-00000-of-00002.safetensors' stands twice");
  for (const char* const name : {"", ".", "..", ".x", "a/b", "a\\\\b", "a\\u0000b"}) {
    CAPTURE(name);
    CHECK(refusal("state-00001-of-00002.safetensors", name).find("is no plain name") !=
          std::string::npos);
  }
  CHECK(refusal(": 4294967295", ": 4294967296").find("a checksum is beyond 32 bits") !=
        std::string::npos);
  CHECK(error_of<FormatError>([] {
          (void)FileSums::parse("x.sums", "{\"chunk_bytes\":262144,\"tensors\":[[4294967296]]}");
        }) == "x.sums, byte 34: a checksum is beyond 32 bits");
}

TEST_CASE("`latest` names a folder whose step is a number") {
  using namespace shardexpr::detail;
  const auto is_read = [](const std::string& name) {
    return error_of<FormatError>([&] { (void)parse_latest("latest", latest_text(name)); }).empty();
  };
  CHECK(is_read("step-000000000003"));
  CHECK(is_read("step-999999999999999999-12"));
  CHECK_FALSE(is_read("step-1000000000000000000"));
  CHECK_FALSE(is_read("step-00000000003"));
  CHECK_FALSE(is_read("step-000000000003-"));
  CHECK_FALSE(is_read("step-000000000003-1000000000000000000"));
  CHECK_FALSE(is_read("../x"));
  CHECK_FALSE(is_read(""));
}

TEST_CASE("what the fuzzer demands holds of whole and broken texts") {
  const auto give = [](const std::string& bytes) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  };
  for (const std::string& whole :
       {some_manifest().text(), some_sums().text(),
        shardexpr::detail::latest_text(shardexpr::detail::step_folder(3))}) {
    give(whole);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      give(whole.substr(0, i));
      std::string changed = whole;
      changed[i] = '9';
      give(changed);
    }
  }
}
