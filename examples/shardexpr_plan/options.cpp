// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "model.hpp"

namespace planner {

std::string usage() {
  return "usage: shardexpr_plan --parameters X --layers N --world N [options]\n"
         "Plans every strategy for a GPT: what fits, what each moves, and the cheapest.\n"
         "\n"
         "The model:\n"
         "  --parameters X    about how many, as 7e9, 7B or 350M; the width is found from it\n"
         "  --layers N        blocks\n"
         "  --embed N         width, in place of --parameters\n"
         "  --heads N         attention heads (each of 128 elements, of 64 below a width of 1024)\n"
         "  --vocabulary N    tokens (50257)\n"
         "  --context N       tokens a sequence (1024)\n"
         "  --model NAME      gpt2, gpt2-medium, gpt2-large or gpt2-xl, in place of sizes\n"
         "  --config FILE     a GPT-2's config.json, in place of sizes\n"
         "  --batch N         sequences a rank and micro-batch (1)\n"
         "  --accumulate N    micro-batches a step (1)\n"
         "The machines:\n"
         "  --world N         ranks (1)\n"
         "  --node-ranks N    ranks on each machine (8)\n"
         "  --device X        cuda: On<Cuda>, Over<Nccl>; cpu: On<Cpu>, Over<Mpi> (cuda)\n"
         "  --precision X     mixed: MixedPrecision<bf16, fp32>; fp32; bf16; all (mixed)\n"
         "What there is; what is not given is not judged. As 80GiB, 512MiB, 2TB:\n"
         "  --device-memory X each rank's; of --device cuda\n"
         "  --host-memory X   each machine's; of --device cpu all that is computed with, too\n"
         "  --disk X          each machine's\n"
         "Speeds of a rank, for the estimated time of a step; of cuda, and of cpu:\n"
         "  --flops X         multiplications and additions a second (400e12, 1e12)\n"
         "  --network X       sent in collectives that leave the machine (25GB/s, 3GB/s)\n"
         "  --node-network X  sent in those that do not (200GB/s, 10GB/s)\n"
         "  --host-link X     between device and host, each way (25GB/s, 10GB/s)\n"
         "  --host-speed X    what an update on the host reads and writes (20GB/s, 10GB/s)\n"
         "  --disk-speed X    read and written (3GB/s, 3GB/s)\n"
         "The output:\n"
         "  --all             every strategy, also those that do not fit\n"
         "  --csv             that as comma-separated values, in bytes and seconds\n"
         "  --json FILE       all of it to a file\n"
         "  --picture FILE    memory against time as .png or .svg, by gnuplot\n"
         "  --estimates       DeepSpeed's estimates beside these plans, in place of the table\n"
         "  --help            print this\n"
         "The last of a repeated option counts. Status 0 if a strategy fits, 3 if none does, 2 for "
         "bad\n"
         "input.\n";
}

namespace {

/// A number in front of a unit. `double` alone would lose bytes above 2^53.
struct Measured {
  double number = 0;
  std::size_t whole = 0;
  bool is_whole = false;
  std::string_view unit;
};

bool measure(const std::string& text, Measured& m) {
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  const auto real = std::from_chars(begin, end, m.number);
  if (real.ec != std::errc{} || !std::isfinite(m.number) || text[0] == '-') return false;
  const auto whole = std::from_chars(begin, end, m.whole);
  m.is_whole = whole.ec == std::errc{} && whole.ptr == real.ptr;
  m.unit = {real.ptr, static_cast<std::size_t>(end - real.ptr)};
  return true;
}

std::size_t bytes_of(std::string_view unit) {
  struct Unit {
    std::string_view name;
    std::size_t bytes;
  };
  constexpr std::size_t k = 1000, ki = 1024;
  constexpr Unit units[] = {{"", 1},
                            {"B", 1},
                            {"KB", k},
                            {"MB", k * k},
                            {"GB", k * k * k},
                            {"TB", k * k * k * k},
                            {"KiB", ki},
                            {"MiB", ki * ki},
                            {"GiB", ki * ki * ki},
                            {"TiB", ki * ki * ki * ki}};
  for (const Unit& each : units)
    if (each.name == unit) return each.bytes;
  return 0;
}

constexpr double most_bytes = 1e18;

/// Of some ten cores, and 25 Gbit/s Ethernet.
constexpr Speeds cpu_speeds{.network = 3e9,
                            .node_network = 10e9,
                            .host_link = 10e9,
                            .host_memory = 10e9,
                            .disk = 3e9,
                            .flops = 1e12};

double parse_real(const std::string& option, const std::string& text, double least, double most) {
  double value = 0;
  const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || at != text.data() + text.size())
    throw BadInput(option + " takes a number, got '" + text + "'");
  if (!(value >= least && value <= most)) {
    char range[80];
    std::snprintf(range, sizeof range, " is out of range; give %g to %g", least, most);
    throw BadInput(option + " " + text + range);
  }
  return value;
}

/// 7e9, 7B, 350M.
double parse_parameters(const std::string& option, std::string text) {
  const std::string given = text;
  double factor = 1;
  for (const auto& [letter, times] : {std::pair{'K', 1e3}, {'M', 1e6}, {'B', 1e9}, {'T', 1e12}})
    if (text.size() > 1 && text.back() == letter) {
      factor = times;
      text.pop_back();
      break;
    }
  double value = 0;
  const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || at != text.data() + text.size())
    throw BadInput(option + " takes a number, as 7e9, 7B or 350M, got '" + given + "'");
  if (!(value * factor >= 1e4 && value * factor <= 1e13))
    throw BadInput(option + " " + given + " is out of range; give 1e4 to 1e13");
  return value * factor;
}

std::size_t parse_count(const std::string& option, const std::string& text, std::size_t most) {
  std::size_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if ((error != std::errc{} && error != std::errc::result_out_of_range) || at != end)
    throw BadInput(option + " takes a whole number, got '" + text + "'");
  if (error != std::errc{} || value == 0 || value > most)
    throw BadInput(option + " " + text + " is out of range; give 1 to " + std::to_string(most));
  return value;
}

std::vector<PrecisionKind> parse_precision(const std::string& option, const std::string& text) {
  if (text == "mixed") return {PrecisionKind::mixed};
  if (text == "fp32") return {PrecisionKind::fp32};
  if (text == "bf16") return {PrecisionKind::bf16};
  if (text == "all") return {PrecisionKind::mixed, PrecisionKind::fp32, PrecisionKind::bf16};
  throw BadInput(option + " '" + text + "' is none of mixed, fp32, bf16, all");
}

}  // namespace

std::size_t parse_size(const std::string& option, const std::string& text) {
  Measured m;
  const std::size_t unit = measure(text, m) ? bytes_of(m.unit) : 0;
  if (unit == 0)
    throw BadInput(option + " takes bytes, as 80GiB, 1.5TB or 4096, got '" + text + "'");
  if (m.number * static_cast<double>(unit) > most_bytes)
    throw BadInput(option + " " + text + " is out of range; give at most 10^18 bytes");
  if (m.is_whole) return m.whole * unit;
  return static_cast<std::size_t>(m.number * static_cast<double>(unit));
}

double parse_speed(const std::string& option, const std::string& text) {
  Measured m;
  std::size_t unit = 0;
  if (measure(text, m)) {
    if (m.unit.ends_with("/s")) m.unit.remove_suffix(2);
    unit = bytes_of(m.unit);
  }
  if (unit == 0) throw BadInput(option + " takes bytes a second, as 25GB/s, got '" + text + "'");
  const double speed = m.number * static_cast<double>(unit);
  if (speed < 1 || speed > most_bytes)
    throw BadInput(option + " " + text + " is out of range; give 1 to 10^18 bytes a second");
  return speed;
}

Options parse_options(int argc, char** argv) {
  Options o;
  ModelWish wish;
  std::size_t batch = 1, node_ranks = 8;
  for (int i = 1; i + 1 < argc; ++i)
    if (std::string_view{argv[i]} == "--device")
      o.speeds = std::string_view{argv[i + 1]} == "cpu" ? cpu_speeds : Speeds{};
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> std::string {
      if (++i == argc || *argv[i] == '\0') throw BadInput(name + " takes a value; see --help");
      return argv[i];
    };
    const auto count = [&](std::size_t most) { return parse_count(name, value(), most); };
    if (name == "--help") {
      o.help = true;
      return o;
    }
    if (name == "--parameters")
      wish.parameters = parse_parameters(name, value());
    else if (name == "--layers")
      wish.layers = count(4096);
    else if (name == "--embed")
      wish.embed = count(1u << 18);
    else if (name == "--heads")
      wish.heads = count(1u << 12);
    else if (name == "--vocabulary")
      wish.vocabulary = count(1u << 24);
    else if (name == "--context")
      wish.context = count(1u << 24);
    else if (name == "--model")
      wish.preset = value();
    else if (name == "--config")
      wish.config_file = value();
    else if (name == "--batch")
      batch = count(1u << 20);
    else if (name == "--accumulate")
      o.job.micro_batches = count(4096);
    else if (name == "--world")
      o.job.world = count(65536);
    else if (name == "--node-ranks")
      node_ranks = count(65536);
    else if (name == "--device") {
      const std::string device = value();
      if (device != "cuda" && device != "cpu")
        throw BadInput("--device '" + device + "' is none of cuda, cpu");
      o.device = device == "cpu" ? DeviceKind::cpu : DeviceKind::cuda;
    } else if (name == "--precision")
      o.precisions = parse_precision(name, value());
    else if (name == "--device-memory")
      o.limits.device = parse_size(name, value());
    else if (name == "--host-memory")
      o.limits.host = parse_size(name, value());
    else if (name == "--disk")
      o.limits.disk = parse_size(name, value());
    else if (name == "--flops")
      o.speeds.flops = parse_real(name, value(), 1e6, 1e18);
    else if (name == "--network")
      o.speeds.network = parse_speed(name, value());
    else if (name == "--node-network")
      o.speeds.node_network = parse_speed(name, value());
    else if (name == "--host-link")
      o.speeds.host_link = parse_speed(name, value());
    else if (name == "--host-speed")
      o.speeds.host_memory = parse_speed(name, value());
    else if (name == "--disk-speed")
      o.speeds.disk = parse_speed(name, value());
    else if (name == "--all")
      o.all = true;
    else if (name == "--csv")
      o.csv = true;
    else if (name == "--estimates")
      o.estimates = true;
    else if (name == "--json")
      o.json = value();
    else if (name == "--picture")
      o.picture = value();
    else
      throw BadInput("unknown option '" + name + "'; see --help");
  }
  if (o.device == DeviceKind::cpu && o.limits.device)
    throw BadInput(
        "--device-memory is of --device cuda: a CPU's memory is its machine's, give "
        "--host-memory");
  if (o.estimates && o.precisions.size() != 1)
    throw BadInput("--estimates stands beside plans of one precision; name it by --precision");
  if (o.estimates && o.csv)
    throw BadInput("--estimates and --csv both say what to print; keep one");
  if (!o.picture.empty() && !o.picture.ends_with(".png") && !o.picture.ends_with(".svg"))
    throw BadInput("--picture '" + o.picture + "' ends neither in .png nor in .svg");
  o.job.model = model_of(wish, batch);
  const std::size_t head = o.job.model.embed / o.job.model.heads;
  if (o.device == DeviceKind::cuda && head > 256)
    throw BadInput("heads of " + std::to_string(head) +
                   " elements: attention on a GPU takes at most 256; give more --heads");
  o.job.node_ranks = node_ranks;
  return o;
}

}  // namespace planner
