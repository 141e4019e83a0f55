// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/io/nvme_options.hpp>

#include <atomic>
#include <string>

namespace shardexpr::detail {

/// Says a thing once for all files of the process.
class NoticeOnce {
 public:
  void say(const NvmeOptions& options, const std::string& line) {
    if (!was_said_.exchange(true)) options.notice(line);
  }

 private:
  std::atomic<bool> was_said_{false};
};

}  // namespace shardexpr::detail
