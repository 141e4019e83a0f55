// SPDX-License-Identifier: Apache-2.0
// train_gpt over MPI: the same program, its ranks processes, its strategies over Mpi.
#include "../train_gpt/main.cpp"
