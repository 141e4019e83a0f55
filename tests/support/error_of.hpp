// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <exception>
#include <string>

#include <doctest/doctest.h>

/// What the error of a call says; "" if there is none, or one of another type.
template <class E = std::exception, class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const std::exception& error) {
    if (dynamic_cast<const E*>(&error) != nullptr) return error.what();
    MESSAGE("another error: ", error.what());
  }
  return "";
}
