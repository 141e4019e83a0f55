// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <stdexcept>
#include <string>

namespace shardexpr {

/// Base of everything this library throws. `what()` is one line: what, where, what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A configuration that cannot be trained: a shape, a count or an option out of its range.
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// Gradients that are not finite, where no loss scale says to leave such a step out.
class NotFiniteError : public Error {
 public:
  using Error::Error;
};

/// A disk that did not do what was asked of it, or does not hold what was written.
class IoError : public Error {
 public:
  using Error::Error;
};

/// A device that is not there, is not one that this was compiled for, or failed.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// A collective that cannot complete: a peer left, failed, or entered another collective.
class CommError : public Error {
 public:
  using Error::Error;
};

/// Bytes that two operations touch without an event that orders them, or that are used after their
/// release. `Checked` throws it.
class RaceError : public Error {
 public:
  using Error::Error;
};

/// The first error of a job, under the name of the rank it came from. The rank's own exception is
/// nested inside (`std::rethrow_if_nested`).
class RankError : public Error {
 public:
  /// `cause`: what the rank's own exception says.
  RankError(std::size_t rank, const std::string& cause)
      : Error("rank " + std::to_string(rank) + ": " + cause), rank_{rank} {}
  /// The rank that failed first.
  std::size_t rank() const noexcept { return rank_; }

 private:
  std::size_t rank_;
};

}  // namespace shardexpr
