// SPDX-License-Identifier: Apache-2.0
// expect-error: SX999
#ifdef MUST_FAIL
#include <shardexpr/does_not_exist.hpp>
#endif
int main() {}
