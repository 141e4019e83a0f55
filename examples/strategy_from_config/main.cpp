// SPDX-License-Identifier: Apache-2.0
// Says which strategy a configuration file of Accelerate or DeepSpeed is, as a type, and what
// becomes of each of its keys.
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "judge.hpp"
#include "write.hpp"

namespace {

using namespace from_config;

struct BadOption : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr const char* usage =
    "usage: strategy_from_config FILE [options]\n"
    "       strategy_from_config --policies \"FullShard, OffloadAll\" [options]\n"
    "Says which strategy an Accelerate YAML or a DeepSpeed JSON is: the type, what becomes of "
    "each\n"
    "key, warnings. Status 0 if all of it is carried over, 3 if something is not, 2 for a file "
    "that\n"
    "is malformed.\n"
    "\n"
    "  --pack               print the policies alone, one line\n"
    "  --header NAME        print a header with a struct NAME: NAME::Trainer<Model>, NAME::set\n"
    "  --explain            print FSDP's, DeepSpeed's and this library's words side by side\n"
    "  --accelerate         print the nearest Accelerate YAML\n"
    "  --deepspeed          print the nearest DeepSpeed JSON\n"
    "  --output FILE        write there what would be printed\n"
    "  --depfile FILE       with --output: write there for make which files were read\n"
    "What a file does not say:\n"
    "  --ranks N            ranks (num_processes)\n"
    "  --accumulate N       micro-batches a step (1)\n"
    "  --loaded DTYPE       in which a model is loaded: fp32, bf16 or fp16 (fp32)\n"
    "  --mixed-precision X  no, bf16 or fp16, for \"auto\" of fp16.enabled and bf16.enabled (no)\n"
    "  --hidden-size N      a model's width, for \"auto\" of a threshold of stage 3\n"
    "  --block TYPE         the unit that a transformer's layer is (gpt::Block)\n"
    "  --unit NAME=TYPE     the unit for a layer's class of that name; may stand often\n"
    "  --root DIR           where paths in files begin (here)\n"
    "  --help               print this\n";

struct Options {
  std::string file, policies, mode, name, output, depfile;
  bool has_policies = false, help = false;
  Settings settings;
};

std::size_t count_of(const std::string& option, const std::string& text) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value == 0 || value > 1u << 30)
    throw BadOption(option + " takes a whole number from 1 to 2^30, got " + shown(text));
  return value;
}

/// A name of C++, with scopes.
void check_type(const std::string& option, const std::string& text, bool is_scoped) {
  bool begins = true, holds = !text.empty();
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (is_scoped && text.compare(i, 2, "::") == 0 && (i == 0 || !begins)) {
      ++i;
      begins = true;
      continue;
    }
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    holds = holds && (is_letter || (!begins && c >= '0' && c <= '9'));
    begins = false;
  }
  if (!holds || begins) throw BadOption(option + " takes a name of C++, got " + shown(text));
}

Options parse(int argc, char** argv) {
  Options o;
  const auto mode = [&](const std::string& name) {
    if (!o.mode.empty() && o.mode != name)
      throw BadOption(o.mode + " and " + name + " both say what to print; keep one");
    o.mode = name;
  };
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> std::string {
      if (++i == argc || *argv[i] == '\0') throw BadOption(name + " takes a value; see --help");
      return argv[i];
    };
    const auto word = [&](std::initializer_list<const char*> words) {
      const std::string given = value();
      for (const char* each : words)
        if (given == each) return given;
      throw BadOption(name + ": " + shown(given) + " is not one of its words; see --help");
    };
    if (name == "--help") {
      o.help = true;
      return o;
    }
    if (name == "--pack" || name == "--explain" || name == "--accelerate" ||
        name == "--deepspeed") {
      mode(name);
    } else if (name == "--header") {
      mode(name);
      o.name = value();
      check_type(name, o.name, false);
    } else if (name == "--output") {
      o.output = value();
    } else if (name == "--depfile") {
      o.depfile = value();
    } else if (name == "--policies") {
      o.policies = value();
      o.has_policies = true;
    } else if (name == "--ranks") {
      o.settings.ranks = count_of(name, value());
    } else if (name == "--accumulate") {
      o.settings.micro_batches = count_of(name, value());
    } else if (name == "--hidden-size") {
      o.settings.hidden_size = count_of(name, value());
    } else if (name == "--loaded") {
      const std::string dtype = word({"fp32", "bf16", "fp16"});
      for (std::size_t d = 0; d < std::size(dtype_names); ++d)
        if (dtype == dtype_names[d]) o.settings.loaded = static_cast<Dtype>(d);
    } else if (name == "--mixed-precision") {
      o.settings.mixed_precision = word({"no", "bf16", "fp16"});
    } else if (name == "--block") {
      o.settings.block = value();
      check_type(name, o.settings.block, true);
    } else if (name == "--unit") {
      const std::string pair = value();
      const std::size_t equal = pair.find('=');
      if (equal == pair.npos || equal == 0) throw BadOption(name + " takes NAME=TYPE");
      check_type(name, pair.substr(equal + 1), true);
      o.settings.units[pair.substr(0, equal)] = pair.substr(equal + 1);
    } else if (name == "--root") {
      o.settings.root = value();
    } else if (name.starts_with("-")) {
      throw BadOption("unknown option " + shown(name) + "; see --help");
    } else if (!o.file.empty()) {
      throw BadOption("two files, " + shown(o.file) + " and " + shown(name) + "; name one");
    } else {
      o.file = name;
    }
  }
  if (o.file.empty() == !o.has_policies)
    throw BadOption(o.file.empty() ? "no file; name an Accelerate YAML or a DeepSpeed JSON"
                                   : "--policies stands for a file; leave one of them out");
  if (!o.depfile.empty() && (o.output.empty() || o.has_policies))
    throw BadOption("--depfile says of what --output is made; give FILE and --output");
  return o;
}

void emit(const std::string& text, const std::string& path) {
  if (path.empty()) {
    std::fputs(text.c_str(), stdout);
    return;
  }
  std::ofstream file{path, std::ios::binary | std::ios::trunc};
  file << text;
  if (!file.flush()) throw std::runtime_error(path + ": writing failed: " + std::strerror(errno));
}

/// A rule of make: the output is made of the files that were read.
std::string dependencies(const Options& o, const Judgement& judged) {
  const auto escaped = [](const std::string& path) {
    std::string text;
    for (char c : path) {
      if (c == ' ' || c == '#' || c == '\\') text += '\\';
      if (c == '$') text += '$';
      text += c;
    }
    return text;
  };
  std::vector<std::string> files{o.file};
  for (const Row& row : judged.rows)
    if (row.file != files.back()) files.push_back(row.file);
  std::string text = escaped(o.output) + ":";
  for (const std::string& file : files) text += " " + escaped(file);
  return text + "\n";
}

/// A strategy in a format's words, with what it cannot say as comments.
std::string with_unsaid(const Written& written, const char* comment) {
  std::string text;
  for (const Difference& each : written.unsaid)
    text += std::string{comment} + " cannot be said: " + each.axis + ", " + each.wanted +
            "; this says " + each.got + "\n";
  return text + written.text;
}

int run(const Options& o) {
  Judgement judged;
  if (o.has_policies) {
    try {
      judged.strategy = parse_policies(o.policies);
    } catch (const BadPolicies& error) {
      throw BadOption(std::string{"--policies: "} + error.what());
    }
    judged.values.ranks = o.settings.ranks;
    judged.values.micro_batches = o.settings.micro_batches.value_or(1);
  } else {
    judged = judge_file(o.file, o.settings);
  }
  if (!o.depfile.empty()) emit(dependencies(o, judged), o.depfile);
  const bool is_whole = judged.is_supported();
  const Description& d = judged.strategy;
  const int status = is_whole ? 0 : 3;
  if (o.mode.empty()) {
    emit(report(judged), o.output);
    return status;
  }
  if (!is_whole) {
    // What is printed goes into a program or a file: what it leaves out must be seen.
    for (const Row& row : judged.rows)
      if (row.verdict == Verdict::unsupported)
        std::fprintf(stderr, "%s:%zu: %s: not supported: %s\n", row.file.c_str(), row.line,
                     row.key.c_str(), row.text.c_str());
    if (o.mode == "--header" || o.mode == "--pack") return status;
  }
  if (o.mode == "--pack") emit(pack_of(d) + "\n", o.output);
  if (o.mode == "--header") {
    for (const std::string& warning : judged.warnings)
      std::fprintf(stderr, "%s: warning: %s\n", o.file.c_str(), warning.c_str());
    emit(write_header(o.name, o.file, d, judged.values), o.output);
  }
  if (o.mode == "--explain") emit(explain(d, judged.values, o.settings), o.output);
  if (o.mode == "--accelerate")
    emit(with_unsaid(write_accelerate(d, judged.values, o.settings), "#"), o.output);
  if (o.mode == "--deepspeed")
    emit(with_unsaid(write_deepspeed(d, judged.values, o.settings), "//"), o.output);
  return status;
}

int fail(int status, const std::string& what) {
  std::fflush(stdout);
  std::fprintf(stderr, "%s\n", what.c_str());
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options o = parse(argc, argv);
    int status = 0;
    if (o.help)
      std::fputs(usage, stdout);
    else
      status = run(o);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      return fail(1, std::string{"strategy_from_config: the output cannot be written: "} +
                         std::strerror(errno));
    return status;
  } catch (const BadFile& error) {
    return fail(2, error.what());
  } catch (const BadOption& error) {
    return fail(2, std::string{"strategy_from_config: "} + error.what());
  } catch (const std::bad_alloc&) {
    return fail(1, "strategy_from_config: out of memory");
  } catch (const std::exception& error) {
    return fail(1, std::string{"strategy_from_config: "} + error.what());
  }
}
