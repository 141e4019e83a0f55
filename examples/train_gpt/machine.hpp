// SPDX-License-Identifier: Apache-2.0
#pragma once
// What differs between training on the processor and on GPUs: the library's umbrella, a rank's
// device, how much memory there is, what is made ready before ranks start.
#if defined(TRAIN_GPT_CUDA)
#include "machine_cuda.hpp"
#else
#include "machine_cpu.hpp"
#endif
