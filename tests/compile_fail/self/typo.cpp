// SPDX-License-Identifier: Apache-2.0
// expect-error: SX999
#ifdef MUST_FAIL
int main() { return undeclared; }
#else
int main() {}
#endif
