// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/meeting_point.hpp>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include <sys/socket.h>

// What watches of a job's ranks say to each other.

namespace shardexpr::detail {

/// Why a rank cannot go on.
struct Complaint {
  /// `own`: it knows. `stuck`: a call does not end. `peer`: the transport lost another rank, or was
  /// left by it, so that somebody else may know.
  enum class Reason : char { own = 'o', stuck = 's', peer = 'p' };
  Reason reason = Reason::own;
  std::string communicator{};  // empty: of no call
  std::uint64_t sequence = 0;
  std::string call{};
  std::string why{};

  std::string text() const {
    return static_cast<char>(reason) + communicator + '\n' + std::to_string(sequence) + '\n' +
           call + '\n' + why;
  }
  static Complaint from(std::string_view text) {
    Complaint complaint;
    if (text.empty()) return complaint;
    complaint.reason = static_cast<Reason>(text.front());
    text.remove_prefix(1);
    const auto next = [&text] {
      const std::string_view part = text.substr(0, text.find('\n'));
      text.remove_prefix(std::min(text.size(), part.size() + 1));
      return part;
    };
    complaint.communicator = next();
    const std::string_view number = next();
    std::from_chars(number.data(), number.data() + number.size(), complaint.sequence);
    complaint.call = next();
    complaint.why = text;
    return complaint;
  }
};

/// A connection to another rank, which carries messages.
class WatchLine {
 public:
  enum class Kind : std::uint32_t { leave, complain, ask, answer, verdict };
  enum class State { open, left, gone };

  WatchLine(std::size_t rank, Descriptor socket) : rank_{rank}, socket_{std::move(socket)} {}

  std::size_t rank() const { return rank_; }
  int number() const { return socket_.number(); }

  /// One who does not take it within a second is found out by its line.
  void send(Kind kind, const std::string& text) const {
    const Head head{kind, static_cast<std::uint32_t>(text.size())};
    std::string bytes(sizeof head, '\0');
    std::memcpy(bytes.data(), &head, sizeof head);
    bytes += text;
    (void)send_all(socket_.number(), bytes.data(), bytes.size(),
                   std::chrono::steady_clock::now() + std::chrono::seconds{1});
  }
  /// Takes what has come and calls `each(kind, text)`.
  template <class Each>
  State receive(Each each) {
    char bytes[4096];
    const ssize_t got = ::recv(socket_.number(), bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return State::open;
    if (got > 0) received_.append(bytes, static_cast<std::size_t>(got));
    for (Head head; received_.size() >= sizeof head;) {
      std::memcpy(&head, received_.data(), sizeof head);
      if (received_.size() < sizeof head + head.size_bytes) break;
      const std::string text = received_.substr(sizeof head, head.size_bytes);
      received_.erase(0, sizeof head + head.size_bytes);
      if (head.kind == Kind::leave) return State::left;
      each(head.kind, text);
    }
    return got > 0 ? State::open : State::gone;
  }

 private:
  struct Head {
    Kind kind;
    std::uint32_t size_bytes;
  };

  std::size_t rank_;
  Descriptor socket_;
  std::string received_;  // and not yet understood
};

}  // namespace shardexpr::detail
