// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/call_log.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <string>

namespace shardexpr::detail {

/// The last collectives of a rank, in a file, when its job has failed: what each communicator had
/// been called for, how long before, and what of it had ended.
class FlightRecord {
 public:
  static constexpr std::size_t kept = 256;  // of a communicator

  /// In `directory`, which is there. `why` says whose rank it is.
  FlightRecord(const std::string& directory, std::size_t rank, const std::string& why)
      : path_{directory + "/shardexpr-calls.rank-" + std::to_string(rank) + ".txt"},
        file_{std::fopen(path_.c_str(), "w")},
        error_{file_ == nullptr ? errno : 0} {
    line(why);
  }
  FlightRecord(const FlightRecord&) = delete;
  FlightRecord& operator=(const FlightRecord&) = delete;
  ~FlightRecord() {
    if (file_ != nullptr) std::fclose(file_);
  }

  void add(const Watched& channel, const Watched::Progress& progress) {
    const auto now = CallLog::Clock::now();
    line(channel.name() + ", seconds before this was written:");
    channel.log().for_each_last(kept, [&](const Call& call, CallLog::Clock::time_point at) {
      char time[32];
      std::snprintf(time, sizeof time, "%12.6f  ", std::chrono::duration<double>(now - at).count());
      line(time + call.text() +
           (call.sequence <= progress.ended   ? ""
            : call.sequence <= progress.begun ? ": under way"
                                              : ": enqueued"));
    });
  }

  /// For the message of the failure.
  std::string close() {
    if (file_ != nullptr && std::fclose(file_) != 0 && error_ == 0) error_ = errno;
    file_ = nullptr;
    if (error_ == 0) return "; this rank's last calls are in " + path_;
    return "; this rank's last calls could not be written to " + path_ + ": " +
           std::strerror(error_);
  }

 private:
  void line(const std::string& text) {
    if (file_ == nullptr) return;
    if (std::fputs((text + '\n').c_str(), file_) < 0 && error_ == 0) error_ = errno;
  }

  std::string path_;
  std::FILE* file_;
  int error_;
};

}  // namespace shardexpr::detail
