// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>

namespace shardexpr {

/// What a rank moved between its places since it was made.
/// Units:   bytes.
struct TransferBytes {
  std::size_t to_device_bytes = 0, to_host_bytes = 0, nvme_read_bytes = 0, nvme_written_bytes = 0;

  friend constexpr bool operator==(const TransferBytes&, const TransferBytes&) = default;
};

}  // namespace shardexpr
