// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/core/error.hpp>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <system_error>

namespace shardexpr {

/// A process's place in a job, as its launcher says.
struct Launched {
  std::size_t rank = 0, world = 1;
  std::size_t local_rank = 0;  ///< among the processes of this machine: which GPU
  std::string address{};       ///< where rank 0 is to be found, by name or number
  std::uint16_t port = 0;
  /// If not empty, ranks meet by this file, on a disk that all see, and not by TCP.
  std::string file{};
  std::string job{};  ///< what tells this job from an earlier one in the same place
};

namespace detail {

/// The variables of an environment, by name; null where one is not set.
using Environment = const char* (*)(const char* name);

inline const char* process_environment(const char* name) { return std::getenv(name); }

class LaunchVariables {
 public:
  explicit LaunchVariables(Environment environment) : environment_{environment} {}

  bool has(const char* name) const { return environment_(name) != nullptr; }
  std::string text(const char* name, const std::string& otherwise = "") const {
    const char* value = environment_(name);
    return value == nullptr ? otherwise : value;
  }
  std::size_t number(const char* name, std::size_t least, std::size_t most) const {
    const char* value = environment_(name);
    const std::string_view digits = value == nullptr ? "" : value;
    std::size_t result = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), result);
    if (error != std::errc{} || end != digits.data() + digits.size() || result < least ||
        result > most)
      throw ConfigError("$" + std::string{name} + " is " +
                        (value == nullptr ? "not set" : "'" + std::string{digits} + "'") +
                        "; a launcher sets it to a number from " + std::to_string(least) + " to " +
                        std::to_string(most));
    return result;
  }

 private:
  Environment environment_;
};

/// The first host of a list as Slurm writes it: "gpu[03-05,9],login" begins with gpu03.
inline std::string first_host(const std::string& list) {
  const std::size_t end = list.find_first_of(",[");
  if (end == std::string::npos || list[end] == ',') return list.substr(0, end);
  const std::size_t last = list.find_first_of(",-]", end);
  const std::string number = list.substr(end + 1, last - end - 1);
  const std::size_t close = list.find(']', end);
  const std::size_t rest = list.find_first_of(",[", close);
  return list.substr(0, end) + number +
         (close == std::string::npos
              ? ""
              : list.substr(close + 1, rest == std::string::npos ? rest : rest - close - 1));
}

}  // namespace detail

/// What torchrun or srun told this process. Ranks meet by TCP at $MASTER_ADDR and $MASTER_PORT, or
/// the port above it where torchrun's agent listens there itself; under Slurm, where they are not
/// set, at the step's first host and a port made of the job's number. Where $SHARDEXPR_MEET_FILE is
/// set they meet by that file.
///
/// Errors:  ConfigError that names the variable which is missing, or not a number in its range.
inline Launched launched_by_environment(
    detail::Environment environment = detail::process_environment) {
  constexpr std::size_t most = 1'000'000;
  const detail::LaunchVariables variables{environment};
  Launched launched;
  const bool by_torchrun = variables.has("RANK") || variables.has("WORLD_SIZE");
  const bool by_slurm = !by_torchrun && variables.has("SLURM_PROCID");
  if (!by_torchrun && !by_slurm)
    throw ConfigError(
        "neither $RANK nor $SLURM_PROCID is set: start the program by torchrun or srun, or set "
        "RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT");
  const char* const rank = by_torchrun ? "RANK" : "SLURM_PROCID";
  const char* const local = by_torchrun ? "LOCAL_RANK" : "SLURM_LOCALID";
  launched.world = variables.number(by_torchrun ? "WORLD_SIZE" : "SLURM_NTASKS", 1, most);
  launched.rank = variables.number(rank, 0, launched.world - 1);
  launched.local_rank = variables.has(local) ? variables.number(local, 0, most) : 0;
  const std::string slurm_job =
      variables.text("SLURM_JOB_ID") + "." + variables.text("SLURM_STEP_ID");
  launched.job = by_torchrun ? variables.text("TORCHELASTIC_RUN_ID") : slurm_job;
  launched.file = variables.text("SHARDEXPR_MEET_FILE");
  if (!launched.file.empty()) return launched;
  if (by_torchrun || variables.has("MASTER_ADDR")) {
    launched.address = variables.text("MASTER_ADDR");
    if (launched.address.empty())
      throw ConfigError("$MASTER_ADDR is not set; set it to the host of rank 0");
  } else {
    const std::string nodes =
        variables.text("SLURM_STEP_NODELIST", variables.text("SLURM_JOB_NODELIST"));
    if (nodes.empty())
      throw ConfigError(
          "neither $MASTER_ADDR nor $SLURM_STEP_NODELIST is set; set MASTER_ADDR to the host of "
          "rank 0");
    launched.address = detail::first_host(nodes);
  }
  const bool is_taken = variables.text("TORCHELASTIC_USE_AGENT_STORE") == "True";
  if (by_torchrun || variables.has("MASTER_PORT")) {
    const std::size_t port = variables.number("MASTER_PORT", 1, 65535);
    launched.port = static_cast<std::uint16_t>(!is_taken      ? port
                                               : port < 65535 ? port + 1
                                                              : port - 1);
  } else {  // above what services use, and alike in every rank
    launched.port = static_cast<std::uint16_t>(
        20000 + variables.number("SLURM_JOB_ID", 0, std::size_t{1} << 32) % 20000);
  }
  return launched;
}

}  // namespace shardexpr
