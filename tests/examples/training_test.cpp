// SPDX-License-Identifier: Apache-2.0
// That train_gpt trains: repeatable, the same under every sharding, learning; and what a person
// sees.
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "json.hpp"
#include "program.hpp"
#include <doctest/doctest.h>
#include <pty.h>
#include <sys/ioctl.h>

namespace {

/// Loss and gradient norm of each step, as the log writes them: equal text, equal bits.
std::string curve(const Words& options) {
  const std::string path = scratch() / "curve.jsonl";
  const Ended ended = train(Words{"--log", path, "--quiet"} + options);
  REQUIRE(ended.status == 0);
  std::string all;
  const std::vector<std::string> lines = lines_of(read_file(path));
  for (std::size_t i = 1; i + 1 < lines.size(); ++i) {
    const Json event = Json::parse(lines[i]);
    all += event["loss"].text + ' ' + event["grad_norm"].text + '\n';
  }
  REQUIRE(lines_of(all).size() == lines.size() - 2);
  return all;
}

/// Those of this program that move state and leave arithmetic alone: shardings and offload in fp32.
std::vector<Listed> shardings() {
  std::vector<Listed> all;
  for (const Listed& strategy : strategies())
    if (strategy.type.find("Shard") != std::string::npos &&
        strategy.type.ends_with(", AdamW, FullPrecision, On<Cpu>, Over<Threads>>"))
      all.push_back(strategy);
  return all;
}

double entropy(const std::string& bytes) {
  std::array<double, 256> count{};
  for (const char byte : bytes) count[static_cast<unsigned char>(byte)] += 1;
  double sum = 0;
  for (const double n : count)
    if (n > 0) sum += n * std::log(static_cast<double>(bytes.size()) / n);
  return sum / static_cast<double>(bytes.size());
}

/// Runs on a terminal of so many columns; returns all that it shows and its status.
Ended run_on_terminal(Words words, unsigned short columns) {
  winsize size{.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  int terminal = -1;
  const pid_t child = forkpty(&terminal, nullptr, nullptr, &size);
  if (child == 0) {
    execv(argv[0], argv.data());
    _exit(127);
  }
  if (child < 0) throw std::runtime_error("no terminal");
  Ended ended;
  char buffer[4096];
  for (ssize_t n; (n = read(terminal, buffer, sizeof buffer)) > 0;)
    ended.out.append(buffer, static_cast<std::size_t>(n));
  close(terminal);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status)) ended.status = WEXITSTATUS(status);
  return ended;
}

}  // namespace

TEST_CASE("the same seed trains the same, another seed otherwise") {
  const std::string first = curve({"--seed", "7"});
  CHECK(curve({"--seed", "7"}) == first);
  CHECK(curve({"--seed", "8"}) != first);
  CHECK(curve({"--seed", "7", "--lr", "0.002"}) != first);
  CHECK(curve({"--seed", "18446744073709551615"}) != first);
  // A shorter run is the beginning of a longer one.
  CHECK(curve({"--seed", "7", "--steps", "6"}).starts_with(first));
}

TEST_CASE("--async changes when things run, not what they give") {
  CHECK(curve({"--async"}) == curve({}));
  CHECK(curve({"--async", "--accumulate", "3"}) == curve({"--accumulate", "3"}));
}

TEST_CASE("--accumulate averages micro-batches") {
  CHECK(curve({"--accumulate", "1"}) == curve({}));
  CHECK(curve({"--accumulate", "2"}) != curve({}));
}

TEST_CASE("--clip and --weight-decay change the steps behind the first update") {
  const auto first_line = [](const std::string& all) { return lines_of(all).front(); };
  const std::string plain = curve({});
  CHECK(curve({"--clip", "1e30"}) == plain);
  CHECK(curve({"--weight-decay", "0.1"}) == plain);  // AdamW's own
  // AdamW takes a factor out again, but for the epsilon: the norm must be small beside that.
  for (const Words& words : {Words{"--clip", "1e-9"}, Words{"--weight-decay", "0.5"}}) {
    CAPTURE(words[0]);
    CHECK(curve(words) != plain);
    CHECK(first_line(curve(words)) == first_line(plain));
  }
}

TEST_CASE("--lr-schedule and --warmup: the rate of each step, in the log and in what it does") {
  const auto rates = [](const Words& options) {
    const std::string path = scratch() / "rates.jsonl";
    REQUIRE(train(Words{"--log", path, "--steps", "8", "--lr", "0.008"} + options).status == 0);
    std::vector<double> all;
    for (const std::string& line : lines_of(read_file(path)))
      if (const Json event = Json::parse(line); event.has("learning_rate"))
        all.push_back(event["learning_rate"].real() * 1000);
    return all;
  };
  const auto check = [&](const Words& options, const std::vector<double>& want) {
    const std::vector<double> seen = rates(options);
    REQUIRE(seen.size() == want.size());
    for (std::size_t s = 0; s < want.size(); ++s)
      CHECK(seen[s] == doctest::Approx(want[s]).epsilon(1e-6));
  };
  check({}, {8, 8, 8, 8, 8, 8, 8, 8});
  check({"--warmup", "4"}, {2, 4, 6, 8, 8, 8, 8, 8});
  check({"--lr-schedule", "linear"}, {7, 6, 5, 4, 3, 2, 1, 0});
  check({"--lr-schedule", "linear", "--warmup", "4", "--lr-least", "0.5"},
        {2, 4, 6, 8, 7, 6, 5, 4});
  check({"--lr-schedule", "cosine", "--warmup", "4"},
        {2, 4, 6, 8, 4 + 4 * std::sqrt(0.5), 4, 4 - 4 * std::sqrt(0.5), 0});
  const std::string plain = curve({"--steps", "8"});
  CHECK(curve({"--steps", "8", "--lr-schedule", "cosine"}) != plain);
  CHECK(curve({"--steps", "8", "--warmup", "2"}) != plain);
}

TEST_CASE("the seed chooses the weights") {
  // One window, so that all data is the same.
  const std::string window = make_file("one_window", "seventeen bytes..");
  CHECK(curve({"--data", window, "--seed", "7"}) != curve({"--data", window, "--seed", "8"}));
}

TEST_CASE("the seed chooses the data") {
  // Half of the file is one letter, soon learned, the other half noise: losses tell which was read.
  std::string bytes(2000, 'a');
  unsigned noise = 1;
  for (std::size_t i = 1000; i < bytes.size(); ++i)
    bytes[i] = static_cast<char>((noise = noise * 1664525 + 1013904223) >> 24);
  const std::string data = make_file("halves", bytes);
  const auto order = [&](const char* seed) {
    std::string letters;
    for (const std::string& line :
         lines_of(curve({"--data", data, "--seed", seed, "--lr", "0.02", "--steps", "90", "--ranks",
                         "1", "--batch", "1"})))
      letters += std::stod(line) < 2 ? 'a' : '?';
    return letters.substr(50);
  };
  const std::string first = order("7");
  CAPTURE(first);
  CHECK(first.find('a') != std::string::npos);
  CHECK(first.find('?') != std::string::npos);
  CHECK(order("8") != first);
}

TEST_CASE("offload_all trains as mixed_bf16 does, to the last bit") {
  Words plain, offloaded;
  for (const Listed& strategy : strategies()) {
    if (strategy.name == "mixed_bf16") plain = strategy.options();
    if (strategy.name == "offload_all") offloaded = strategy.options();
  }
  if (plain.empty() || offloaded.empty()) return;
  for (const char* ranks : {"1", "3"})
    CHECK(curve(Words{"--ranks", ranks} + offloaded) == curve(Words{"--ranks", ranks} + plain));
}

TEST_CASE("every sharding trains the same, to the last bit") {
  const std::vector<Listed> all = shardings();
  REQUIRE(!all.empty());
  std::vector<std::string> curves;
  for (const char* ranks : {"1", "2", "3"}) {
    const std::string first = curve(Words{"--ranks", ranks} + all[0].options());
    for (const Listed& strategy : all) {
      CAPTURE(strategy.name);
      CAPTURE(ranks);
      CHECK(curve(Words{"--ranks", ranks} + strategy.options()) == first);
    }
    for (const std::string& other : curves) CHECK(other != first);  // more ranks, more data
    curves.push_back(first);
  }
}

TEST_CASE("the model learns from context, and the entropy that it beats is right") {
  const std::string path = scratch() / "learned.jsonl";
  const Ended ended =
      train({"--lr", "0.02", "--steps", "120", "--batch", "4", "--quiet", "--log", path});
  REQUIRE(ended.status == 0);
  const std::vector<std::string> lines = lines_of(read_file(path));
  const double printed = Json::parse(lines.front())["unigram_entropy"].real();
  CHECK(printed == doctest::Approx(entropy(text())).epsilon(1e-12));
  const double loss = Json::parse(lines.back())["loss"].real();
  CHECK(loss < 0.8 * printed);
  // Before the first step all bytes are about as likely.
  CHECK(Json::parse(lines[1])["loss"].real() == doctest::Approx(std::log(256.0)).epsilon(0.02));

  // --quiet prints the last line only.
  char last[120];
  std::snprintf(last, sizeof last,
                "final loss %.4f, below the text's unigram entropy of %.4f (nats a byte)\n", loss,
                printed);
  CHECK(ended.out == last);
  CHECK(train({"--quiet"}).out.find(", not below the text's unigram entropy of ") !=
        std::string::npos);
}

TEST_CASE("one byte again and again has no entropy, all bytes alike have ln 256") {
  std::string all;
  for (int i = 0; i < 1024; ++i) all += static_cast<char>(i);
  for (const std::string& bytes : {std::string(100, 'a'), all}) {
    const std::string path = scratch() / "entropy.jsonl";
    REQUIRE(train({"--data", make_file("bytes", bytes), "--log", path}).status == 0);
    CHECK(Json::parse(lines_of(read_file(path)).at(0))["unigram_entropy"].real() ==
          doctest::Approx(entropy(bytes)).epsilon(1e-12));
  }
}

TEST_CASE("elsewhere than on a terminal: plain lines, about twenty of them") {
  const Ended ended = train({"--steps", "100"});
  CHECK(ended.status == 0);
  CHECK(ended.err == "");
  CHECK(ended.out.find('\r') == std::string::npos);
  CHECK(ended.out.find('\033') == std::string::npos);
  const std::vector<std::string> lines = lines_of(ended.out);
  CHECK(lines.size() == 2 + 21 + 1);
  CHECK(lines[1].find("7664 parameters, 2 ranks, ") == 0);
  CHECK(lines[2].starts_with("step 1/100  loss "));
  CHECK(lines[lines.size() - 2].starts_with("step 100/100  loss "));
  for (std::size_t i = 2; i + 1 < lines.size(); ++i) {
    CHECK(lines[i].find(" tokens/s  ") != std::string::npos);
    CHECK(lines[i].ends_with(" s left"));
  }
}

TEST_CASE("on a terminal: one bar that is drawn over, whatever the width") {
  for (const unsigned short columns : {200, 80, 60, 30, 1}) {
    CAPTURE(columns);
    const Ended ended =
        run_on_terminal(tiny() + Words{"--data", text_file(), "--steps", "5"}, columns);
    CHECK(ended.status == 0);
    const std::size_t begin = ended.out.find("\r\n\r", ended.out.find("unigram entropy"));
    REQUIRE(begin != std::string::npos);
    const std::size_t end = ended.out.find("\r\nfinal loss");
    REQUIRE(end != std::string::npos);
    const std::string bar = ended.out.substr(begin + 2, end - begin - 2);
    CHECK(bar.find('\n') == std::string::npos);
    std::size_t drawn = 0;
    for (std::size_t at = 0; at < bar.size(); ++drawn) {
      const std::size_t clear = bar.find("\033[K", at);
      REQUIRE(clear != std::string::npos);
      REQUIRE(bar[at] == '\r');
      const std::string line = bar.substr(at + 1, clear - at - 1);
      CAPTURE(line);
      // One column stays free: some terminals wrap in the last.
      CHECK(line.size() < (columns < 2 ? 80u : columns));
      if (columns >= 60) {
        CHECK(line.find(std::to_string(drawn + 1) + "/5  loss ") != std::string::npos);
        CHECK(line.find(" tokens/s") != std::string::npos);
      }
      if (columns >= 80) {
        const std::size_t close = line.find("] ");
        REQUIRE(close != std::string::npos);
        const std::size_t width = close - 1, filled = width * (drawn + 1) / 5;
        CHECK(width >= 20);
        CHECK(line.starts_with('[' + std::string(filled, '#') + std::string(width - filled, '.') +
                               ']'));
        CHECK(line.ends_with(" s left"));
      }
      at = clear + 3;
    }
    CHECK(drawn == 5);
  }
  const Ended quiet = run_on_terminal(tiny() + Words{"--data", text_file(), "--quiet"}, 80);
  CHECK(quiet.status == 0);
  CHECK(lines_of(quiet.out).size() == 1);
}

TEST_CASE("a run that diverges says so in one line, on a terminal in a line of its own") {
  const Ended ended = train({"--lr", "1e30", "--steps", "50"});
  CHECK(ended.status == 1);
  CAPTURE(ended.err);
  CHECK(lines_of(ended.err).size() == 1);
  CHECK(ended.err.starts_with("train_gpt: "));
  CHECK(ended.err.find("is not finite") != std::string::npos);
  CHECK(ended.err.find("lower --lr") != std::string::npos);
  const Ended shown =
      run_on_terminal(tiny() + Words{"--data", text_file(), "--lr", "1e30", "--steps", "50"}, 80);
  CHECK(shown.status == 1);
  CHECK(shown.out.find("\ntrain_gpt: ") != std::string::npos);
}
