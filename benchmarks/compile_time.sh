#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# benchmarks/compile_time.sh [--report] [compiler] [flag...]
# How long the compiler takes for what a user writes: train_gpt with one strategy, and a file that
# includes the policies alone and names a strategy. Three runs of each (RUNS=n for n), no ccache,
# the median in seconds. Default: g++ -O2, Eigen as pkg-config finds it.
# --report compiles train_gpt once more with -ftime-report (g++) and prints its largest items.
set -eu
cd "$(dirname "$0")/.."

report=
if [ "${1:-}" = --report ]; then
  report=yes
  shift
fi
compiler=${1:-g++}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- -O2
runs=${RUNS:-3}
eigen=${EIGEN3_INCLUDE_DIR:-}
if [ -z "$eigen" ]; then
  eigen=$(pkg-config --cflags-only-I eigen3 2>/dev/null | sed 's/^-I//; s/ *$//') || eigen=
  [ -n "$eigen" ] || eigen=/usr/include/eigen3
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

# What examples/train_gpt/CMakeLists.txt makes of `full_shard=FullShard`.
cat >"$scratch/train_gpt_strategies.hpp" <<'END'
#pragma once
#include <shardexpr/shardexpr.hpp>

namespace strategies {
using namespace shardexpr;
using strategy_full_shard = Sharded<Gpt, FullShard>;
}  // namespace strategies

#define TRAIN_GPT_EACH_STRATEGY(ENTRY) ENTRY(full_shard)
END
cat >"$scratch/strategy.cpp" <<'END'
#include <shardexpr/policy/strategy.hpp>
namespace sx = shardexpr;
using Strategy = sx::StrategyOf<sx::FullShard, sx::AdamW, sx::Over<sx::Threads>>;
static_assert(Strategy::sharding::parameters);
END

compile() {  # compile <file>
  "$compiler" "$@" -std=c++20 -fno-math-errno -Iinclude -isystem "$eigen" -I"$scratch" \
    -c -o "$scratch/out.o"
}

now() {  # seconds; whole ones where date knows no others
  case $(date +%N) in
    *N*) date +%s ;;
    *) date +%s.%N ;;
  esac
}

# Prints wall and user seconds of one compilation. `times` of a subshell is that of its children.
one_run() (
  begin=$(now)
  compile "$@"
  end=$(now)
  times >"$scratch/times"
  awk -v begin="$begin" -v end="$end" 'NR == 2 {
    split($1, user, /[ms]/)
    printf "%.2f %.2f\n", end - begin, user[1] * 60 + user[2]
  }' "$scratch/times"
)

median() { sort -n | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }'; }

measure() {  # measure <label> <target seconds> <file> <flag...>
  label=$1 target=$2
  shift 2
  : >"$scratch/runs"
  i=0
  while [ "$i" -lt "$runs" ]; do
    one_run "$@" >>"$scratch/runs"
    i=$((i + 1))
  done
  wall=$(cut -d' ' -f1 "$scratch/runs" | median)
  user=$(cut -d' ' -f2 "$scratch/runs" | median)
  printf '%-28s %8s %8s %8s\n' "$label" "$wall" "$user" "$target"
}

echo "$("$compiler" --version | sed 1q), $*, median of $runs"
printf '%-28s %8s %8s %8s\n' '' 'wall s' 'user s' 'target'
measure 'train_gpt, one strategy' 25 examples/train_gpt/main.cpp "$@"
measure 'policy/strategy.hpp' 1 "$scratch/strategy.cpp" "$@"

if [ -n "$report" ]; then
  echo
  echo 'train_gpt, -ftime-report: user seconds, system, wall, memory'
  compile examples/train_gpt/main.cpp "$@" -ftime-report 2>&1 |
    grep -E '^ *(phase|TOTAL|\|?[a-z]).*:.*\(' | sort -t: -k2 -rn | head -25
fi
