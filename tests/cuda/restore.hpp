// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cuda_runtime.h>

namespace emulated {

/// The emulated machine as it was, when a test ends.
struct Restore {
  ~Restore() {
    machine = {};
    Faults::instance().heal();
  }
};

}  // namespace emulated
