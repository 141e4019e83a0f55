// SPDX-License-Identifier: Apache-2.0
// Our side of benchmarks/peers: what train_gpt does not show, an optimizer alone and collectives
// alone. Prints one line of JSON; peers/run.py takes turns with the same by PyTorch.
//
//   peers_ours adamw PARAMETERS [copy]             two threads, each half of the parameters
//   peers_ours reduce_scatter|all_gather|gather|all_reduce MIB PASSES    two ranks, threads
//
// adamw does a pass for each line of standard input and prints a line of it, and the check when
// that ends. Of collectives the first pass touches caches and pages; it is run and not counted.
#include <shardexpr/comm/threads.hpp>
#include <shardexpr/core/dtype.hpp>
#include <shardexpr/optim/adamw.hpp>

#include <algorithm>
#include <barrier>
#include <charconv>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "../triad.hpp"
#include "../update_part.hpp"

namespace shardexpr::benchmarks {
namespace {

constexpr std::size_t ranks = 2;

/// What a measurement prints: the seconds of each pass and a number by which the two sides' work
/// is compared.
struct Seen {
  std::vector<double> seconds;
  double check = 0;
};

void print(const Seen& seen) {
  std::printf("{\"seconds\":[");
  for (std::size_t i = 0; i < seen.seconds.size(); ++i)
    std::printf("%s%.9f", i == 0 ? "" : ",", seen.seconds[i]);
  std::printf("],\"check\":%.9g}\n", seen.check);
  std::fflush(stdout);
}

/// The check is the mean of the parameters.
template <class Compute>
Seen adamw(std::size_t parameters) {
  Seen seen;
  std::barrier turn{static_cast<std::ptrdiff_t>(ranks)};
  bool has_ended = false;  // written before the barrier, read behind it
  launch(ranks, [&](Threads& comm) {
    Part<AdamW, fp32, Compute> part{parameters / ranks};
    for (;;) {
      std::string line;
      if (comm.rank() == 0) has_ended = !std::getline(std::cin, line);
      turn.arrive_and_wait();  // asleep: ranks that wait for each other would keep a core busy
      if (has_ended) break;
      const double seconds = seconds_together(comm, part.context(), [&] { part.pass(); });
      if (comm.rank() == 0) print({{seconds}, 0});
    }
    if (comm.rank() != 0) return;
    double sum = 0;
    for (float p : part.parameters()) sum += static_cast<double>(p);
    seen.check = sum / static_cast<double>(part.parameters().size());
  });
  return seen;
}

/// Of ranks whose every element is rank + 1; the check adds the result's first element and its
/// last.
Seen collective(std::string_view name, std::size_t mib, std::size_t passes) {
  const std::size_t count = (mib << 20) / sizeof(float);
  Seen seen;
  launch(ranks, [&](Threads& comm) {
    Cpu device;
    Cpu::Stream stream;
    const Context<Cpu> ctx{device, stream};
    auto full = device.allocate<float>(count, Purpose::other);
    auto shard = device.allocate<float>(count / ranks, Purpose::other);
    auto gathered = comm.gather_buffer<float>(device, name == "gather" ? count : 0);
    const float mine = static_cast<float>(comm.rank() + 1);
    std::span<const float> result = full.span();
    for (std::size_t i = 0; i <= passes; ++i) {
      std::fill_n(full.data(), count, mine);
      std::fill_n(shard.data(), count / ranks, mine);
      const double seconds = seconds_together(comm, ctx, [&] {
        if (name == "reduce_scatter") {
          comm.reduce_scatter(ctx, full.span(), shard.span(), Reduction::mean);
          result = shard.span();
        } else if (name == "all_gather") {
          comm.all_gather(ctx, shard.span(), full.span());
        } else if (name == "gather") {
          comm.gather(ctx, shard.span(), gathered.span());
          result = gathered.span();
        } else {
          comm.all_reduce(ctx, full.span(), Reduction::mean);
        }
      });
      if (comm.rank() == 0 && i != 0) seen.seconds.push_back(seconds);
    }
    if (comm.rank() == 0) seen.check = static_cast<double>(result.front() + result.back());
    comm.barrier(ctx);
  });
  return seen;
}

std::size_t number(const char* what, const char* text) {
  std::size_t value = 0;
  const char* end = text + std::strlen(text);
  const auto [at, error] = std::from_chars(text, end, value);
  if (error != std::errc{} || at != end || value == 0)
    throw std::invalid_argument(std::string{what} + " is a whole number of at least 1, got '" +
                                text + "'");
  return value;
}

Seen measure(int argc, char** argv) {
  const std::string_view name = argc > 1 ? argv[1] : "";
  const bool is_adamw = name == "adamw";
  const bool copies = is_adamw && argc == 4 && std::string_view{argv[3]} == "copy";
  if (argc != (is_adamw ? 3 : 4) && !copies)
    throw std::invalid_argument("say: adamw PARAMETERS [copy], or a collective MIB PASSES");
  const std::size_t size = number(is_adamw ? "PARAMETERS" : "MIB", argv[2]);
  if (is_adamw) return copies ? adamw<bf16>(size) : adamw<fp32>(size);
  const std::size_t passes = number("PASSES", argv[3]);
  for (std::string_view known : {"reduce_scatter", "all_gather", "gather", "all_reduce"})
    if (name == known) return collective(name, size, passes);
  throw std::invalid_argument("'" + std::string{name} +
                              "' is none of adamw, reduce_scatter, all_gather, gather, all_reduce");
}

}  // namespace
}  // namespace shardexpr::benchmarks

int main(int argc, char** argv) {
  try {
    shardexpr::benchmarks::print(shardexpr::benchmarks::measure(argc, argv));
    return 0;
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "peers_ours: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "peers_ours: %s\n", error.what());
    return 1;
  }
}
