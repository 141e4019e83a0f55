// SPDX-License-Identifier: Apache-2.0
#pragma once
// What differs between training on the processor and on GPUs: the library's umbrella, a rank's
// device, how much memory there is, what is made ready before ranks start. And between ranks that
// are threads and ranks that are processes: who speaks, what becomes of a failure.
#if defined(TRAIN_GPT_CUDA)
#include "machine_cuda.hpp"
#else
#include "machine_cpu.hpp"
#endif
#if defined(TRAIN_GPT_MPI)
#include "job_mpi.hpp"
#else
#include "job_threads.hpp"
#endif
