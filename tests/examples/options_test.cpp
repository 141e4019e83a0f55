// SPDX-License-Identifier: Apache-2.0
// What train_gpt refuses, and how: one line that says what, status 2, nothing written.
#include <filesystem>
#include <string>
#include <vector>

#include "../support/sanitized.hpp"
#include "program.hpp"
#include <doctest/doctest.h>
#include <sys/stat.h>

namespace {

const std::string untouched = "an older log\n";

/// One line on standard error that has `what`, nothing else anywhere.
void check_refused(const Words& words, const std::string& what, int status = 2) {
  std::string line;
  for (const std::string& word : words) line += word + ' ';
  CAPTURE(line);
  const Ended ended = run(words);
  CHECK(ended.status == status);
  CHECK(ended.out == "");
  CAPTURE(ended.err);
  CHECK(lines_of(ended.err).size() == 1);
  CHECK(ended.err.ends_with('\n'));
  CHECK(ended.err.starts_with("train_gpt: "));
  CHECK(ended.err.find(what) != std::string::npos);
}

/// As above, and with --log: no new file, and an old one keeps its content.
void check_refuses(const Words& options, const std::string& what) {
  const std::string fresh = scratch() / "fresh.jsonl", old = make_file("old.jsonl", untouched);
  check_refused(tiny() + Words{"--data", text_file(), "--log", fresh} + options, what);
  CHECK_FALSE(std::filesystem::exists(fresh));
  check_refused(tiny() + Words{"--data", text_file(), "--log", old} + options, what);
  CHECK(read_file(old) == untouched);
}

}  // namespace

TEST_CASE("the job that the refusals change is itself fine") {
  const Ended ended = train({"--log", make_file("old.jsonl", untouched)});
  CHECK(ended.status == 0);
  CHECK(ended.err == "");
  CHECK(read_file(scratch() / "old.jsonl").starts_with("{"));
}

TEST_CASE("data that cannot be trained on") {
  check_refused(tiny(), "no --data; name a file");
  check_refuses({"--data", scratch() / "missing"}, "No such file or directory; name");
  check_refuses({"--data", make_file("empty", "")}, "has 0 bytes; --context 16 needs at least 17");
  check_refuses({"--data", make_file("short", "sixteen bytes...")},
                "has 16 bytes; --context 16 needs at least 17");
  check_refuses({"--context", "1000000"}, "--context 1000000 needs at least 1000001");
  check_refuses({"--data", scratch() / ""}, "is a folder; name a file");
  check_refuses({"--data", make_file("file", "x") + "/below"}, "cannot be read: Not a directory");
  check_refuses({"--data", ""}, "--data takes a value");

  // As long as one window is enough; bytes are any bytes.
  CHECK(train({"--data", make_file("window", "seventeen bytes..")}).status == 0);
  std::string binary(1000, '\0');
  for (std::size_t i = 0; i < 256; ++i) binary[i] = static_cast<char>(i);
  CHECK(train({"--data", make_file("binary", binary)}).status == 0);
}

TEST_CASE("data without end: refused, not waited for") {
  struct Hurry {
    Hurry() { patience = std::chrono::seconds{10}; }
    ~Hurry() { patience = std::chrono::seconds{60}; }
  } hurry;
  const std::string pipe = scratch() / "pipe";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  check_refuses({"--data", pipe}, "is a pipe or a device");
  check_refuses({"--data", "/dev/zero"}, "is a pipe or a device");
  check_refuses({"--data", "/dev/null"}, "is a pipe or a device");
  // A sparse file beyond any memory.
  const std::string huge = make_file("huge", "");
  if (truncate(huge.c_str(), off_t{1} << 43) == 0)
    check_refuses({"--data", huge}, "has 8.00 TiB, this machine has");
}

TEST_CASE("data that may not be read" * doctest::skip(geteuid() == 0)) {
  const std::string path = make_file("secret", text());
  REQUIRE(chmod(path.c_str(), 0) == 0);
  check_refuses({"--data", path}, "Permission denied");
}

TEST_CASE("numbers") {
  for (const char* option :
       {"--ranks", "--steps", "--layers", "--heads", "--embed", "--context", "--batch"}) {
    const std::string name = option;
    check_refuses({name, "0"}, name + " 0 is out of range; give 1 to ");
    check_refuses({name, "18446744073709551615"}, name + " 18446744073709551615 is out of range; ");
    check_refuses({name, "99999999999999999999999"}, name + " 99999999999999999999999 is out of ");
    check_refuses({name, "-1"}, name + " takes a whole number of at least 0, got '-1'");
  }
  for (const char* bad : {"1e3", "2.0", "0x2", "+2", " 2", "2 ", "two", "2,000", "2k"})
    check_refuses({"--ranks", bad},
                  std::string("--ranks takes a whole number of at least 0, got '") + bad + "'");
  check_refuses({"--ranks", ""}, "--ranks takes a value");
  check_refuses({"--ranks", "1025"}, "--ranks 1025 is out of range; give 1 to 1024");
  check_refuses({"--heads", "3"}, "--heads 3 does not divide --embed 16; choose heads that do");
  check_refuses({"--heads", "32"}, "--heads 32 does not divide --embed 16");
  check_refuses({"--seed", "-1"}, "--seed takes a whole number of at least 0, got '-1'");
  check_refuses({"--seed", "18446744073709551616"}, "--seed 18446744073709551616 is out of range");
  for (const char* bad : {"0", "-0.1", "nan", "inf", "-inf", "0.0"})
    check_refuses({"--lr", bad}, "--lr must be above 0 and finite");
  for (const char* bad : {"1e50", "1e-60"})
    check_refuses({"--lr", bad}, std::string("--lr ") + bad + " is out of range");
  for (const char* bad : {"fast", "1e", "0,1", "1e-3x"})
    check_refuses({"--lr", bad}, std::string("--lr takes a number, got '") + bad + "'");
}

TEST_CASE("options") {
  check_refuses({"--rank", "2"}, "unknown option '--rank'; see --help");
  check_refuses({"--ranks=2"}, "unknown option '--ranks=2'");
  check_refuses({"-h"}, "unknown option '-h'");
  check_refuses({"file"}, "unknown option 'file'");
  check_refuses({""}, "unknown option ''");
  check_refuses({"--strategy", "Full_Shard"},
                "--strategy 'Full_Shard' is not in this program; it has ");
  check_refuses({"--strategy", ""}, "--strategy takes a value");
  check_refuses({"--accumulate", "0"}, "--accumulate 0 is out of range; give 1 to 1000000");
  check_refuses({"--compare"}, "--compare writes no log; leave out --log");
  check_refused(tiny() + Words{"--data", text_file(), "--compare", "--strategy", "full_shard"},
                "--compare runs every strategy; leave out --strategy");
  for (const char* name :
       {"--data", "--ranks", "--steps", "--layers", "--heads", "--embed", "--context", "--batch",
        "--lr", "--seed", "--log", "--strategy", "--nvme"})
    check_refuses({name}, std::string(name) + " takes a value; see --help");
  // One line, even where the name that it quotes has two.
  check_refuses({"--data", "two\nlines"}, "--data two?lines cannot be read");
  // The last of a repeated option counts.
  CHECK(train({"--ranks", "0", "--ranks", "1"}).status == 0);
}

TEST_CASE("values that a policy takes, and those that none of the strategy's takes") {
  check_refuses({"--clip", "0"}, "ClipNorm: max_norm is 0; give one above 0");
  check_refuses({"--clip", "nan"}, "ClipNorm: max_norm is nan; give one above 0");
  check_refuses({"--clip", "tight"}, "--clip takes a number, got 'tight'");
  check_refuses({"--weight-decay", "-1"}, "AdamW: weight_decay is -1; give a finite one, at least");
  check_refuses({"--loss-scale", "8"}, "--loss-scale: the strategy has none; give it Static");
  check_refuses({"--lr-schedule", "steps"}, "--lr-schedule 'steps' is none of constant, cosine");
  check_refuses({"--lr-least", "0.1"}, "--lr-least: a constant rate does not fall; give");
  check_refuses({"--lr-schedule", "linear", "--lr-least", "2"}, "--lr-least is a fraction of --lr");
  check_refuses({"--warmup", "9", "--steps", "8"}, "--warmup 9 is more than --steps 8");
  for (const char* name :
       {"--clip", "--weight-decay", "--loss-scale", "--lr-schedule", "--lr-least", "--warmup"})
    check_refuses({name}, std::string(name) + " takes a value; see --help");
}

TEST_CASE("--nvme: a folder for the strategies that keep state on a disk, and for no other") {
  const std::string folder = nvme().back();
  const auto is_empty = [&] { return std::filesystem::is_empty(folder); };
  check_refuses({"--nvme", ""}, "--nvme takes a value; see --help");
  std::size_t on_disk = 0;
  for (const Listed& strategy : strategies()) {
    CAPTURE(strategy.name);
    const Words named{"--strategy", strategy.name};
    if (!strategy.is_on_disk()) {
      check_refuses(named + nvme(), "--nvme: the strategy keeps nothing on a disk; leave it out");
      continue;
    }
    ++on_disk;
    check_refuses(named, "no --nvme; name a folder on the disk");
    check_refuses(named + Words{"--nvme", scratch() / "missing"}, "is not a folder; make it first");
    check_refuses(named + Words{"--nvme", text_file()}, "is not a folder; make it first");
    CHECK(train(named + nvme()).status == 0);
    CHECK(is_empty());
    // A relative name, and a run that fails: nothing stays behind.
    const std::string relative = std::filesystem::relative(folder).string();
    CHECK(train(named + Words{"--nvme", relative}).status == 0);
    CHECK(train(named + nvme() + Words{"--lr", "1e30", "--steps", "50"}).status == 1);
    CHECK(is_empty());
    // A file of others is left as it is.
    const std::string foreign = make_file("nvme/shardexpr-rank-1.swap", untouched);
    const Ended ended = train(named + nvme());
    CHECK(ended.status == 1);
    CHECK(ended.err.find("exists and is no file of this library") != std::string::npos);
    CHECK(read_file(foreign) == untouched);
    std::filesystem::remove(foreign);
    CHECK(is_empty());
  }
  // --compare wants it where any strategy does.
  const Words compare = tiny() + Words{"--data", text_file(), "--compare"};
  if (on_disk != 0)
    check_refused(compare, "no --nvme; name a folder on the disk");
  else
    CHECK(run(compare).status == 0);
  CHECK(run(compare + nvme()).status == 0);
  CHECK(is_empty());
}

TEST_CASE("--nvme that may not be written to" * doctest::skip(geteuid() == 0)) {
  for (const Listed& strategy : strategies()) {
    if (!strategy.is_on_disk()) continue;
    const std::string folder = scratch() / "read_only";
    std::filesystem::create_directory(folder);
    REQUIRE(chmod(folder.c_str(), 0500) == 0);
    check_refuses({"--strategy", strategy.name, "--nvme", folder}, "cannot be written to: Perm");
  }
}

TEST_CASE("what lies on the host counts as this machine's memory" * doctest::skip(SANITIZED)) {
  for (const Listed& strategy : strategies())
    if (strategy.type.find("Offload<OnHost, OnHost>") != std::string::npos)
      // 8 TiB on the host, some 2 GiB on the device. A program that began it would stop at the
      // limit.
      check_refused(Words{"sh", "-c", "ulimit -v 8000000; exec \"$@\"", "sh"} + tiny() +
                        strategy.options() +
                        Words{"--data", text_file(), "--layers", "10000", "--embed", "2048",
                              "--heads", "1", "--context", "1", "--batch", "1", "--ranks", "1"},
                    "the job needs ");
}

TEST_CASE("a job too big for memory: refused with numbers, before allocating") {
  check_refuses({"--embed", "100000"}, "the job needs ");
  check_refuses({"--embed", "100000"}, " (2 ranks of ");
  check_refuses({"--embed", "100000"}, "), this machine has ");
  check_refuses({"--embed", "100000", "--ranks", "1"}, " (1 rank of ");
  check_refuses({"--batch", "10000000", "--embed", "64"}, "; take fewer ranks or a smaller model");
  check_refused(tiny() + Words{"--data", text_file(), "--embed", "100000", "--compare"},
                "the job needs ");

  // Counts that wrap in 64 bits must not look small.
  const std::string sparse = make_file("sparse", "");
  REQUIRE(truncate(sparse.c_str(), 10'000'001) == 0);
  for (const char* layers : {"1", "2", "3", "4", "8", "64", "1024", "8192"})
    check_refuses({"--data", sparse, "--context", "8388608", "--batch", "8388608", "--embed",
                   "524288", "--heads", "524288", "--layers", layers},
                  "the job needs more than ");
}

TEST_CASE("logs that cannot be written") {
  const auto with = [](const std::string& log) {
    return tiny() + Words{"--data", text_file(), "--log", log};
  };
  check_refused(with(scratch() / "missing/log.jsonl"), "cannot be written: No such file");
  check_refused(with(scratch() / ""), "cannot be written: Is a directory");
  check_refused(with(""), "--log takes a value");
  check_refused(with(text_file()), "is the file of --data; name another");
  const std::string link = scratch() / "link";
  std::filesystem::create_symlink(text_file(), link);
  check_refused(with(link), "is the file of --data; name another");
  CHECK(read_file(text_file()) == text());
  if (std::filesystem::exists("/dev/full"))
    check_refused(with("/dev/full"), "--log /dev/full: writing failed: No space left", 1);
}

TEST_CASE("a log that fills up on the way ends the run, all ranks of it") {
  const std::string log = scratch() / "cut.jsonl", text_path = text_file();
  std::string line = "trap '' XFSZ; ulimit -f 2; exec";
  for (const std::string& word : tiny()) line += " '" + word + "'";
  line += " --steps 1000000 --ranks 3 --data '" + text_path + "' --log '" + log + "' --quiet";
  const Ended ended = run({"sh", "-c", line});
  CHECK(ended.status == 1);
  CHECK(ended.out == "");
  CAPTURE(ended.err);
  CHECK(lines_of(ended.err).size() == 1);
  CHECK(ended.err.starts_with("train_gpt: "));
  CHECK(ended.err.find("cut.jsonl: writing failed: File too large") != std::string::npos);
  CHECK(lines_of(read_file(log)).size() > 2);
}

TEST_CASE("a full disk behind standard output is an error") {
  if (!std::filesystem::exists("/dev/full")) return;
  for (const Words& options :
       {Words{}, Words{"--list"}, Words{"--help"}, Words{"--compare"} + nvme()}) {
    const Ended ended = run(tiny() + Words{"--data", text_file()} + options, "/dev/full");
    CHECK(ended.status == 1);
    CHECK(without_notices(ended.err) ==
          "train_gpt: the output cannot be written: No space left on device\n");
  }
}

TEST_CASE("--help names every option") {
  const Ended ended = run({TRAIN_GPT, "--help"});
  CHECK(ended.status == 0);
  CHECK(ended.err == "");
  for (const char* name :
       {"--nvme",  "--data",         "--ranks",      "--steps",       "--layers",   "--heads",
        "--embed", "--context",      "--batch",      "--lr",          "--seed",     "--log",
        "--trace", "--quiet",        "--help",       "--list",        "--strategy", "--compare",
        "--clip",  "--weight-decay", "--loss-scale", "--lr-schedule", "--lr-least", "--warmup"}) {
    CAPTURE(name);
    CHECK(ended.out.find(std::string("\n  ") + name + " ") != std::string::npos);
  }
  for (const std::string& line : lines_of(ended.out)) CHECK(line.size() <= 100);
}

TEST_CASE("--list: each name with its type") {
  const Ended ended = run({TRAIN_GPT, "--list"});
  CHECK(ended.status == 0);
  CHECK(ended.err == "");
  const std::vector<std::string> lines = lines_of(ended.out);
  REQUIRE(!lines.empty());
  for (const std::string& line : lines) {
    const std::size_t space = line.find(' ');
    REQUIRE(space != std::string::npos);
    const std::string type = line.substr(line.find_first_not_of(' ', space));
    CHECK(type.starts_with("Sharded<Gpt, "));
    CHECK(type.ends_with(", On<Cpu>, Over<Threads>>"));
    if (line.starts_with("full_shard "))
      CHECK(type ==
            "Sharded<Gpt, FullShard, ClipNorm, AdamW, FullPrecision, On<Cpu>, Over<Threads>>");
    // The name picks the strategy, whose type the run prints.
    const Ended ran = train(Listed{line.substr(0, space), type}.options());
    CHECK(ran.status == 0);
    CHECK(lines_of(ran.out).at(0) == type);
  }
}
