// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/launched.hpp>
#include <shardexpr/comm/meeting_point.hpp>
#include <shardexpr/comm/sockets.hpp>
#include <shardexpr/core/error.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>

#include <ifaddrs.h>
#include <mpi.h>
#include <net/if.h>

// How ranks of MPI come to connections beside it, by which they tell each other why one of them
// cannot go on: MPI itself has no word for that, and may wait for ever.

namespace shardexpr::detail {

/// By which others may reach this machine, with commas between; the last is for who is on it.
inline std::string addresses_of_machine() {
  std::string text;
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) == 0)
    for (const ifaddrs* at = first; at != nullptr; at = at->ifa_next) {
      if (at->ifa_addr == nullptr || (at->ifa_flags & IFF_LOOPBACK) != 0 ||
          (at->ifa_flags & IFF_UP) == 0)
        continue;
      const int family = at->ifa_addr->sa_family;
      std::array<char, 64> name{};
      const std::size_t size = family == AF_INET    ? sizeof(sockaddr_in)
                               : family == AF_INET6 ? sizeof(sockaddr_in6)
                                                    : 0;
      if (size == 0 || ::getnameinfo(at->ifa_addr, static_cast<socklen_t>(size), name.data(),
                                     name.size(), nullptr, 0, NI_NUMERICHOST) != 0)
        continue;
      const std::string address{name.data()};
      if (address.find('%') == std::string::npos)  // which is of one link alone
        text += address + ',';
    }
  ::freeifaddrs(first);
  return text + "127.0.0.1";
}

/// Connections of rank 0 to each other rank.
///
/// Order:   every rank of `comm` calls it at the same time.
/// Errors:  CommError in every rank that could not connect within `patience`.
template <class Channel>
Lines mpi_lines(const Channel& channel, MPI_Comm comm, std::chrono::milliseconds patience) {
  const std::string what = "connections beside MPI";
  if (channel.size() == 1) return {};
  struct Place {
    std::uint64_t job = 0, port = 0;
    std::array<char, 1024> addresses{};
  } place;
  std::string why;
  Descriptor listener;
  if (channel.rank() == 0) {
    listener = listen_on(0, why);
    if (listener) place.port = port_of(listener);
    std::random_device random;
    place.job = (std::uint64_t{random()} << 32) | random();
    std::string text = addresses_of_machine();
    if (text.size() >= place.addresses.size())  // an address that is cut is none
      text.resize(text.rfind(',', place.addresses.size() - 1));
    std::memcpy(place.addresses.data(), text.data(), text.size());
  }
  {
    const typename Channel::Turn turn{channel};
    channel.check(MPI_Bcast(&place, sizeof place, MPI_BYTE, 0, comm), what);
  }
  if (place.port == 0)
    throw CommError("rank 0 cannot listen for the others" + (why.empty() ? "" : ": " + why));
  const Launched launched{.rank = channel.rank(),
                          .world = channel.size(),
                          .address = place.addresses.data(),
                          .port = static_cast<std::uint16_t>(place.port),
                          .job = std::to_string(place.job)};
  const Deadline deadline = std::chrono::steady_clock::now() + patience;
  std::byte nothing{};
  Lines lines;
  if (launched.rank == 0)
    lines = serve_by_tcp(listener, launched, {&nothing, 1}, deadline, patience);
  else
    lines = ask_by_tcp(launched, {&nothing, 1}, deadline, patience);
  for (const Descriptor& line : lines) keep_alive(line.number());
  return lines;
}

}  // namespace shardexpr::detail
