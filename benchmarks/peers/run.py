#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""shardexpr beside PyTorch and DeepSpeed on this machine's processor, in turns.

    benchmarks/peers/setup.sh                 # once: PyTorch and DeepSpeed, in build/peers
    cmake --build --preset release --target train_gpt peers_ours
    benchmarks/peers/run.py [--quick]

Trains one GPT from the same weights on the same bytes by each way, two ranks with a core each: a
round runs every way once, whole processes, and begins with another way than the round before. Then
optimizers alone, and collectives alone. Prints tables and writes a record of JSON, which
benchmarks/README.md explains.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import socket
import subprocess
import sys
import tempfile
import time

import report
import text

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RANKS = 2
SEED = 1

SIZES = {
    "10M": {"context": 128, "embed": 384, "heads": 6, "layers": 6, "batch": 4, "steps": 8},
    "50M": {"context": 256, "embed": 640, "heads": 10, "layers": 10, "batch": 2, "steps": 3},
}
QUICK = {"tiny": {"context": 32, "embed": 64, "heads": 2, "layers": 2, "batch": 2, "steps": 2}}
VOCABULARY = 256
WARMUP = 3

# Ours by the name of train_gpt's strategy, the first compared with all peers.
OURS = {
    "fp32": ["full_shard", "shard_grad_op", "shard_optimizer", "no_shard"],
    "bf16": ["mixed_bf16"],
}
PEERS = ["fsdp2", "fsdp2_compiled", "ddp", "ddp_compiled", "zero1", "zero2", "zero3"]
# How far curves and first norms may be apart, of the first: sums run in other orders; in 16 bits
# what is rounded differs, too.
APART = {"fp32": 1e-3, "bf16": 2e-2}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", help="a Python with PyTorch and DeepSpeed (build/peers/bin/python)",
                        default=str(ROOT / "build/peers/bin/python"))
    parser.add_argument("--bin", help="where train_gpt and peers_ours are (build/release/bin)",
                        default=str(ROOT / "build/release/bin"))
    parser.add_argument("--out", default=str(ROOT / "benchmarks/results/peers.json"))
    parser.add_argument("--parts", default="training,optimizers,collectives")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--dtypes", default="fp32,bf16")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--ours", default="", help="strategies of train_gpt (all that the dtype has)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--add", action="store_true",
                        help="add rounds to what the record has, if machine and versions are the same")
    parser.add_argument("--quick", action="store_true", help="a rehearsal: small, one round, to a temporary file")
    return parser.parse_args()


def fail(message):
    print(f"run.py: {message}", file=sys.stderr)
    sys.exit(2)


def first_line(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def machine():
    fields = {}
    with open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    with open("/proc/meminfo") as file:
        memory_kb = int(file.readline().split()[1])
    return {
        "cpu": fields.get("model name", "unknown"),
        "family_model": f"{fields.get('cpu family')}/{fields.get('model')}",
        "avx512_bf16": "avx512_bf16" in fields.get("flags", ""),
        "cores": os.cpu_count(),
        "memory_MB": memory_kb // 1000,
        "kernel": platform.release(),
    }


def versions(python):
    script = (
        "import json, platform, torch, deepspeed, io, contextlib\n"
        "print(json.dumps({'python': platform.python_version(), 'torch': torch.__version__,"
        " 'deepspeed': deepspeed.__version__}))"
    )
    seen = subprocess.run([python, "-c", script], capture_output=True, text=True, env=environment(python, 1),
                          check=False)
    if seen.returncode != 0:
        fail(f"{python} has no PyTorch with DeepSpeed; run benchmarks/peers/setup.sh, or give --python")
    return {
        **json.loads(seen.stdout.splitlines()[-1]),
        "shardexpr": first_line(["git", "-C", str(ROOT), "rev-parse", "HEAD"]),
        "compiler": first_line(["g++", "--version"]),
    }


def environment(python, threads):
    """`ninja` stands beside the Python that it was installed for; DeepSpeed calls it."""
    return {
        **os.environ,
        "PATH": f"{os.path.dirname(os.path.abspath(python))}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "DS_ACCELERATOR": "cpu",
        "TOKENIZERS_PARALLELISM": "false",
    }


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_environments(python):
    port = str(free_port())
    for rank in range(RANKS):
        yield {
            **environment(python, 1),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(RANKS),
            "LOCAL_WORLD_SIZE": str(RANKS),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }


def speed_of(size, seconds):
    timed = seconds[WARMUP:]
    return RANKS * size["batch"] * size["context"] * len(timed) / sum(timed)


def run_ours(options, strategy, size, job, folder):
    """train_gpt; its memory is what the kernel says of the process that ended."""
    log = folder / "ours.jsonl"
    command = [
        f"{options.bin}/train_gpt", "--quiet", "--strategy", strategy, "--ranks", RANKS, "--data", job["data"],
        "--init", job["init"], "--steps", WARMUP + size["steps"], "--batch", size["batch"], "--context",
        size["context"], "--embed", size["embed"], "--heads", size["heads"], "--layers", size["layers"], "--lr",
        job["rate"], "--weight-decay", job["decay"], "--seed", SEED, "--log", log,
    ]
    peak_kb = peak_of([str(part) for part in command])
    with open(log) as file:
        steps = [event for event in map(json.loads, file) if event["event"] == "step"]
    tokens = RANKS * size["batch"] * size["context"]
    return {
        "tokens_per_s": speed_of(size, [tokens / step["tokens_per_s"] for step in steps]),
        "losses": [step["loss"] for step in steps],
        "first_norm": steps[0]["grad_norm"],
        "peak_kb": peak_kb,
        "imported_kb": 0,  # nothing is taken off
    }


def peak_of(command):
    """Runs a process to its end; its most memory, in kB."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            fail(f"{' '.join(command)} ended with {process.returncode}: {errors.read().decode(errors='replace')}")
    return usage.ru_maxrss


def run_peer(options, way, dtype, size, job, folder):
    """One process a rank; memory and imports are their sums."""
    spec = folder / "spec.json"
    with open(spec, "w") as file:
        json.dump({**job, "way": way, "dtype": dtype, "warmup": WARMUP, "steps": size["steps"],
                   "batch": size["batch"], "seed": SEED}, file)
    results = [folder / f"rank{rank}.json" for rank in range(RANKS)]
    logs = [open(folder / f"{way}-{dtype}-{rank}.log", "w+") for rank in range(RANKS)]
    processes = [
        subprocess.Popen([options.python, HERE / "peer.py", spec, result], env=env, stdout=log, stderr=log)
        for result, log, env in zip(results, logs, rank_environments(options.python))
    ]
    statuses = [process.wait() for process in processes]
    for status, log in zip(statuses, logs):
        if status != 0:
            log.seek(0)
            fail(f"{way}, {dtype} ended with {status}:\n{log.read()[-3000:]}")
        log.close()
    ranks = []
    for result in results:
        with open(result) as file:
            ranks.append(json.load(file))
    return {
        "tokens_per_s": min(speed_of(size, rank["seconds"]) for rank in ranks),
        "losses": [sum(losses) / RANKS for losses in zip(*(rank["losses"] for rank in ranks))],
        "first_norm": ranks[0]["first_norm"],
        "peak_kb": sum(rank["peak_kb"] for rank in ranks),
        "imported_kb": sum(rank["imported_kb"] for rank in ranks),
    }


def prepare(options, size, folder):
    """Initial weights and data for one size."""
    shape = {"vocabulary": VOCABULARY, **{k: size[k] for k in ("context", "embed", "heads", "layers")}}
    job = {"shape": shape, "init": str(folder / "init.safetensors"), "data": str(folder / "text"),
           "rate": 1e-3, "decay": 0.1}
    text.write_chain(job["data"], 1_000_000, SEED)
    script = (f"import gpt2; gpt2.write_initial(gpt2.Shape(**{shape!r}), {SEED}, {job['init']!r})")
    subprocess.run([options.python, "-c", script], cwd=HERE, env=environment(options.python, 1), check=True)
    return job


def parameters_of(shape):
    n = shape["embed"]
    return (shape["vocabulary"] + shape["context"] + 2) * n + shape["layers"] * (12 * n * n + 13 * n)


def find_section(record, part, key):
    for section in record[part]:
        if all(section[name] == value for name, value in key.items()):
            return section
    record[part].append({**key, "rounds": []})
    return record[part][-1]


def now():
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def train(options, record, sizes, save):
    for name, size in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            job = prepare(options, size, folder)
            for dtype in options.dtypes.split(","):
                ours = [s for s in OURS[dtype] if not options.ours or s in options.ours.split(",")]
                if not ours:
                    fail(f"--ours {options.ours} has none of {', '.join(OURS[dtype])} for {dtype}")
                section = find_section(record, "training", {
                    "name": name, "dtype": dtype, "size": size, "parameters": parameters_of(job["shape"]),
                    "ours": f"shardexpr {ours[0]}", "apart_bound": APART[dtype]})
                ways = [f"shardexpr {s}" for s in ours] + options.peers.split(",")
                if section["rounds"] and list(section["rounds"][0]["runs"]) != ways:
                    fail(f"{options.out} has other ways for {name}, {dtype}; do not give --add")
                for _ in range(options.rounds):
                    runs = {"began": now(), "runs": {}}
                    for way in report.turned(ways, len(section["rounds"])):
                        print(f"{name} {dtype} {way}", file=sys.stderr, flush=True)
                        if way.startswith("shardexpr "):
                            runs["runs"][way] = run_ours(options, way.split()[1], size, job, folder)
                        else:
                            runs["runs"][way] = run_peer(options, way, dtype, size, job, folder)
                    runs["runs"] = {way: runs["runs"][way] for way in ways}
                    section["rounds"].append(runs)
                    report.summarize(section)
                    save()
                print(report.training_table(section), flush=True)


class Worker:
    """Processes that take orders, a line each."""

    def __init__(self, options, what, environments):
        self.processes = [
            subprocess.Popen([options.python, HERE / "worker.py", what], env=env, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
            for env in environments
        ]

    def order(self, order):
        for process in self.processes:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        answers = [process.stdout.readline() for process in self.processes]
        if not all(answers):
            fail(f"worker.py left at {order}")
        return [json.loads(answer) for answer in answers]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait()


def ours_alone(options, *arguments):
    command = [f"{options.bin}/peers_ours", *map(str, arguments)]
    seen = subprocess.run(command, capture_output=True, text=True, check=False)
    if seen.returncode != 0:
        fail(f"{' '.join(command)}: {seen.stderr}")
    return json.loads(seen.stdout)


def take_turns(section, rounds, sides, pause=0):
    """`sides`: what to call, by name. `pause`: seconds before each call, in which threads of the one
    before go to sleep."""
    for _ in range(rounds):
        names = report.turned(list(sides), len(section["rounds"]))
        seen = {}
        for name in names:
            time.sleep(pause)
            seen[name] = sides[name]()
        section["rounds"].append({name: seen[name] for name in sides})


class OursInTurns:
    """peers_ours adamw, which does a pass for each line."""

    def __init__(self, options, count, copy):
        command = [f"{options.bin}/peers_ours", "adamw", str(count), *(["copy"] if copy else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def one_pass(self):
        self.process.stdin.write("pass\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            fail("peers_ours adamw left")
        return {"seconds": json.loads(answer)["seconds"]}

    def check(self):
        answer = self.process.communicate()[0]
        if self.process.returncode != 0:
            fail(f"peers_ours adamw ended with {self.process.returncode}")
        return json.loads(answer)["check"]


def measure_optimizers(options, record, save):
    """A pass each in turns, all three alive: the machine's states, which last for seconds, meet all."""
    counts = [100_000] if options.quick else [10_000_000, 50_000_000]
    turns = 2 if options.quick else 30 * options.rounds
    with Worker(options, "optimizers", [environment(options.python, 2)]) as worker:
        for count in counts:
            for copy in (False, True):
                name = f"AdamW, {count // 1_000_000 or count / 1e6}M" + (", bf16 copy" if copy else "")
                section = find_section(record, "optimizers", {"name": name, "apart_bound": 1e-5})

                ours = OursInTurns(options, count, copy)
                theirs = {"torch fused AdamW": "torch", "DeepSpeedCPUAdam": "deepspeed"}
                for which in theirs.values():
                    worker.order({"do": "make", "which": which, "parameters": count, "copy": copy})
                sides = {"shardexpr": ours.one_pass}
                for side, which in theirs.items():
                    sides[side] = lambda which=which: worker.order({"do": "pass", "which": which})[0]
                for one_pass in sides.values():
                    one_pass()  # touches caches and pages
                before = len(section["rounds"])
                take_turns(section, turns, sides, pause=0.02)
                checks = {"shardexpr": ours.check()}
                for side, which in theirs.items():
                    checks[side] = worker.order({"do": "drop", "which": which})[0]["check"]
                for turn in section["rounds"][before:]:
                    for side, check in checks.items():
                        turn[side]["check"] = check
                report.summarize_alone(section)
                save()
    print(report.alone_table(record["optimizers"]), flush=True)


def measure_collectives(options, record, save):
    sizes, passes = ([1], 2) if options.quick else ([16, 64, 256], 4)

    def gloo(which, mib):
        def order():
            ranks = worker.order({"which": which, "mib": mib, "passes": passes})
            spans = zip(*(rank["spans"] for rank in ranks))  # from the last arrival to the last end
            return {"seconds": [max(s[1] for s in span) - max(s[0] for s in span) for span in spans],
                    "check": ranks[0]["check"]}

        return order

    def ours(which, mib):
        return lambda: ours_alone(options, which, mib, passes)

    with Worker(options, "collectives", rank_environments(options.python)) as worker:
        for which in ("reduce_scatter", "all_gather", "all_reduce"):
            for mib in sizes:
                section = find_section(
                    record, "collectives", {"name": f"{which}, {mib} MiB", "apart_bound": 0})
                sides = {"shardexpr": ours(which, mib), "gloo": gloo(which, mib)}
                if which == "all_gather":
                    sides["shardexpr, one buffer"] = ours("gather", mib)
                take_turns(section, options.rounds, sides)
                report.summarize_alone(section)
                save()
    print(report.alone_table(record["collectives"]), flush=True)


def main():
    options = parse()
    for name, given, known in (("--sizes", options.sizes, SIZES), ("--dtypes", options.dtypes, OURS),
                               ("--peers", options.peers, PEERS),
                               ("--parts", options.parts, ["training", "optimizers", "collectives"])):
        for word in given.split(","):
            if word not in known:
                fail(f"{name} has no '{word}'; it has {', '.join(known)}")
    if options.rounds < 1:
        fail("--rounds is a whole number of at least 1")
    if not os.access(options.python, os.X_OK):
        fail(f"no {options.python}; run benchmarks/peers/setup.sh, or give --python")
    sizes = {name: SIZES[name] for name in options.sizes.split(",")}
    if options.quick:
        sizes, options.rounds = QUICK, 1
        options.out = str(pathlib.Path(tempfile.mkdtemp()) / "peers.json")
    for program in ("train_gpt", "peers_ours"):
        if not os.access(f"{options.bin}/{program}", os.X_OK):
            fail(f"no {options.bin}/{program}; cmake --build --preset release --target train_gpt peers_ours")
    record = {"what": "shardexpr beside PyTorch and DeepSpeed on a CPU, 2 ranks", "began": now(),
              "machine": machine(), "versions": versions(options.python), "training": [], "optimizers": [],
              "collectives": []}
    if options.add and os.path.exists(options.out):
        with open(options.out) as file:
            before = json.load(file)
        if any(before[key] != record[key] for key in ("machine", "versions")):
            fail(f"{options.out} is of another machine or other versions; leave out --add, or give another --out")
        record = before

    def save():
        record["ended"] = now()
        with open(options.out + ".new", "w") as file:
            json.dump(record, file, indent=1)
            file.write("\n")
        os.replace(options.out + ".new", options.out)

    parts = options.parts.split(",")
    if "training" in parts:
        train(options, record, sizes, save)
    if "optimizers" in parts:
        measure_optimizers(options, record, save)
    if "collectives" in parts:
        measure_collectives(options, record, save)
    print(f"record: {options.out}")


main()
