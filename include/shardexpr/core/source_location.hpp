// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <source_location>

namespace shardexpr {

// clang 14 with the library of g++ has the header and not the class, for want of a builtin that
// came with clang 15.
#if defined(__cpp_lib_source_location)
/// Where a call stands.
using SourceLocation = std::source_location;
#else
/// Where a call stands: of `std::source_location`, what this library asks.
class SourceLocation {
 public:
  static constexpr SourceLocation current(const char* file = __builtin_FILE(),
                                          const char* function = __builtin_FUNCTION(),
                                          std::uint_least32_t line = __builtin_LINE()) noexcept {
    SourceLocation at;
    at.file_ = file;
    at.function_ = function;
    at.line_ = line;
    return at;
  }
  constexpr SourceLocation() = default;

  constexpr const char* file_name() const noexcept { return file_; }
  constexpr const char* function_name() const noexcept { return function_; }
  constexpr std::uint_least32_t line() const noexcept { return line_; }

 private:
  const char* file_ = "";
  const char* function_ = "";
  std::uint_least32_t line_ = 0;
};
#endif

}  // namespace shardexpr
