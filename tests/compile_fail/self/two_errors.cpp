// SPDX-License-Identifier: Apache-2.0
// expect-error: SX999
#ifdef MUST_FAIL
static_assert(sizeof(int) == 0, "[SX999] refused");
int cascade = undeclared;
#endif
int main() {}
