// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/meeting_point.hpp>

#include <cstdint>

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace shardexpr::testing {

/// A port that nobody listens on now.
inline std::uint16_t free_port() {
  const detail::Descriptor socket{::socket(AF_INET, SOCK_STREAM, 0)};
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof any;
  REQUIRE(::bind(socket.number(), reinterpret_cast<sockaddr*>(&any), size) == 0);
  REQUIRE(::getsockname(socket.number(), reinterpret_cast<sockaddr*>(&any), &size) == 0);
  return ntohs(any.sin_port);
}

}  // namespace shardexpr::testing
