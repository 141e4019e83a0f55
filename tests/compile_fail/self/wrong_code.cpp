// SPDX-License-Identifier: Apache-2.0
// expect-error: SX999
#ifdef MUST_FAIL
static_assert(sizeof(int) == 0, "[SX998] another rule");
#endif
int main() {}
