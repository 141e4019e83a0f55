// SPDX-License-Identifier: Apache-2.0
// A rank that fails, leaves or makes another call ends every rank with an error that names it.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/device/cpu.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "watchdog.hpp"
#include <doctest/doctest.h>

namespace shardexpr::testing {
namespace {

using detail::Collective;

constexpr std::size_t world = 3;
constexpr std::array all_collectives{
    Collective::all_gather,     Collective::gather,     Collective::gather_buffer,
    Collective::reduce_scatter, Collective::all_reduce, Collective::broadcast,
    Collective::all_to_all,     Collective::barrier,    Collective::split};

std::string name_of(Collective c) {
  return std::string{detail::collective_names[static_cast<std::size_t>(c)]};
}
std::string rank_name(std::size_t rank) { return "rank " + std::to_string(rank); }

/// How one rank's call differs from the others'.
enum class Fault { none, argument, count, dtype, option };

struct Rank {
  Cpu device;
  Cpu::Stream stream;
  Context<Cpu> ctx{device, stream};
  Threads& comm;
  std::vector<float> full, other, shard;
  std::vector<double> doubles, double_shard;
  std::vector<std::int64_t> integers;
  SharedBuffer<float> buffer;

  explicit Rank(Threads& c)
      : comm{c},
        full(2 * world * 4),
        other(2 * world * 4),
        shard(8),
        doubles(world * 4),
        double_shard(4),
        integers(4),
        buffer{comm.gather_buffer<float>(device, 2 * world * 4)} {
    comm.barrier(ctx);
    comm.barrier(ctx);  // the next call is number 4
  }

  void call(Collective collective, Fault fault = Fault::none) {
    const std::size_t n = fault == Fault::count ? 8 : 4;
    const std::span<float> wide = std::span{full}.first(world * n);
    const std::span<float> wide2 = std::span{other}.first(world * n);
    const std::span<float> piece = std::span{shard}.first(fault == Fault::argument ? 3 : n);
    const bool d = fault == Fault::dtype;
    const Reduction reduction = fault == Fault::option ? Reduction::mean : Reduction::sum;
    switch (collective) {
      case Collective::all_gather:
        if (d) return comm.all_gather(ctx, double_shard, std::span{doubles});
        return comm.all_gather(ctx, piece, wide);
      case Collective::gather:
        if (fault == Fault::option) return comm.gather(ctx, piece, wide);  // not the one buffer
        return comm.gather(ctx, piece, buffer.span().first(world * n));
      case Collective::gather_buffer:
        if (d) return void(comm.gather_buffer<double>(device, world * 4));
        return void(comm.gather_buffer<float>(device, world * n + (fault == Fault::argument)));
      case Collective::reduction_buffer:
        return;  // threads have none: they read any memory in place
      case Collective::reduce_scatter:
        if (d) return comm.reduce_scatter(ctx, doubles, std::span{double_shard}, reduction);
        return comm.reduce_scatter(ctx, wide, piece, reduction);
      case Collective::all_reduce:
        if (fault == Fault::argument)
          return comm.all_reduce(ctx, std::span{integers}, Reduction::mean);
        if (d) return comm.all_reduce(ctx, std::span{double_shard}, reduction);
        return comm.all_reduce(ctx, piece, reduction);
      case Collective::broadcast:
        if (d) return comm.broadcast(ctx, std::span{double_shard}, 0);
        return comm.broadcast(ctx, piece.first(std::min(n, piece.size())),
                              fault == Fault::argument ? world : fault == Fault::option);
      case Collective::all_to_all:
        if (d) return comm.all_to_all(ctx, doubles, std::span{doubles});
        return comm.all_to_all(ctx, wide, fault == Fault::argument ? wide : wide2);
      case Collective::barrier:
        return comm.barrier(ctx);
      case Collective::split:
        return void(comm.split(0, 0));
    }
  }
};

/// What came of a launch: the error that each rank saw leave its body, and the one of `launch`.
struct Outcome {
  std::array<std::string, world> text;
  std::array<bool, world> is_comm_error{};
  std::optional<std::size_t> failed_rank;
  std::string launch_text, nested_text;
};

template <class Body>
Outcome outcome_of(Body body) {
  Outcome outcome;
  try {
    launch(world, [&](Threads& comm) {
      try {
        Rank rank{comm};
        body(rank);
      } catch (const std::exception& e) {
        outcome.text[comm.rank()] = e.what();
        outcome.is_comm_error[comm.rank()] = dynamic_cast<const CommError*>(&e) != nullptr;
        throw;
      }
    });
  } catch (const RankError& e) {
    outcome.failed_rank = e.rank();
    outcome.launch_text = e.what();
    try {
      std::rethrow_if_nested(e);
    } catch (const std::exception& nested) {
      outcome.nested_text = nested.what();
    } catch (...) {
      outcome.nested_text = "not a std::exception";
    }
  }
  return outcome;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("01 a rank that throws before a collective ends those who wait in it") {
  Watchdog watchdog{"throw before"};
  for (Collective collective : all_collectives)
    for (std::size_t failing = 0; failing < world; ++failing) {
      CAPTURE(name_of(collective));
      CAPTURE(failing);
      const Outcome outcome = outcome_of([&](Rank& rank) {
        if (rank.comm.rank() == failing) throw std::out_of_range{"boom"};
        rank.call(collective);
      });
      REQUIRE(outcome.failed_rank == failing);
      CHECK(outcome.launch_text == rank_name(failing) + ": boom");
      CHECK(outcome.nested_text == "boom");
      for (std::size_t rank = 0; rank < world; ++rank)
        if (rank != failing) {
          CAPTURE(outcome.text[rank]);
          CHECK(outcome.is_comm_error[rank]);
          CHECK(outcome.text[rank].starts_with(rank_name(failing) + " failed: boom"));
          CHECK(contains(outcome.text[rank], rank_name(rank)));
          CHECK(contains(outcome.text[rank], name_of(collective) + " #4"));
        }
    }
}

TEST_CASE("02 a refused argument in one rank ends the others") {
  Watchdog watchdog{"bad argument"};
  for (Collective collective : all_collectives)
    for (std::size_t failing = 0; failing < world; ++failing) {
      if (collective == Collective::barrier || collective == Collective::split) continue;
      CAPTURE(name_of(collective));
      CAPTURE(failing);
      const Outcome outcome = outcome_of([&](Rank& rank) {
        rank.call(collective, rank.comm.rank() == failing ? Fault::argument : Fault::none);
      });
      REQUIRE(outcome.failed_rank == failing);
      CHECK_FALSE(outcome.is_comm_error[failing]);
      CHECK(outcome.text[failing].starts_with(name_of(collective) + " #4 of "));
      CHECK(outcome.nested_text == outcome.text[failing]);
      for (std::size_t rank = 0; rank < world; ++rank)
        if (rank != failing) {
          CHECK(outcome.is_comm_error[rank]);
          CHECK(outcome.text[rank].starts_with(rank_name(failing) +
                                               " failed: " + outcome.text[failing]));
        }
    }
}

TEST_CASE("03 a rank that returns early ends those who wait for it, or come later") {
  Watchdog watchdog{"early return"};
  for (bool late : {false, true})
    for (Collective collective : all_collectives)
      for (std::size_t leaving = 0; leaving < world; ++leaving) {
        CAPTURE(name_of(collective));
        CAPTURE(leaving);
        const Outcome outcome = outcome_of([&](Rank& rank) {
          if (rank.comm.rank() == leaving) return;
          if (late) std::this_thread::sleep_for(std::chrono::milliseconds{2});
          rank.call(collective);
        });
        REQUIRE(outcome.failed_rank.has_value());
        CHECK(*outcome.failed_rank != leaving);
        CHECK(contains(outcome.launch_text, rank_name(leaving) + " left"));
        CHECK(outcome.text[leaving].empty());
        for (std::size_t rank = 0; rank < world; ++rank)
          if (rank != leaving) {
            CAPTURE(outcome.text[rank]);
            CHECK(outcome.is_comm_error[rank]);
            CHECK(outcome.text[rank] ==
                  rank_name(leaving) + " left; " + rank_name(rank) + " needs it in " +
                      outcome.text[rank].substr(
                          outcome.text[rank].find(name_of(collective) + " #4")));
          }
      }
}

TEST_CASE("04 different collectives: every rank throws, and both calls are named") {
  Watchdog watchdog{"mismatch"};
  for (Collective collective : all_collectives)
    for (Collective wrong : all_collectives)
      for (std::size_t odd = 0; odd < world; ++odd) {
        if (wrong == collective) continue;
        CAPTURE(name_of(collective));
        CAPTURE(name_of(wrong));
        const Outcome outcome = outcome_of(
            [&](Rank& rank) { rank.call(rank.comm.rank() == odd ? wrong : collective); });
        REQUIRE(outcome.failed_rank.has_value());
        for (std::size_t rank = 0; rank < world; ++rank) {
          CAPTURE(outcome.text[rank]);
          CHECK(outcome.is_comm_error[rank]);
          CHECK(contains(outcome.text[rank], "rank 0: "));
          CHECK(contains(outcome.text[rank], rank_name(odd == 0 ? 1 : odd) + ": "));
          CHECK(contains(outcome.text[rank], name_of(collective) + " #4"));
          CHECK(contains(outcome.text[rank], name_of(wrong) + " #4"));
        }
      }
}

TEST_CASE("05 different counts, dtypes, roots, reductions, buffers") {
  Watchdog watchdog{"mismatched arguments"};
  struct Case {
    Collective collective;
    Fault fault;
    std::string usual, odd;
  };
  using enum Collective;
  const Case cases[] = {
      {all_gather, Fault::count, "all_gather #4 of 4 fp32", "all_gather #4 of 8 fp32"},
      {all_gather, Fault::dtype, "all_gather #4 of 4 fp32", "all_gather #4 of 4 fp64"},
      {gather, Fault::count, "gather #4 of 4 fp32", "gather #4 of 8 fp32"},
      {gather, Fault::option, "gather #4 of 4 fp32 into buffer ", "into buffer "},
      {gather_buffer, Fault::count, "gather_buffer #4 of 12 fp32", "gather_buffer #4 of 24 fp32"},
      {gather_buffer, Fault::dtype, "gather_buffer #4 of 12 fp32", "gather_buffer #4 of 12 fp64"},
      {reduce_scatter, Fault::count, "#4 of 4 fp32 (sum)", "#4 of 8 fp32 (sum)"},
      {reduce_scatter, Fault::dtype, "#4 of 4 fp32 (sum)", "#4 of 4 fp64 (sum)"},
      {reduce_scatter, Fault::option, "#4 of 4 fp32 (sum)", "#4 of 4 fp32 (mean)"},
      {all_reduce, Fault::count, "#4 of 4 fp32 (sum)", "#4 of 8 fp32 (sum)"},
      {all_reduce, Fault::dtype, "#4 of 4 fp32 (sum)", "#4 of 4 fp64 (sum)"},
      {all_reduce, Fault::option, "#4 of 4 fp32 (sum)", "#4 of 4 fp32 (mean)"},
      {broadcast, Fault::count, "#4 of 4 fp32 from root 0", "#4 of 8 fp32 from root 0"},
      {broadcast, Fault::dtype, "#4 of 4 fp32 from root 0", "#4 of 4 fp64 from root 0"},
      {broadcast, Fault::option, "#4 of 4 fp32 from root 0", "#4 of 4 fp32 from root 1"},
      {all_to_all, Fault::count, "all_to_all #4 of 4 fp32", "all_to_all #4 of 8 fp32"}};
  for (const Case& c : cases)
    for (std::size_t odd = 0; odd < world; ++odd) {
      CAPTURE(name_of(c.collective));
      const Outcome outcome = outcome_of([&](Rank& rank) {
        rank.call(c.collective, rank.comm.rank() == odd ? c.fault : Fault::none);
      });
      REQUIRE(outcome.failed_rank.has_value());
      for (std::size_t rank = 0; rank < world; ++rank) {
        CAPTURE(outcome.text[rank]);
        CHECK(outcome.is_comm_error[rank]);
        CHECK(contains(outcome.text[rank], c.usual));
        CHECK(contains(outcome.text[rank], c.odd));
        CHECK(contains(outcome.text[rank], rank_name(odd == 0 ? 1 : odd)));
      }
    }
}

TEST_CASE("06 what is not a std::exception ends every rank too") {
  Watchdog watchdog{"unknown exception"};
  const Outcome outcome = outcome_of([](Rank& rank) {
    if (rank.comm.rank() == 1) throw 42;
    rank.call(Collective::all_reduce);
  });
  REQUIRE(outcome.failed_rank == 1u);
  CHECK(outcome.launch_text == "rank 1: unknown exception");
  CHECK(outcome.nested_text == "not a std::exception");
  CHECK(outcome.text[0].starts_with("rank 1 failed: unknown exception"));
}

TEST_CASE("07 a failure ends waiters in parents, in sub-teams, and in other sub-teams") {
  Watchdog watchdog{"sub-teams"};
  for (std::size_t failing = 0; failing < 4; ++failing)
    for (int repeat = 0; repeat < 50; ++repeat) {
      std::array<std::string, 4> text;
      try {
        launch(4, [&](Threads& comm) {
          Cpu device;
          Cpu::Stream stream;
          const Context<Cpu> ctx{device, stream};
          const std::size_t rank = comm.rank();
          // Unwound after `pair`: a peer's error reaches `launch` before the cause does.
          struct Slow {
            ~Slow() { std::this_thread::sleep_for(std::chrono::milliseconds{2}); }
          };
          std::optional<Slow> slow;
          if (rank == failing) slow.emplace();
          Threads pair = comm.split(rank / 2 == failing / 2, 0);
          std::vector<float> x(64);
          try {
            if (rank == failing) throw std::runtime_error{"boom"};
            if (rank / 2 == failing / 2)
              pair.all_reduce(ctx, std::span{x}, Reduction::sum);  // its own sub-team
            else if (rank % 2 == 0)
              comm.barrier(ctx);  // the parent
            else
              pair.barrier(ctx);  // a sub-team without it
          } catch (const std::exception& e) {
            text[rank] = e.what();
            throw;
          }
        });
        FAIL("launch returned");
      } catch (const RankError& e) {
        // Never a consequence, though the sub-team heard of the end before `launch` did.
        CHECK(e.rank() == failing);
        CHECK(std::string{e.what()} == rank_name(failing) + ": boom");
      }
      for (std::size_t rank = 0; rank < 4; ++rank) {
        CAPTURE(text[rank]);
        if (rank != failing) CHECK(text[rank].starts_with(rank_name(failing) + " failed: "));
      }
    }
}

TEST_CASE("08 a rank that returns does not end the sub-teams of the others") {
  Watchdog watchdog{"return beside sub-teams"};
  launch(4, [](Threads& comm) {
    Cpu device;
    Cpu::Stream stream;
    const Context<Cpu> ctx{device, stream};
    Threads pair = comm.split(static_cast<int>(comm.rank() / 2), 0);
    for (int i = 0; i < (comm.rank() < 2 ? 1 : 200); ++i) pair.barrier(ctx);
  });
}

TEST_CASE("09 a rank ends while others read its memory: it waits for them") {
  Watchdog watchdog{"failure under load"};
  std::mt19937 random{9};
  for (int repeat = 0; repeat < 60; ++repeat) {
    const std::size_t failing = random() % 4, rounds = random() % 20;
    try {
      launch(4, [&](Threads& comm) {
        Cpu device;
        Cpu::Stream stream;
        const Context<Cpu> ctx{device, stream};
        Threads rest = comm.split(comm.rank() == failing, 0);
        for (std::size_t round = 0;; ++round) {
          // Freed by the unwinding: the sanitizers see whoever still reads it.
          std::vector<float> full(rest.size() * 20000, 1.0f), shard(20000);
          if (comm.rank() == failing && round == rounds) throw std::runtime_error{"boom"};
          rest.reduce_scatter(ctx, full, std::span{shard}, Reduction::sum);
          rest.all_gather(ctx, shard, std::span{full});
          if (shard[0] != static_cast<float>(rest.size())) throw std::logic_error{"wrong sum"};
        }
      });
      FAIL("launch returned");
    } catch (const RankError& e) {
      CHECK(e.rank() == failing);
      CHECK(contains(e.what(), "boom"));
    }
  }
}

TEST_CASE("10 a caught error in one rank does not hang the others") {
  Watchdog watchdog{"caught"};
  const Outcome outcome = outcome_of([](Rank& rank) {
    if (rank.comm.rank() == 2) {
      try {
        Threads sub = rank.comm.split(0, 0);
        throw std::runtime_error{"swallowed"};
      } catch (const std::runtime_error&) {
      }
      rank.comm.barrier(rank.ctx);
    } else {
      Threads sub = rank.comm.split(0, 0);
      sub.barrier(rank.ctx);  // waits for a communicator that was unwound
    }
  });
  REQUIRE(outcome.failed_rank.has_value());
  CHECK(*outcome.failed_rank != 2);
  CHECK(contains(outcome.launch_text, "rank 2 failed: an exception unwound its communicator"));
}

TEST_CASE("11 teams and ranks out of range are refused") {
  Watchdog watchdog{"construction"};
  CHECK_THROWS_AS(Team{0}, ConfigError);
  CHECK_THROWS_AS(Team{1025}, ConfigError);
  CHECK_THROWS_AS(launch(0, [](Threads&) {}), ConfigError);
  CHECK_THROWS_AS(launch(1025, [](Threads&) {}), ConfigError);
  CHECK_THROWS_AS((Threads{nullptr, 0}), ConfigError);
  const auto team = std::make_shared<Team>(2);
  CHECK_THROWS_AS((Threads{team, 2}), ConfigError);
  const Threads first{team, 0};
  CHECK_THROWS_AS((Threads{team, 0}), ConfigError);  // two threads as one rank
}

TEST_CASE("12 threads made by hand: fail, or just leave") {
  Watchdog watchdog{"by hand"};
  for (bool report : {true, false}) {
    const auto team = std::make_shared<Team>(2);
    std::string text;
    std::thread other{[&] {
      try {
        Threads comm{team, 1};
        try {
          throw std::runtime_error{"boom"};
        } catch (...) {
          if (report) team->fail(1, std::current_exception());
          throw;
        }
      } catch (const std::runtime_error&) {
      }
    }};
    Cpu device;
    Cpu::Stream stream;
    Threads comm{team, 0};
    try {
      comm.barrier(Context<Cpu>{device, stream});
    } catch (const CommError& e) {
      text = e.what();
    }
    other.join();
    CHECK(text == std::string{report ? "rank 1 failed: boom"
                                     : "rank 1 failed: an exception unwound its communicator"} +
                      "; rank 0 needs it in barrier #1");
    if (report) CHECK_THROWS_AS(team->rethrow(), RankError);
  }
}

TEST_CASE("13 ranks of a sub-team are named as the job knows them") {
  Watchdog watchdog{"names"};
  const Outcome outcome = outcome_of([](Rank& rank) {
    if (rank.comm.rank() == 0) return;
  });
  CHECK_FALSE(outcome.failed_rank.has_value());
  const Outcome mismatch = outcome_of([](Rank& rank) {
    Threads sub = rank.comm.split(rank.comm.rank() > 0, 0);  // ranks 1 and 2
    if (rank.comm.rank() == 1) sub.barrier(rank.ctx);
    if (rank.comm.rank() == 2) sub.broadcast(rank.ctx, std::span{rank.shard}, 1);
  });
  CHECK(mismatch.text[1].starts_with("rank 1: barrier #1, rank 2: broadcast #1 of 8 fp32 "));
}

}  // namespace shardexpr::testing
