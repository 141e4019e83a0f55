// SPDX-License-Identifier: Apache-2.0
// MPICH over UCX waits without giving its core away: with more ranks than cores a wait lasts until
// the kernel takes the core from who waits. Tests ask UCX through this function, which lets another
// rank run where nothing has come. MPICH over another transport never calls it.
#include <dlfcn.h>
#include <sched.h>

extern "C" unsigned ucp_worker_progress(void* worker) {
  using Progress = unsigned (*)(void*);
  static const auto progress =
      reinterpret_cast<Progress>(::dlsym(RTLD_NEXT, "ucp_worker_progress"));
  const unsigned events = progress(worker);
  if (events == 0) ::sched_yield();
  return events;
}
