// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

// TCP between the processes of a job, as far as they need it to find each other and to say that one
// of them cannot go on.

namespace shardexpr::detail {

using Deadline = std::chrono::steady_clock::time_point;

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_{number} {}
  Descriptor(Descriptor&& other) noexcept : number_{std::exchange(other.number_, -1)} {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int number() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_ = -1;
};

inline int milliseconds_to(Deadline deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 1'000'000));
}
/// False when the time is over.
inline bool await_socket(int socket, short events, Deadline deadline) {
  pollfd one{socket, events, 0};
  for (;;) {
    const int ready = ::poll(&one, 1, milliseconds_to(deadline));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}
/// False if the peer closes, or does not answer in time.
inline bool send_all(int socket, const void* data, std::size_t count, Deadline deadline) {
  const char* at = static_cast<const char*>(data);
  while (count > 0) {
    if (!await_socket(socket, POLLOUT, deadline)) return false;
    const ssize_t sent = ::send(socket, at, count, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (sent <= 0) return false;
    at += sent;
    count -= static_cast<std::size_t>(sent);
  }
  return true;
}
inline bool receive_all(int socket, void* data, std::size_t count, Deadline deadline) {
  char* at = static_cast<char*>(data);
  while (count > 0) {
    if (!await_socket(socket, POLLIN, deadline)) return false;
    const ssize_t got = ::recv(socket, at, count, 0);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) return false;
    at += got;
    count -= static_cast<std::size_t>(got);
  }
  return true;
}

/// Where a name, or any interface of this machine, is to be reached.
class Addresses {
 public:
  /// Of no name: every interface, to listen on.
  Addresses(const std::string& name, std::uint16_t port) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = name.empty() ? AI_PASSIVE : 0;
    error_ = ::getaddrinfo(name.empty() ? nullptr : name.c_str(), std::to_string(port).c_str(),
                           &hints, &first_);
  }
  Addresses(const Addresses&) = delete;
  Addresses& operator=(const Addresses&) = delete;
  ~Addresses() {
    if (first_ != nullptr) ::freeaddrinfo(first_);
  }
  const addrinfo* first() const { return first_; }
  std::string error() const { return error_ == 0 ? "" : ::gai_strerror(error_); }

 private:
  addrinfo* first_ = nullptr;
  int error_ = 0;
};

/// Listens on every interface: others may know this machine by another name than it has itself.
/// Port 0: a free one, which `port_of` tells. Empty, with the reason, when it cannot.
inline Descriptor listen_on(std::uint16_t port, std::string& why) {
  why = "no address";
  const Addresses addresses{"", port};
  for (const addrinfo* at = addresses.first(); at != nullptr; at = at->ai_next) {
    Descriptor socket{::socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol)};
    const int yes = 1, no = 0;
    if (socket) ::setsockopt(socket.number(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (socket && at->ai_family == AF_INET6)
      ::setsockopt(socket.number(), IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    if (socket && ::bind(socket.number(), at->ai_addr, at->ai_addrlen) == 0 &&
        ::listen(socket.number(), 1024) == 0)
      return socket;
    why = std::strerror(errno);
  }
  return {};
}
inline std::uint16_t port_of(const Descriptor& listener) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  ::getsockname(listener.number(), reinterpret_cast<sockaddr*>(&address), &size);
  const auto port = address.ss_family == AF_INET6
                        ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                        : reinterpret_cast<const sockaddr_in&>(address).sin_port;
  return ntohs(port);
}
/// Empty, with the reason, when nobody answers in time.
inline Descriptor connect_to(const addrinfo& at, Deadline deadline, std::string& why) {
  Descriptor socket{
      ::socket(at.ai_family, at.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, at.ai_protocol)};
  int error = errno;
  if (socket && ::connect(socket.number(), at.ai_addr, at.ai_addrlen) == 0) return socket;
  if (socket) error = errno;
  if (socket && error == EINPROGRESS) {
    socklen_t size = sizeof error;
    error = ETIMEDOUT;
    if (await_socket(socket.number(), POLLOUT, deadline))
      ::getsockopt(socket.number(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error == 0) return socket;
  }
  why = std::strerror(error);
  return {};
}

/// Lets a connection end when the other machine is cut off, which says nothing.
inline void keep_alive(int socket) {
  // 10 s of silence, then four questions, 5 s apart.
  const int yes = 1, idle_s = 10, interval_s = 5, count = 4, unanswered_ms = 30'000;
  ::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
  ::setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

}  // namespace shardexpr::detail
