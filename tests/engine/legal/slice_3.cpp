// SPDX-License-Identifier: Apache-2.0
#define SLICE 3
#include "slice.hpp"
