// SPDX-License-Identifier: Apache-2.0
// consolidate as a user meets it: a checkpoint and one line, or one line and a status.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "checkpoints.hpp"
#include "run.hpp"
#include <doctest/doctest.h>

namespace {

namespace fs = std::filesystem;

std::string new_directory() {
  static int count = 0;
  return scratch() / ("consolidated" + std::to_string(count++));
}
Ended consolidate(const Words& words) { return run(Words{CONSOLIDATE} + words); }

void check_refuses(const Words& words, const std::string& what, int status = 2) {
  const Ended ended = consolidate(words);
  CAPTURE(ended.err);
  CHECK(ended.status == status);
  CHECK(ended.out == "");
  CHECK(lines_of(ended.err).size() == 1);
  CHECK(ended.err.starts_with("consolidate: "));
  CHECK(ended.err.find(what) != std::string::npos);
}
std::vector<std::string> names_in(const std::string& folder) {
  return sx::detail::names_in(folder);
}
/// Of a line, up to the bytes, which depend on lengths of headers.
std::string before_bytes(const std::string& line) { return line.substr(0, line.rfind(", ")); }

constexpr const char* step = "step-000000000003";

}  // namespace

TEST_CASE("a sharded checkpoint becomes a full one, and parts again; inspect lists both") {
  const std::string from = new_directory(), full = new_directory(), parts = new_directory();
  save_small(from);
  const Ended wrote = consolidate({from, full});
  CHECK(wrote.err == "");
  CHECK(wrote.status == 0);
  CHECK(before_bytes(wrote.out) == full + "/" + step + ": full, 2 parameters, 1 buffer");
  CHECK(names_in(full) == Words{"latest", step});
  CHECK(names_in(full + "/" + step) == Words{"manifest.json", "model.safetensors",
                                             "model.safetensors.sums", "optimizer.safetensors",
                                             "optimizer.safetensors.sums"});
  const Ended checkpoint = run({INSPECT, "--verify", full});
  CHECK(checkpoint.status == 0);
  CHECK(lines_of(checkpoint.out)[1] == "form        full");
  CHECK(lines_of(checkpoint.out)[9] == "a.weight  F32   [5, 3]  180  2 moments");
  // The model's own file is a model as any other.
  CHECK(run({INSPECT, full + "/" + step + "/model.safetensors"}).out ==
        "\\x1b[2J   BF16  [4]      8\na.weight  F32   [5, 3]  60\n2 tensors, 68 bytes in 1 file\n");

  const Ended again = consolidate({"--sharded", "3", full + "/" + step, parts});
  CHECK(again.status == 0);
  CHECK(before_bytes(again.out) == parts + "/" + step + ": sharded, 2 parameters, 1 buffer");
  CHECK(names_in(parts + "/" + step).size() == 7);
  CHECK(run({INSPECT, "--verify", parts}).status == 0);
}

TEST_CASE("the model in another dtype and in files of a size") {
  const std::string from = new_directory(), to = new_directory();
  save_small(from);
  CHECK(consolidate({from, to, "--dtype", "F16", "--max-file-bytes", "30"}).status == 0);
  const std::string folder = to + "/" + step;
  CHECK(run({INSPECT, folder + "/model.safetensors.index.json"}).out ==
        "\\x1b[2J   F16  [4]      8  model-00002-of-00002.safetensors\n"
        "a.weight  F16  [5, 3]  30  model-00001-of-00002.safetensors\n"
        "2 tensors, 38 bytes in 2 files\n");
  const auto lines = lines_of(run({INSPECT, "--verify", to}).out);
  // 15 * (2 + 4 + 4 + 4), 4 * (2 + 2): what training goes on from lies beside the model.
  CHECK(lines[9] == "a.weight  F32   [5, 3]  210  2 moments");
  CHECK(lines[10] == R"(\x1b[2J   BF16  [4]      16  0 moments)");
  const std::string one = new_directory();
  CHECK(consolidate({from, one, "--max-file-bytes", "1KiB"}).status == 0);
  CHECK(fs::exists(one + "/" + step + "/model.safetensors"));
}

TEST_CASE("where a run may be saving, or another checkpoint is, nothing is written") {
  const std::string from = new_directory(), folder = save_small(from);
  const Words before = names_in(from), inside = names_in(folder);
  fs::create_directory(from + "/.step-000000000004.new");  // a save that is under way
  fs::create_directory_symlink(from, from + "-link");
  const char* const holds = "holds the checkpoint that is read, and a run may be saving there";
  check_refuses({from, from}, holds);
  check_refuses({folder, from}, holds);
  check_refuses({folder + "/", from + "/."}, holds);
  check_refuses({from, from + "-link"}, holds);
  check_refuses({from, folder}, "is, or lies in, the checkpoint that is read");
  check_refuses({from, folder + "/new"}, "is, or lies in, the checkpoint that is read");
  for (const char* const to : {"new", "..", "../.", "."}) {
    CAPTURE(to);
    CHECK(run({"env", "-C", folder, CONSOLIDATE, ".", to}).status == 2);
  }
  CHECK(fs::exists(from + "/.step-000000000004.new"));
  fs::remove(from + "/.step-000000000004.new");
  CHECK(names_in(from) == before);
  CHECK(names_in(folder) == inside);

  const std::string to = new_directory();
  CHECK(consolidate({from, to}).status == 0);
  check_refuses({from, to}, to + " holds step-000000000003 already");
  check_refuses({from, to + "/" + step}, "is a checkpoint, not a directory of checkpoints");
  CHECK(names_in(to) == Words{"latest", step});
  check_refuses({from, make_file("file", "x")}, "is no directory");
  check_refuses({from, new_directory() + "/not/there"}, "the folder cannot be made", 1);
}

TEST_CASE("a broken checkpoint is one line, and `latest` names none") {
  const std::string from = new_directory(), folder = save_small(from), to = new_directory();
  check_refuses({new_directory(), to}, "holds no checkpoint");
  const std::string part = folder + "/part-1";
  std::string bytes = read_file(part);
  bytes.back() ^= 1;
  std::ofstream{part, std::ios::binary | std::ios::trunc} << bytes;
  check_refuses({from, to}, "part-1, tensor 'parameter@8/a.weight', byte ");
  CHECK_FALSE(fs::exists(to + "/latest"));
  CHECK_FALSE(fs::exists(to + "/" + step));
}

TEST_CASE("bad options") {
  const std::string from = new_directory(), to = new_directory();
  save_small(from);
  const auto check = [&](const Words& words, const std::string& what) {
    check_refuses(Words{from, to} + words, what);
    CHECK_FALSE(fs::exists(to));
  };
  check({"third"}, "name two directories, FROM and TO, not 3");
  check_refuses({from}, "name two directories, FROM and TO, not 1");
  check_refuses({from, ""}, "name two directories");
  check({"--parts", "3"}, "unknown option '--parts'");
  check({"--sharded"}, "--sharded takes a value");
  for (const char* const parts : {"0", "100000", "-1", "3x", "99999999999999999999"})
    check({"--sharded", parts}, "--sharded takes a number of parts, 1 to 99999, got '");
  check({"--dtype", "f16"}, "--dtype 'f16' is none of F32, BF16 and F16");
  for (const char* const size : {"5gb", "GB", "1.5GB", "-1", "5 GB", "99999999999999999999x"})
    check({"--max-file-bytes", size}, "--max-file-bytes takes a number of bytes");
  for (const char* const size : {"0", "0GB", "99999999999999999999", "18446745TB"})
    check({"--max-file-bytes", size}, "is out of range");
  check({"--sharded", "2", "--dtype", "F16"}, "--dtype is of a full checkpoint");
  check({"--sharded", "2", "--max-file-bytes", "1GB"}, "--max-file-bytes is of a full checkpoint");
  // The last counts.
  CHECK(consolidate({from, to, "--sharded", "2", "--full", "--dtype", "F16"}).status == 0);
  const Ended help = consolidate({"--help"});
  CHECK(help.status == 0);
  CHECK(help.out.starts_with("usage: consolidate FROM TO [options]\n"));
  CHECK(run({CONSOLIDATE, "--help"}, "/dev/full").status == 1);
}

TEST_CASE("memory does not grow with the checkpoint") {
  const auto save_of = [](std::uint64_t count) {
    const std::string directory = new_directory();
    save(directory, manifest_of({{"w", "F32", {count}}}),
         {{{"parameter@0/w", "F32", {count}},
           {"moment0@0/w", "F32", {count}},
           {"moment1@0/w", "F32", {count}}}});
    return directory;
  };
  const auto peak = [](const std::string& from, const Words& options) {
    const std::string to = new_directory();
    const Ended ended = consolidate(Words{from, to} + options);
    CHECK(ended.err == "");
    fs::remove_all(to);
    return ended.peak_bytes;
  };
  const std::string small = save_of(1), large = save_of(std::uint64_t{16} << 20);
  for (const Words& options : {Words{"--dtype", "BF16"}, Words{"--sharded", "2"}}) {
    const std::size_t least = peak(small, options), most = peak(large, options);
    CAPTURE(least);
    CAPTURE(most);
    CHECK(most < least + (std::size_t{16} << 20));  // of 192 MiB
  }
  fs::remove_all(large);
}
