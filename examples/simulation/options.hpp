// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>

/// Input that cannot be computed with, found by every process alike. One line: what, and what to
/// do. The program ends with status 2.
struct BadInput : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  int cells = 32, refinement = 4, runs = 12, every = 3, tests = 3;
  double time = 1, diffusivity = 5e-4;
  std::size_t width = 16, depth = 1;
  float lr = 1e-2f;
  std::uint64_t seed = 1;
  std::string out;
  double assert_gain = 0;
  bool help = false;
};

inline constexpr const char* usage =
    "usage: mpirun -n P simulation [options]\n"
    "A scalar that a flow stirs, on a coarse grid and on a fine one, over P processes. While the\n"
    "fine one runs, a network learns what the coarse one's fluxes lack. Then both coarse grids,\n"
    "plain and with the closure, start where neither has been and are held against the fine one.\n"
    "\n"
    "  --cells N         of the coarse grid, a side (32)\n"
    "  --refinement N    into how many the reference cuts each, a side; even (4)\n"
    "  --time X          length of a run to learn from; tests are twice as long (1)\n"
    "  --diffusivity X   of the scalar (0.0005)\n"
    "  --runs N          to learn from, each of another flow and start (12)\n"
    "  --every N         steps of the coarse grid from one update to the next (3)\n"
    "  --tests N         of flows and starts never seen (3)\n"
    "  --width N         of the network's layers (16)\n"
    "  --depth N         layers between its first and its last (1)\n"
    "  --lr X            learning rate (0.01)\n"
    "  --seed N          of flows, starts and initial weights (1)\n"
    "  --out DIR         write there what plot.sh makes a picture of; the folder must exist\n"
    "  --assert-gain X   end with status 1 unless the closure divides the error by X or more, in\n"
    "                    each test at each time printed\n"
    "  --help            print this\n"
    "The last of a repeated option counts.\n";

namespace detail {

template <class T>
T parse_number(const std::string& option, const std::string& text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc::result_out_of_range)
    throw BadInput(option + " " + text + " is out of range; see --help for the default");
  if (error != std::errc{} || at != end)
    throw BadInput(option + " takes " + (std::is_integral_v<T> ? "a whole number" : "a number") +
                   ", got '" + text + "'");
  return value;
}

template <class T>
std::string text_of(T value) {
  std::string text = std::to_string(value);
  if constexpr (std::is_floating_point_v<T>) {
    char digits[32];
    text.assign(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
  }
  return text;
}

}  // namespace detail

/// Errors:  BadInput for an unknown or incomplete option and for a value out of range.
inline Options parse_options(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> std::string {
      if (++i == argc || *argv[i] == '\0') throw BadInput(name + " takes a value; see --help");
      return argv[i];
    };
    const auto number = [&]<class T>(T& to, std::type_identity_t<T> least,
                                     std::type_identity_t<T> most) {
      to = detail::parse_number<T>(name, value());
      if (!(to >= least && to <= most))
        throw BadInput(name + " " + argv[i] + " is out of range; give " + detail::text_of(least) +
                       " to " + detail::text_of(most));
    };
    if (name == "--cells")
      number(o.cells, 6, 4096);
    else if (name == "--refinement")
      number(o.refinement, 2, 64);
    else if (name == "--time")
      number(o.time, 0.01, 1000);
    else if (name == "--diffusivity")
      number(o.diffusivity, 0, 1);
    else if (name == "--runs")
      number(o.runs, 0, 1'000'000);
    else if (name == "--every")
      number(o.every, 1, 1'000'000);
    else if (name == "--tests")
      number(o.tests, 1, 1000);
    else if (name == "--width")
      number(o.width, 1, 4096);
    else if (name == "--depth")
      number(o.depth, 1, 100);
    else if (name == "--lr")
      number(o.lr, 1e-7f, 1);
    else if (name == "--seed")
      number(o.seed, 0, ~std::uint64_t{0});
    else if (name == "--out")
      o.out = value();
    else if (name == "--assert-gain")
      number(o.assert_gain, 0, 1000);
    else if (name == "--help")
      o.help = true;
    else
      throw BadInput("unknown option '" + name + "'; see --help");
  }
  if (o.help) return o;
  if (o.refinement % 2 != 0)
    throw BadInput("--refinement " + std::to_string(o.refinement) +
                   " is odd; give an even one: a grid of half the reference's is compared, too");
  if (o.cells * o.refinement > 32768)
    throw BadInput("--cells times --refinement is " + std::to_string(o.cells * o.refinement) +
                   "; give at most 32768 cells a side of the reference");
  // Steps follow the flow's speed; diffusion must not ask for shorter ones.
  const double most = 0.5 / (o.cells * o.refinement);
  if (o.diffusivity > most)
    throw BadInput("--diffusivity " + detail::text_of(o.diffusivity) +
                   " is more than explicit steps of the reference bear; give at most " +
                   detail::text_of(most));
  return o;
}
