// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

namespace machine {

/// What a process ends with, and the line that it says before; an empty one is not said.
struct Failure {
  int status = 0;
  std::string what;
};

/// Thrown where another process has failed, and said why.
struct FailedElsewhere {
  int status;
};

}  // namespace machine
