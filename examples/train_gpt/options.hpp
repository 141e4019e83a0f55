// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>

/// Input that cannot be trained on. One line: what, and what to do. The program ends with status 2.
struct BadInput : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// How far a run is.
struct Position {
  std::size_t step = 0;     ///< taken, skipped ones too
  std::size_t batches = 0;  ///< that each rank has trained on
  std::uint64_t seed = 1;   ///< of the order of the data
};

struct Options {
  std::string data, log, trace, nvme, strategy, lr_schedule = "constant", init, checkpoint,
                                                state = "sharded";
  std::size_t ranks = 2, steps = 200, layers = 4, heads = 4, embed = 128, context = 128, batch = 8,
              accumulate = 1, warmup = 0, every = 0, keep = 0;
  float lr = 1e-3f;
  double deadline_s = 600;
  std::optional<float> lr_least, clip, weight_decay, loss_scale;
  std::uint64_t seed = 1;
  bool quiet = false, help = false, list = false, compare = false, async = false, resume = false;
  std::set<std::string> given;  ///< the names that stand on the command line

  std::size_t vocabulary = 256;  ///< of the model; no option
  std::size_t ranks_here = 2;    ///< on this machine; no option
  std::size_t node_ranks = 0;    ///< on rank 0's machine, if not all are on one; no option
  Position position;             ///< where the run begins; no option

  bool is_given(const std::string& name) const { return given.count(name) != 0; }
};

// What the machine and the job differ in: `ranks_usage`, `async_usage` and `trace_usage` are lines
// of the usage.
inline constexpr const char* threads_usage = "  --ranks N         ranks, each a thread (2)\n";
inline constexpr const char* async_on_cpu_usage =
    "  --async           a thread each for computing and for communicating, in every rank\n";
inline constexpr const char* trace_to_file_usage =
    "  --trace FILE.json what every stream did and when; open it in ui.perfetto.dev\n";
inline constexpr bool has_deadline =
#if defined(TRAIN_GPT_MPI)
    true;
#else
    false;
#endif
#if defined(TRAIN_GPT_CUDA)
inline constexpr const char* program = "train_gpt_cuda";
inline constexpr const char* trains_how =
    "Trains a GPT on the bytes of a file, on GPUs; ranks are threads of this process and go round\n"
    "the GPUs that it sees (CUDA_VISIBLE_DEVICES); several can share one.\n";
inline constexpr const char *ranks_usage = threads_usage, *async_usage = "",
                            *trace_usage = trace_to_file_usage;
#elif defined(TRAIN_GPT_MPI)
inline constexpr const char* program = "train_gpt_mpi";
inline constexpr const char* trains_how =
    "Trains a GPT on the bytes of a file; ranks are processes that mpirun or srun starts, on one\n"
    "machine or many, which all see the files: mpirun -n 4 train_gpt_mpi --data FILE\n";
inline constexpr const char* ranks_usage =
    "  --ranks N         not needed: the launcher says how many; another number is refused\n"
    "  --deadline X      seconds that a collective may take; then the job ends with an error that\n"
    "                    names the ranks which did not come (600)\n";
inline constexpr const char *async_usage = async_on_cpu_usage, *trace_usage = "";
#else
    inline constexpr const char* program = "train_gpt";
inline constexpr const char* trains_how =
    "Trains a GPT on the bytes of a file; ranks are threads of this process.\n";
inline constexpr const char *ranks_usage = threads_usage, *async_usage = async_on_cpu_usage,
                            *trace_usage = trace_to_file_usage;
#endif

inline constexpr const char* usage_of_job =
    "\n"
    "  --data FILE       text to train on, any file of bytes\n"
    "  --strategy NAME   how state is sharded; --list shows the names (default: the first)\n";
inline constexpr const char* usage_of_training =
    "  --steps N         optimizer steps (200)\n"
    "  --layers N        blocks (4)\n"
    "  --heads N         attention heads; must divide --embed (4)\n"
    "  --embed N         width (128)\n"
    "  --context N       tokens a sequence (128)\n"
    "  --batch N         sequences a rank and step (8)\n"
    "  --accumulate N    micro-batches a step; their gradients are averaged (1)\n"
    "  --lr X            learning rate (0.001)\n"
    "  --lr-schedule X   constant, cosine or linear: how the rate falls over --steps (constant)\n"
    "  --lr-least X      of cosine and linear: the fraction of --lr at the last step (0)\n"
    "  --warmup N        steps in which the rate rises to --lr (0)\n"
    "  --weight-decay X  of the optimizer (its default)\n"
    "  --clip X          most that the gradients' norm, or each gradient, may be (no limit)\n"
    "  --loss-scale X    of a strategy that has one: the scale, or the first (65536)\n"
    "  --nvme DIR        of a strategy with state on a disk: a folder there, of this run alone\n"
    "  --seed N          of the initial weights and the order of the data (1)\n"
    "  --init PATH       begin with a GPT-2 as Hugging Face saves it: a safetensors file, or a\n"
    "                    folder with model.safetensors and config.json, which gives the sizes\n"
    "  --checkpoint DIR  save to a folder there at the end; it must be new, or see --resume\n"
    "  --every N         save each N steps, too\n"
    "  --keep N          keep the newest N checkpoints (all)\n"
    "  --state X         sharded: each rank writes a part; full: one model.safetensors, which\n"
    "                    Hugging Face loads, beside the rest; local: memory as it lies (sharded)\n"
    "  --resume          go on from the latest in --checkpoint, which may be of other ranks or\n"
    "                    strategy; --steps counts from the start of training\n"
    "  --log FILE.jsonl  one JSON object a line: start, each step, end; --resume adds to it\n";
inline constexpr const char* usage_of_modes =
    "  --compare         train --steps under every strategy; print bytes planned and measured\n"
    "  --list            print each strategy's name and type\n"
    "  --quiet           print the last line only\n"
    "  --help            print this\n"
    "The last of a repeated option counts.\n";

inline std::string usage_text() {
  return std::string{"usage: "} + program + " --data FILE [options]\n" + trains_how + usage_of_job +
         ranks_usage + usage_of_training + trace_usage + async_usage + usage_of_modes;
}

namespace detail {

template <class T>
T parse_number(const std::string& option, const std::string& text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc::result_out_of_range)
    throw BadInput(option + " " + text + " is out of range; see --help for the default");
  if (error != std::errc{} || at != end)
    throw BadInput(option + " takes " +
                   (std::is_integral_v<T> ? "a whole number of at least 0" : "a number") +
                   ", got '" + text + "'");
  return value;
}

}  // namespace detail

/// The last of a repeated option counts, so that scripts can put defaults first.
/// Errors:  BadInput for an unknown or incomplete option and for a value out of range.
inline Options parse_options(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> std::string {
      if (++i == argc || *argv[i] == '\0') throw BadInput(name + " takes a value; see --help");
      return argv[i];
    };
    const auto number = [&](auto& to) {
      to = detail::parse_number<std::remove_reference_t<decltype(to)>>(name, value());
    };
    o.given.insert(name);
    if (name == "--data")
      o.data = value();
    else if (name == "--log")
      o.log = value();
    else if (name == "--trace")
      o.trace = value();
    else if (name == "--nvme")
      o.nvme = value();
    else if (name == "--init")
      o.init = value();
    else if (name == "--checkpoint")
      o.checkpoint = value();
    else if (name == "--state")
      o.state = value();
    else if (name == "--every")
      number(o.every);
    else if (name == "--keep")
      number(o.keep);
    else if (name == "--resume")
      o.resume = true;
    else if (name == "--strategy")
      o.strategy = value();
    else if (name == "--ranks")
      number(o.ranks);
    else if (name == "--steps")
      number(o.steps);
    else if (name == "--layers")
      number(o.layers);
    else if (name == "--heads")
      number(o.heads);
    else if (name == "--embed")
      number(o.embed);
    else if (name == "--context")
      number(o.context);
    else if (name == "--batch")
      number(o.batch);
    else if (name == "--accumulate")
      number(o.accumulate);
    else if (name == "--lr")
      number(o.lr);
    else if (name == "--lr-schedule")
      o.lr_schedule = value();
    else if (name == "--lr-least")
      number(o.lr_least.emplace());
    else if (name == "--warmup")
      number(o.warmup);
    else if (name == "--weight-decay")
      number(o.weight_decay.emplace());
    else if (name == "--clip")
      number(o.clip.emplace());
    else if (name == "--loss-scale")
      number(o.loss_scale.emplace());
    else if (name == "--seed")
      number(o.seed);
    else if (has_deadline && name == "--deadline")
      number(o.deadline_s);
    else if (name == "--async")
      o.async = true;
    else if (name == "--quiet")
      o.quiet = true;
    else if (name == "--compare")
      o.compare = true;
    else if (name == "--list")
      o.list = true;
    else if (name == "--help")
      o.help = true;
    else
      throw BadInput("unknown option '" + name + "'; see --help");
  }
  if (o.help || o.list) return o;

  const auto within = [](const char* name, std::size_t value, std::size_t most) {
    if (value == 0 || value > most)
      throw BadInput(std::string(name) + " " + std::to_string(value) +
                     " is out of range; give 1 to " + std::to_string(most));
  };
  within("--ranks", o.ranks, 1024);
  o.ranks_here = o.ranks;
  within("--steps", o.steps, 1'000'000'000);
  within("--layers", o.layers, 10'000);
  within("--heads", o.heads, 1'000'000);
  within("--embed", o.embed, 1'000'000);
  within("--context", o.context, 10'000'000);
  within("--batch", o.batch, 10'000'000);
  within("--accumulate", o.accumulate, 1'000'000);
  if (o.embed % o.heads != 0)
    throw BadInput("--heads " + std::to_string(o.heads) + " does not divide --embed " +
                   std::to_string(o.embed) + "; choose heads that do");
  if (o.lr_schedule != "constant" && o.lr_schedule != "cosine" && o.lr_schedule != "linear")
    throw BadInput("--lr-schedule '" + o.lr_schedule + "' is none of constant, cosine and linear");
  if (o.lr_least && o.lr_schedule == "constant")
    throw BadInput(
        "--lr-least: a constant rate does not fall; give --lr-schedule cosine or linear");
  if (o.lr_least && !(*o.lr_least >= 0 && *o.lr_least <= 1))
    throw BadInput("--lr-least is a fraction of --lr; give 0 to 1");
  if (o.warmup > o.steps)
    throw BadInput("--warmup " + std::to_string(o.warmup) + " is more than --steps " +
                   std::to_string(o.steps));
  if (!(o.lr > 0) || !std::isfinite(o.lr)) throw BadInput("--lr must be above 0 and finite");
  if (!(o.deadline_s >= 0.1 && o.deadline_s <= 1e6))
    throw BadInput("--deadline is a time in seconds; give 0.1 to 1000000");
  if (o.data.empty()) throw BadInput("no --data; name a file of text to train on");
  if (o.compare && !o.strategy.empty())
    throw BadInput("--compare runs every strategy; leave out --strategy");
  if (o.compare && !o.log.empty()) throw BadInput("--compare writes no log; leave out --log");
  if (o.state != "sharded" && o.state != "full" && o.state != "local")
    throw BadInput("--state '" + o.state + "' is none of sharded, full and local");
  for (const char* option : {"--every", "--keep", "--state", "--resume"})
    if (o.is_given(option) && o.checkpoint.empty())
      throw BadInput(std::string{option} + " is of a run that saves; give --checkpoint DIR");
  for (const char* option : {"--every", "--keep"})
    if (o.is_given(option))
      within(option, option == std::string{"--every"} ? o.every : o.keep, 1'000'000'000);
  if (o.resume && !o.init.empty())
    throw BadInput("--init: a run that is resumed has its parameters; leave it out");
  for (const char* option : {"--checkpoint", "--init"})
    if (o.is_given(option) && o.compare)
      throw BadInput(std::string{"--compare keeps nothing; leave out "} + option);
  for (const char* option : {"--checkpoint", "--init"})
    if (o.is_given(option) && !o.trace.empty())
      throw BadInput(std::string{"--trace is of a run that begins and ends by itself; leave out "} +
                     option);
  if (o.compare && !o.trace.empty()) throw BadInput("--compare writes no trace; leave out --trace");
  return o;
}
