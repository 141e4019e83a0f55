// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

namespace machine {

/// What a process ends with, and the line that it says before; an empty one is not said.
struct Failure {
  int status = 0;
  std::string what;
  bool is_of_peer = false;  ///< another rank is the reason, and may have more to say
};

/// Thrown where another process has failed, and said why.
struct FailedElsewhere {
  int status;
};

}  // namespace machine
