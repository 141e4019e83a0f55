// SPDX-License-Identifier: Apache-2.0
// A GPT on Cuda, whose runtime and cuBLASLt are emulated.
#include "gpt_cases.hpp"
