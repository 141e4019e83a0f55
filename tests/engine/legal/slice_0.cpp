// SPDX-License-Identifier: Apache-2.0
#define SLICE 0
#include "slice.hpp"
