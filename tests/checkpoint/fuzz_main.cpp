// SPDX-License-Identifier: Apache-2.0
// fuzz_safetensors without a fuzzer: the fixture's files, once each.
#include <cstddef>
#include <cstdint>
#include <string>

#include "stored.hpp"
#include <doctest/doctest.h>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

void run(const std::string& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

TEST_CASE("the fixture's files, whole, cut off and without their length") {
  for (const char* const list : {"files", "indexes"})
    for (const StoredCase& stored : stored_cases(list)) {
      run(stored.bytes);
      run(stored.bytes.substr(0, stored.bytes.size() / 2));
      if (stored.bytes.size() > 8) run(stored.bytes.substr(8));
    }
}
