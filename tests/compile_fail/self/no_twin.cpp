// SPDX-License-Identifier: Apache-2.0
// expect-error: SX999
static_assert(sizeof(int) == 0, "[SX999] refused, but legal nowhere");
int main() {}
