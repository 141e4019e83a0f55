// SPDX-License-Identifier: Apache-2.0
// expect-error: SX999
// Compilers echo the line at fault: the code in it must not count.
#ifdef MUST_FAIL
static_assert(sizeof(int) == 0 && "[SX999]"[0] == '[', "no code in the message");
#endif
int main() {}
