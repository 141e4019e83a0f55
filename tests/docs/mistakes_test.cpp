// SPDX-License-Identifier: Apache-2.0
// docs/mistakes.md: each mistake is made here, and what the page quotes is what comes out. Messages
// of the compiler are compared with docs/diagnostics.md, which the compile-fail cases are held to.
#include <shardexpr/checkpoint/load.hpp>
#include <shardexpr/checkpoint/save.hpp>
#include <shardexpr/nn/token.hpp>

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "../../examples/tutorial/perceptron.hpp"
#include "../support/error_of.hpp"
#include "../support/scratch.hpp"
#include <doctest/doctest.h>

namespace {

using perceptron::Config;
using perceptron::Model;
using perceptron::Points;
using Trainer = sx::Sharded<Model, sx::FullShard>;

// What the page calls a mistake breaks a rule, and what it says to write instead does not.
static_assert(!sx::LegalStrategy<sx::FullShard, sx::NoShard>);
static_assert(!sx::LegalStrategy<sx::OffloadAll, sx::Offload<sx::OnDevice, sx::OnHost>>);
static_assert(!sx::LegalStrategy<sx::ShardGradOp, sx::BackwardPost>);
static_assert(sx::LegalStrategy<sx::ShardGradOp>);
static_assert(!sx::LegalStrategy<sx::MixedPrecision<sx::fp16, sx::fp32>>);
static_assert(sx::LegalStrategy<sx::MixedPrecision<sx::fp16, sx::fp32>, sx::DynamicLossScale>);
static_assert(sx::LegalStrategy<sx::MixedPrecision<sx::bf16, sx::fp32>>);
static_assert(!sx::LegalStrategy<sx::ShardGradOp, sx::OffloadAll>);
static_assert(sx::LegalStrategy<sx::ShardGradOp, sx::Offload<sx::OnDevice, sx::OnHost>>);

std::string read(const std::string& path) {
  std::ifstream in{path};
  REQUIRE(in);
  return {std::istreambuf_iterator<char>{in}, {}};
}

/// White space as one space: a page wraps its lines.
std::string flat(const std::string& text) {
  std::string one;
  for (const char c : text) {
    const bool is_space = c == ' ' || c == '\n';
    if (!is_space)
      one += c;
    else if (!one.empty() && one.back() != ' ')
      one += ' ';
  }
  while (!one.empty() && one.back() == ' ') one.pop_back();
  return one;
}

/// A source without the seams between literals that follow each other.
std::string unseamed(const std::string& source) {
  const std::string one = flat(source);
  std::string all;
  for (std::size_t at = 0; at < one.size();) {
    const bool is_seam = one.compare(at, 3, "\" \"") == 0;
    if (!is_seam) all += one[at];
    at += is_seam ? 3 : 1;
  }
  return all;
}

/// Whether `text` is `quote`, in which "..." stands for anything.
bool is_quoted(const std::string& text, const std::string& quote) {
  std::size_t at = 0, from = 0;
  for (bool is_first = true;; is_first = false) {
    const std::size_t end = std::min(quote.find("...", from), quote.size());
    const std::string piece = quote.substr(from, end - from);
    const std::size_t found = text.find(piece, at);
    if (found == text.npos || (is_first && found != 0)) return false;
    at = found + piece.size();
    if (end == quote.size()) return piece.empty() || text.ends_with(piece);
    from = end + 3;
  }
}

struct Quote {
  std::string heading, text, source;  // source: the file that has these words, or none
};
/// The page's ```text blocks, each with the heading above it.
std::vector<Quote> quotes(const std::string& page) {
  std::vector<Quote> all;
  std::string heading, before;
  const std::string fence = "```", says = "<!-- said by ";
  std::size_t at = 0;
  while (at < page.size()) {
    const std::size_t end = std::min(page.find('\n', at), page.size());
    const std::string line = page.substr(at, end - at);
    at = end + 1;
    if (line.starts_with("## ")) heading = line.substr(3);
    const bool is_said = before.starts_with(says) && before.ends_with(" -->");
    const std::string source =
        is_said ? before.substr(says.size(), before.size() - says.size() - 4) : "";
    before = line;
    if (line != fence + "text") continue;
    const std::size_t last = page.find("\n" + fence, at);
    REQUIRE(last != page.npos);
    all.push_back({heading, flat(page.substr(at, last - at)), source});
    at = page.find('\n', last + 1) + 1;
  }
  return all;
}

/// `body(comm, trainer)` on each of two ranks.
template <class Body>
void on_two_ranks(Body body, const Trainer::Options& options = {}) {
  sx::launch(2, [&](sx::Threads& comm) {
    sx::Cpu device;
    Trainer trainer{device, comm, Config{}, options};
    body(comm, trainer);
  });
}

/// Headings of the page, and what the mistake made below them says.
std::multimap<std::string, std::string> mistakes() {
  std::multimap<std::string, std::string> said;
  const auto make = [&](const std::string& heading, auto mistake) {
    const std::string message = error_of(mistake);
    REQUIRE_MESSAGE(!message.empty(), heading);
    said.emplace(heading, message);
  };
  const Points points{Config{}, 1};

  make("Ranks that call different things", [&] {
    on_two_ranks([&](sx::Threads& comm, Trainer& trainer) {
      if (comm.rank() == 0) (void)trainer.step(points.batch());
      if (comm.rank() == 1) (void)trainer.evaluate(points.batch());
    });
  });
  make("A rank that takes fewer steps", [&] {
    on_two_ranks([&](sx::Threads& comm, Trainer& trainer) {
      for (std::size_t step = 0; step < 2 - comm.rank(); ++step) (void)trainer.step(points.batch());
    });
  });
  make("Ranks with different configurations", [&] {
    sx::launch(2, [&](sx::Threads& comm) {
      sx::Cpu device;
      Trainer trainer{device, comm, Config{.width = 16 + 64 * comm.rank()}};
    });
  });
  make("Tokens outside of the vocabulary",
       [&] { (void)sx::nn::detail::checked_token(50257, 50257); });
  make("Gradients that are not finite", [&] {
    on_two_ranks([&](sx::Threads&, Trainer& trainer) {
      const Config config;
      const std::vector<float> y(config.rows, std::numeric_limits<float>::infinity());
      (void)trainer.step({points.batch().x, y.data()});
    });
  });
  make("Another number of micro-batches", [&] {
    on_two_ranks([&](sx::Threads&, Trainer& trainer) { (void)trainer.step(points.batch()); },
                 {.micro_batches = 4});
  });
  make("A step while parameters are held", [&] {
    on_two_ranks([&](sx::Threads&, Trainer& trainer) {
      const auto w = trainer.gather<perceptron::First>();
      (void)trainer.step(points.batch());
    });
  });
  make("A group that does not divide the ranks",
       [&] { (void)sx::plan<sx::Sharded<Model, sx::HybridShard<4>>>({}, 6); });
  make("A bound that holds no unit",
       [&] { (void)sx::plan<sx::Sharded<Model, sx::MaxLive<100>>>({}, 2); });
  make("Nothing to load, or another model", [&] { (void)sx::checkpoint_info("no_such_folder"); });
  const Scratch scratch;
  on_two_ranks(
      [&](sx::Threads&, Trainer& trainer) { sx::save_checkpoint(trainer, scratch.path()); });
  make("Nothing to load, or another model", [&] {
    sx::launch(2, [&](sx::Threads& comm) {
      sx::Cpu device;
      Trainer trainer{device, comm, Config{.width = 32}};
      (void)sx::load_checkpoint(trainer, scratch.path());
    });
  });
  return said;
}

}  // namespace

TEST_CASE("what docs/mistakes.md quotes is what is said") {
  const std::string page = read(SHARDEXPR_DOCS "/mistakes.md");
  const std::string diagnostics = flat(read(SHARDEXPR_DOCS "/diagnostics.md"));
  const auto said = mistakes();
  std::size_t at_run_time = 0, by_the_compiler = 0;
  for (const Quote& each : quotes(page)) {
    const std::string &heading = each.heading, &quote = each.text, &source = each.source;
    CAPTURE(heading);
    CAPTURE(quote);
    if (quote.starts_with("[SX")) {
      CHECK(diagnostics.find("static assertion failed: " + quote) != diagnostics.npos);
      ++by_the_compiler;
      continue;
    }
    if (!source.empty()) {  // what only MPI can provoke
      CHECK(unseamed(read(SHARDEXPR_DOCS "/../" + source)).find(quote) != std::string::npos);
      continue;
    }
    const auto [first, last] = said.equal_range(heading);
    std::string messages;
    for (auto message = first; message != last; ++message) messages += message->second + "\n";
    CAPTURE(messages);
    CHECK(std::any_of(first, last,
                      [&](const auto& message) { return is_quoted(flat(message.second), quote); }));
    ++at_run_time;
  }
  // A mistake that is made here stands on the page.
  CHECK(at_run_time == said.size());
  CHECK(by_the_compiler >= 4);
}

TEST_CASE("quotes are compared as wholes") {
  CHECK(is_quoted("a b c", "a b c"));
  CHECK(is_quoted("a b c", "a ... c"));
  CHECK(is_quoted("a b c", "a ..."));
  CHECK_FALSE(is_quoted("a b c", "a b"));
  CHECK_FALSE(is_quoted("a b c", "b c"));
  CHECK_FALSE(is_quoted("a b c", "a ... b"));
  CHECK_FALSE(is_quoted("a b c", "a x ..."));
}
