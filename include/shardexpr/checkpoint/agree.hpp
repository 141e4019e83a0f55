// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>
#include <shardexpr/engine/exchange.hpp>

#include <cstddef>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

namespace shardexpr::detail {

/// How something went on a rank, as others are told. Apart from `agree`, as most of it is: what
/// depends neither on the work nor on the trainer is compiled once.
struct Said {
  bool has_failed = false;
  char what[1000] = {};

  explicit Said(const std::exception* error = nullptr) : has_failed{error != nullptr} {
    if (error != nullptr) std::strncpy(what, error->what(), sizeof what - 1);
  }
};
/// Errors:  IoError if it failed on any rank, with the first one's words.
inline void throw_if_failed(const std::vector<Said>& all, const char* doing) {
  for (std::size_t rank = 0; rank < all.size(); ++rank)
    if (all[rank].has_failed)
      throw IoError(std::string{doing} + " failed on rank " + std::to_string(rank) + ": " +
                    all[rank].what);
}

/// The words of what was thrown; none of nothing.
inline Said said_of(const std::exception_ptr& failure) {
  if (!failure) return Said{};
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& error) {
    return Said{&error};
  }
}
/// The second half of `agree`, compiled once for a trainer: `failure` is this rank's.
template <class M, class S>
void settle(Core<M, S>& core, const char* doing, const std::exception_ptr& failure) {
  const std::vector<Said> all = exchange(core, said_of(failure));
  if (failure) std::rethrow_exception(failure);
  throw_if_failed(all, doing);
}

/// Does something on this rank that may fail here alone, and then lets every rank know: where it
/// failed on any, all throw, so that none goes on to what the others do not reach.
///
/// Order:   collective.
/// Errors:  what `work` threw, in its own rank; IoError with the rank and its words in the others.
template <class M, class S, class Work>
void agree(Core<M, S>& core, const char* doing, Work work) {
  std::exception_ptr failure;
  try {
    work();
  } catch (const std::exception&) {
    failure = std::current_exception();
  }
  settle(core, doing, failure);
}

}  // namespace shardexpr::detail
