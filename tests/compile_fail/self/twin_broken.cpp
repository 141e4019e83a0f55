// SPDX-License-Identifier: Apache-2.0
// expect-error: SX999
#ifdef MUST_FAIL
static_assert(sizeof(int) == 0, "[SX999] refused");
#else
#include <shardexpr/does_not_exist.hpp>
#endif
int main() {}
