// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/checkpoint/stored_tensor.hpp>
#include <shardexpr/core/dtype.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace shardexpr::detail {

/// Calls `visit(T{})`, T the type of a stored dtype that is trained in. False: nothing is.
template <class Visit>
bool visit_trained_dtype(std::string_view dtype, Visit visit) {
  const auto visited = [&]<class T>(T of) {
    if (dtype != stored_dtype_name<T>) return false;
    visit(of);
    return true;
  };
  return visited(fp32{}) || visited(bf16{}) || visited(fp16{});
}
inline bool is_trained_dtype(std::string_view dtype) {
  return visit_trained_dtype(dtype, [](auto) {});
}

/// Elements from `first` on of a tensor of a trained dtype, rounded to T where it is another.
/// `read(first byte, span of bytes)` reads the tensor.
/// Cost:    where the dtype is another, 16 Ki elements of it.
template <class T, class Read>
void read_elements(std::string_view dtype, std::uint64_t first, std::span<T> to, Read read) {
  if (dtype == stored_dtype_name<T>) return read(first * sizeof(T), std::as_writable_bytes(to));
  const auto convert = [&]<class From>(From) {
    std::vector<From> some(std::min<std::size_t>(to.size(), 16384));
    for (std::size_t done = 0; done < to.size(); done += some.size()) {
      some.resize(std::min(some.size(), to.size() - done));
      read((first + done) * sizeof(From), std::as_writable_bytes(std::span{some}));
      for (std::size_t k = 0; k < some.size(); ++k)
        to[done + k] = static_cast<T>(static_cast<float>(some[k]));
    }
  };
  (void)visit_trained_dtype(dtype, convert);
}

}  // namespace shardexpr::detail
