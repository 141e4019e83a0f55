// SPDX-License-Identifier: Apache-2.0
// fuzz_config without a fuzzer: the fixtures, whole, cut off, and with a byte changed.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "../../examples/strategy_from_config/document.hpp"
#include <doctest/doctest.h>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

void run(const std::string& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

TEST_CASE("the fixtures, whole, cut off and changed") {
  std::size_t files = 0;
  for (const char* part : {"/configs/found", "/configs/written"})
    for (const auto& entry :
         std::filesystem::directory_iterator{std::string{SHARDEXPR_FIXTURES_DIR} + part}) {
      const std::string bytes = from_config::read_bytes(entry.path().string());
      run(bytes);
      for (std::size_t cut = 1; cut < bytes.size(); cut += 1 + bytes.size() / 16)
        run(bytes.substr(0, cut));
      for (const char other : {'"', ':', '{', ']', '-', '9', '\n', '\xff', '\0', '\t'}) {
        std::string changed = bytes;
        changed[(files * 37 + static_cast<unsigned char>(other)) % changed.size()] = other;
        run(changed);
      }
      ++files;
    }
  CHECK(files > 40);
}

TEST_CASE("nothing, and much of little") {
  run("");
  for (const char* piece :
       {"[",   "{",   "{\"a\":", "- ", "? ",  "a: ", "'",  "\"", "#", "//", "/*",
        "&a ", "*a ", "!a ",     "%",  "|\n", ">\n", "\n", "a<", "<", ","}) {
    std::string many;
    for (int i = 0; i < 3000; ++i) many += piece;
    run(many);
  }
}
