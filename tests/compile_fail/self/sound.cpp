// SPDX-License-Identifier: Apache-2.0
// expect-error: SX999
#include <shardexpr/core/bytes.hpp>

template <class T>
struct Judge {
  static_assert(sizeof(T) == 1, "[SX999] one byte, please; brackets [ and semicolons; are fine");
};
#ifdef MUST_FAIL
Judge<int> judge;
#else
Judge<char> judge;
#endif
int main() {}
