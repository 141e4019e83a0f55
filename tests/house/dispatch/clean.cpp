// SPDX-License-Identifier: Apache-2.0
// Throws and catches every exception of the library, and dispatches nothing: must pass.
#include <shardexpr/core/error.hpp>

#include <exception>

namespace shardexpr {
[[gnu::noinline]] int planted(int x) { return x + 1; }
}  // namespace shardexpr

int main(int argc, char**) {
  try {
    if (argc > 1) throw shardexpr::Error("asked for");
    if (argc > 2) std::throw_with_nested(shardexpr::Error("nested"));
  } catch (const shardexpr::Error&) {
    return 1;
  }
  return shardexpr::planted(argc) == 2 ? 0 : 1;
}
