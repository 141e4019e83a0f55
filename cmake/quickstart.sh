#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# cmake/quickstart.sh [train_gpt option]...
# Builds train_gpt, trains it on the King James Bible over two ranks, then compares the
# strategies. Options go to both runs, after ours: --ranks 4 replaces --ranks 2. Those that concern the
# first run alone (--strategy, --steps, --log, --trace, --quiet) are kept from the second. State on a
# disk goes to a fresh folder in the build tree, or to that of --nvme.
set -eu
cd "$(dirname "$0")/.."
. cmake/setup.sh
setup g++ cmake ninja-build libeigen3-dev libopenblas-pthread-dev libdnnl-dev liburing-dev \
  bible-kjv bible-kjv-text

build=build/release
data=$build/data/kjv.txt

# A tree that is configured already keeps its options; `cmake --preset release` turns tests and
# benchmarks on in a tree that began here.
if [ ! -f $build/build.ninja ]; then
  cmake --preset release -DSHARDEXPR_TESTS=OFF -DSHARDEXPR_BENCHMARKS=OFF
fi
cmake --build $build --target train_gpt --parallel "${JOBS:-2}"

if [ ! -s $data ]; then
  mkdir -p $build/data
  bible -f gen1:1-rev22:21 | sed 's/^[^ ]* //' >$data.part  # drops "Ge1:1 "
  [ "$(wc -l <$data.part)" -gt 30000 ] || {
    echo "quickstart: bible wrote too little text to $data.part" >&2
    exit 1
  }
  mv $data.part $data
fi

nvme=$(mktemp -d $build/nvme.XXXXXX)
trap 'rm -rf "$nvme"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# train OURS LEFT_OUT OPTION...: train_gpt with our options, then those that are not left out.
train() {
  ours=$1 left_out=$2
  shift 2
  left=$#
  while [ "$left" -gt 0 ]; do
    left=$((left - 1))
    case " $left_out " in
      *" $1 "*)
        if [ "$1" != --quiet ] && [ "$left" -gt 0 ]; then
          left=$((left - 1))
          shift
        fi
        ;;
      *) set -- "$@" "$1" ;;
    esac
    shift
  done
  # shellcheck disable=SC2086
  $build/bin/train_gpt $ours "$@"
}

# --nvme goes to the first run only if its strategy keeps state on a disk: others refuse it.
strategy=full_shard
before=
for word in "$@"; do
  [ "$before" != --strategy ] || strategy=$word
  before=$word
done
first="--data $data --ranks 2 --strategy full_shard"
if $build/bin/train_gpt --list | grep -q "^$strategy .*OnNvme"; then
  first="$first --nvme $nvme"
  left_out=
else
  left_out=--nvme
fi

echo
echo "== training: $strategy"
train "$first" "$left_out" "$@"
echo
echo "== every strategy: bytes per rank and bytes sent per step, predicted and measured"
train "--data $data --ranks 2 --steps 3 --nvme $nvme" "--strategy --steps --log --trace --quiet" \
  "$@" --compare
