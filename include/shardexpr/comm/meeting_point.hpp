// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <shardexpr/comm/launched.hpp>
#include <shardexpr/comm/sockets.hpp>
#include <shardexpr/core/error.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

// How the processes of a job find each other before they have a communicator: some bytes of rank 0
// go to every rank. By TCP, or by a file.

namespace shardexpr {
namespace detail {

/// Who asks: all that ranks of one job have alike, but the rank.
struct Greeting {
  static constexpr std::uint64_t magic = 0x7368617264657831;  // "shardex1"
  std::uint64_t mark = magic, rank = 0, world = 0, job = 0, bytes = 0;
};

inline std::uint64_t mark_of(const std::string& job) {
  std::uint64_t hash = 14695981039346656037u;
  for (const char c : job) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

/// "3, 5 and 2 more"
inline std::string ranks_text(const std::vector<std::size_t>& ranks) {
  constexpr std::size_t named = 8;
  std::string text;
  for (std::size_t i = 0; i < std::min(ranks.size(), named); ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
  if (ranks.size() > named) text += " and " + std::to_string(ranks.size() - named) + " more";
  return text;
}

inline std::string seconds_text(std::chrono::milliseconds time) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%g s", static_cast<double>(time.count()) / 1000);
  return digits;
}
[[noreturn]] inline void throw_missing(const Launched& launched,
                                       const std::vector<std::size_t>& ranks,
                                       const std::string& place,
                                       std::chrono::milliseconds patience) {
  throw CommError("rank 0: of " + std::to_string(launched.world) + " ranks " + ranks_text(ranks) +
                  " did not come to " + place + " within " + seconds_text(patience) +
                  "; see whether they started, and whether they reach it");
}

inline std::string place_of(const Launched& launched) {
  return launched.address + ":" + std::to_string(launched.port);
}

/// Connections of processes that have met: rank 0's to each other rank, in their order; another
/// rank's to rank 0. None where they met by a file.
using Lines = std::vector<Descriptor>;

/// Rank 0's side, at a port that it listens on.
inline Lines serve_by_tcp(const Descriptor& listener, const Launched& launched,
                          std::span<const std::byte> bytes, Deadline deadline,
                          std::chrono::milliseconds patience) {
  Lines lines(launched.world - 1);
  std::size_t missing = launched.world - 1;
  while (missing > 0) {
    if (!await_socket(listener.number(), POLLIN, deadline)) {
      std::vector<std::size_t> ranks;
      for (std::size_t rank = 1; rank < launched.world; ++rank)
        if (!lines[rank - 1]) ranks.push_back(rank);
      throw_missing(launched, ranks, "port " + std::to_string(launched.port), patience);
    }
    Descriptor peer{::accept4(listener.number(), nullptr, nullptr, SOCK_CLOEXEC)};
    if (!peer && (errno == EMFILE || errno == ENFILE))
      throw CommError("rank 0: it may not open a connection to each of " +
                      std::to_string(launched.world) +
                      " ranks; raise the limit of open files (ulimit -n) where it runs");
    if (!peer) continue;
    Greeting greeting;
    // A stranger, or one who died, must not hold up the others.
    const Deadline soon =
        std::min(deadline, std::chrono::steady_clock::now() + std::chrono::seconds{5});
    if (!receive_all(peer.number(), &greeting, sizeof greeting, soon) ||
        greeting.mark != Greeting::magic || greeting.job != mark_of(launched.job))
      continue;
    Greeting answer{
        .rank = greeting.rank, .world = launched.world, .job = greeting.job, .bytes = bytes.size()};
    if (!send_all(peer.number(), &answer, sizeof answer, soon)) continue;
    if (greeting.world != launched.world || greeting.rank == 0 || greeting.rank >= launched.world)
      throw CommError("rank 0: a process calls itself rank " + std::to_string(greeting.rank) +
                      " of " + std::to_string(greeting.world) + ", this is a job of " +
                      std::to_string(launched.world) + "; start all ranks alike");
    if (lines[greeting.rank - 1])
      throw CommError("rank 0: two processes call themselves rank " +
                      std::to_string(greeting.rank) + "; start each rank once");
    char done = 0;
    if (!send_all(peer.number(), bytes.data(), bytes.size(), soon) ||
        !receive_all(peer.number(), &done, 1, soon))
      continue;
    lines[greeting.rank - 1] = std::move(peer);
    --missing;
  }
  return lines;
}

inline Lines serve_by_tcp(const Launched& launched, std::span<const std::byte> bytes,
                          Deadline deadline, std::chrono::milliseconds patience) {
  std::string why;
  const Descriptor listener = listen_on(launched.port, why);
  if (!listener)
    throw CommError("rank 0: cannot listen on port " + std::to_string(launched.port) + ": " + why +
                    "; set MASTER_PORT to a free one on every rank");
  return serve_by_tcp(listener, launched, bytes, deadline, patience);
}

/// The others' side. The address may be several, with commas between, of which any may do.
inline Lines ask_by_tcp(const Launched& launched, std::span<std::byte> bytes, Deadline deadline,
                        std::chrono::milliseconds patience) {
  const std::string rank = "rank " + std::to_string(launched.rank) + ": ";
  std::string why = "it is not there";
  std::size_t begin = 0;
  do {
    const std::size_t end = std::min(launched.address.find(',', begin), launched.address.size());
    const Addresses addresses{launched.address.substr(begin, end - begin), launched.port};
    const bool is_last = end == launched.address.size();
    begin = is_last ? 0 : end + 1;
    if (!addresses.error().empty()) why = addresses.error();
    for (const addrinfo* at = addresses.first(); at != nullptr; at = at->ai_next) {
      // One of several may not answer at all.
      const Deadline soon =
          std::min(deadline, std::chrono::steady_clock::now() + std::chrono::seconds{3});
      Descriptor socket = connect_to(*at, soon, why);
      if (!socket) continue;
      const Greeting greeting{.rank = launched.rank,
                              .world = launched.world,
                              .job = mark_of(launched.job),
                              .bytes = bytes.size()};
      Greeting answer;
      if (!send_all(socket.number(), &greeting, sizeof greeting, deadline) ||
          !receive_all(socket.number(), &answer, sizeof answer, deadline)) {
        why = "it answers, but not as a rank of this job";
        continue;
      }
      if (answer.mark != Greeting::magic || answer.world != launched.world ||
          answer.bytes != bytes.size())
        throw CommError(rank + "rank 0 at " + place_of(launched) + " is of a job of " +
                        std::to_string(answer.world) + " ranks, this process of " +
                        std::to_string(launched.world) +
                        "; start all ranks alike, with one build of the program");
      const char done = 1;
      if (receive_all(socket.number(), bytes.data(), bytes.size(), deadline) &&
          send_all(socket.number(), &done, 1, deadline)) {
        Lines lines;
        lines.push_back(std::move(socket));
        return lines;
      }
      why = "it went away";
    }
    if (is_last) std::this_thread::sleep_for(std::chrono::milliseconds{20});
  } while (std::chrono::steady_clock::now() < deadline);
  throw CommError(rank + "rank 0 was not reached at " + place_of(launched) + " within " +
                  seconds_text(patience) + ": " + why +
                  "; see whether it started, and whether MASTER_ADDR and MASTER_PORT are its own");
}

/// What lies in a file by which ranks meet: a greeting, a number of rank 0's own, bytes.
struct MeetingFile {
  Greeting greeting;
  std::uint64_t number = 0;
};
inline bool write_whole(const std::string& path, const MeetingFile& head,
                        std::span<const std::byte> bytes) {
  const std::string draft = path + ".draft";
  std::ofstream file{draft, std::ios::binary | std::ios::trunc};
  file.write(reinterpret_cast<const char*>(&head), sizeof head);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(draft, path, error);  // all of it at once
  return file && !error;
}
/// False where there is no such file, or none that is whole.
inline bool read_whole(const std::string& path, MeetingFile& head, std::span<std::byte> bytes) {
  std::ifstream file{path, std::ios::binary};
  file.read(reinterpret_cast<char*>(&head), sizeof head);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return file.good() && head.greeting.mark == Greeting::magic;
}
inline std::string file_of_rank(const Launched& launched, std::size_t rank) {
  return launched.file + "." + std::to_string(rank);
}
inline constexpr std::chrono::milliseconds file_pause{10};

/// Rank 0's side. A file that an earlier run left is replaced, and who read it reads again.
inline void serve_by_file(const Launched& launched, std::span<const std::byte> bytes,
                          Deadline deadline, std::chrono::milliseconds patience) {
  std::random_device random;
  const MeetingFile head{
      {.world = launched.world, .job = mark_of(launched.job), .bytes = bytes.size()},
      (std::uint64_t{random()} << 32) | random()};
  std::error_code ignored;
  for (std::size_t rank = 1; rank < launched.world; ++rank)
    std::filesystem::remove(file_of_rank(launched, rank), ignored);
  if (!write_whole(launched.file, head, bytes))
    throw CommError("rank 0: " + launched.file + " cannot be written: " + std::strerror(errno) +
                    "; name a file in a directory that every rank sees");
  std::vector<std::size_t> missing(launched.world - 1);
  std::iota(missing.begin(), missing.end(), std::size_t{1});
  for (;;) {
    std::erase_if(missing, [&](std::size_t rank) {
      MeetingFile answer;
      if (!read_whole(file_of_rank(launched, rank), answer, {}) || answer.number != head.number)
        return false;
      std::filesystem::remove(file_of_rank(launched, rank), ignored);
      return true;
    });
    if (missing.empty()) break;
    if (std::chrono::steady_clock::now() >= deadline) {
      std::filesystem::remove(launched.file, ignored);
      throw_missing(launched, missing, launched.file, patience);
    }
    std::this_thread::sleep_for(file_pause);
  }
  std::filesystem::remove(launched.file, ignored);  // which tells the others that all have come
}

/// The others' side: reads, answers, and believes what it read when rank 0 takes the file away.
inline void ask_by_file(const Launched& launched, std::span<std::byte> bytes, Deadline deadline,
                        std::chrono::milliseconds patience) {
  const std::string rank = "rank " + std::to_string(launched.rank) + ": ";
  std::uint64_t answered = 0;
  std::string why = "is not there";
  std::vector<std::byte> read(bytes.size());
  for (;;) {
    MeetingFile head;
    if (!read_whole(launched.file, head, read)) {
      if (answered != 0 && !std::filesystem::exists(launched.file)) return;
    } else if (head.greeting.job != mark_of(launched.job)) {
      why = "is of another job";
    } else if (head.number != answered) {
      if (head.greeting.world != launched.world || head.greeting.bytes != bytes.size()) {
        why = "is of a job of " + std::to_string(head.greeting.world) + " ranks, this process of " +
              std::to_string(launched.world);
      } else {
        std::copy(read.begin(), read.end(), bytes.begin());
        answered = head.number;
        why = "was not taken away by rank 0";
        head.greeting.rank = launched.rank;
        if (!write_whole(file_of_rank(launched, launched.rank), head, {}))
          throw CommError(rank + file_of_rank(launched, launched.rank) + " cannot be written: " +
                          std::strerror(errno) + "; let every rank write to that directory");
      }
    }
    if (std::chrono::steady_clock::now() >= deadline)
      throw CommError(rank + launched.file + " " + why + " within " + seconds_text(patience) +
                      "; see whether all ranks started, with one SHARDEXPR_MEET_FILE on a disk "
                      "that all see");
    std::this_thread::sleep_for(file_pause);
  }
}

/// `share_bytes`, and what connects the processes from then on.
inline Lines meet(const Launched& launched, std::span<std::byte> bytes,
                  std::chrono::milliseconds patience) {
  if (launched.world == 1) return {};
  const Deadline deadline = std::chrono::steady_clock::now() + patience;
  Lines lines;
  if (!launched.file.empty() && launched.rank == 0)
    serve_by_file(launched, bytes, deadline, patience);
  else if (!launched.file.empty())
    ask_by_file(launched, bytes, deadline, patience);
  else if (launched.rank == 0)
    lines = serve_by_tcp(launched, bytes, deadline, patience);
  else
    lines = ask_by_tcp(launched, bytes, deadline, patience);
  for (const Descriptor& line : lines) keep_alive(line.number());
  return lines;
}

}  // namespace detail

/// Bytes of rank 0, for every rank of a job: an id by which a communicator is made, say.
///
/// Shapes:  as many bytes in every rank, at most 1 MiB.
/// Order:   every rank calls it, once for a place; rank 0 returns when all have them.
/// Errors:  CommError when ranks do not meet within `patience`, with those that are missing; when
///          they are of different jobs or call themselves the same.
inline void share_bytes(const Launched& launched, std::span<std::byte> bytes,
                        std::chrono::milliseconds patience) {
  (void)detail::meet(launched, bytes, patience);
}

}  // namespace shardexpr
