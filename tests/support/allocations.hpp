// SPDX-License-Identifier: Apache-2.0
#pragma once
// Counts every call of the allocator in a program. One source file of it includes this.
#include <atomic>
#include <cstddef>
#include <cstdlib>

#include "sanitized.hpp"
#include <malloc.h>

inline std::atomic<std::size_t> allocations{0};

#define COUNTS_ALLOCATIONS (!SANITIZED)  // sanitizers bring an allocator of their own

#if COUNTS_ALLOCATIONS
// glibc's own entry points, so that the counting ones can stand in front of them.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* data, std::size_t size) {
  ++allocations;
  return __libc_realloc(data, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  ++allocations;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** data, std::size_t alignment, std::size_t size) {
  ++allocations;
  *data = __libc_memalign(alignment, size);
  return *data == nullptr ? 12 : 0;
}
}
#endif
