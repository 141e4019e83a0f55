#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# tests/house/gpu_check.sh ROOT WORK
# cmake/gpu_check.sh with an nvcc, a GPU and a sanitizer that are scripts: that it tells what passed,
# failed, ran out of time and was skipped, goes on after each, and writes both reports.
set -euo pipefail
root=$1 work=$2
rm -rf "$work"
mkdir -p "$work/bin" "$work/deps/include" "$work/deps/lib"
touch "$work/deps/lib/libbenchmark.a"
echo 'a text with "quotes", a \ and a	tab' >"$work/deps/text.txt"

# A compiler whose programs do what NAME_does says.
cat >"$work/bin/nvcc" <<'END'
#!/usr/bin/env bash
[ "$1" != --version ] || { echo 'Cuda compilation tools, release 13.0, V13.0.48'; exit 0; }
while [ $# -gt 0 ]; do
  [ "$1" != -o ] || out=$2
  shift
done
name=$(basename "$out")
case $name in
  gpu_nccl) echo 'gpu_nccl.cu(1): error: a "planted" fault \ in it' >&2; exit 1 ;;
esac
cp "$(dirname "$0")/program" "$out"
END
cat >"$work/bin/g++" <<'END'
#!/usr/bin/env bash
[ "$1" != -dumpfullversion ] || echo 12.2.0
END
cat >"$work/bin/program" <<'END'
#!/usr/bin/env bash
case "$(basename "$0") $*" in
  'gpu ')
    [ -z "${PLANTED_SLEEP:-}" ] || sleep "$PLANTED_SLEEP"
    echo '[doctest] assertions: 7 | 7 passed'
    ;;
  bench_gpu*memory* | bench_gpu*triad*)
    for word in "$@"; do
      case $word in --benchmark_out=*) echo '{"benchmarks": [{"of_copy": NaN}, {"of_copy": 0.93}]
}' >"${word#*=}" ;; esac
    done
    ;;
  bench_gpu*tokens*) echo "tokens_per_s ERROR OCCURRED: 'the loss does not fall'" ;;
  bench_gpu*) echo 'SKIPPED: planted' ;;
  *--list*) printf 'full_shard  Sharded<FullShard>\non_disk  Sharded<OnNvme>\nbroken x\n' ;;
  *--strategy\ broken*) echo 'train_gpt_cuda: rank 0: planted' >&2; exit 1 ;;
  *--strategy\ on_disk*) [[ $* == *--nvme* ]] && echo 'final loss 1' ;;
  *--strategy*) [[ $* != *--nvme* ]] && echo 'final loss 2' ;;
  *--compare*) echo 'the plan equals the run to the byte' ;;
esac
END
cat >"$work/bin/nvidia-smi" <<'END'
#!/usr/bin/env bash
case $1 in
  *=name*) echo 'NVIDIA Planted, 141 GiB' ;;
  *driver*) echo 580.1 ;;
  *compute_cap*) echo 9.0 ;;
esac
END
cat >"$work/bin/compute-sanitizer" <<'END'
#!/usr/bin/env bash
echo '========= ERROR SUMMARY: 1 error'
exit 9
END
chmod +x "$work"/bin/*

failed=0
expect() { # FILE PATTERN
  grep -qE -- "$2" "$1" && return
  echo "$1 lacks: $2"
  failed=1
}
check() { # FOLDER STATUS: of the run, and well-formed
  [ "$status" -eq "$2" ] || { echo "$1: status $status, not $2" && failed=1; }
  if command -v python3 >/dev/null 2>&1; then
    python3 -m json.tool "$1/report.json" >/dev/null || failed=1
  fi
}
run() { # FOLDER OPTION...
  status=0
  PATH="$work/bin:$PATH" bash "$root/cmake/gpu_check.sh" --deps "$work/deps" --out "$@" \
    >"$work/output" 2>&1 || status=$?
}

# The time for all, which one program sleeps through.
PLANTED_SLEEP=60 run "$work/with_gpu" --seconds 25 --commit planted
check "$work/with_gpu" 1
report=$work/with_gpu/report.md
expect "$report" '^\| gpus \| NVIDIA Planted, 141 GiB \|$'
expect "$report" '^\| commit \| planted \|$'
expect "$report" '^\| test gpu \| timed out \| [0-9]+ \| more than [0-9]+ s \|$'
expect "$report" '^\| build gpu_nccl \| failed \| [0-9]+ \| gpu_nccl.cu\(1\): error: a "planted" fault'
expect "$report" '^\| test gpu_nccl \| skipped \| 0 \| gpu_nccl is not built \|$'
expect "$report" '^\| bench memory \| skipped \| 0 \| no time is left \|$'
if pgrep -f "$work/with_gpu/.*/bin/gpu" >/dev/null; then echo 'a program runs on' && failed=1; fi
expect "$work/with_gpu/report.json" '"reason": "gpu_nccl.cu\(1\): error: a \\"planted\\" fault \\\\ in it"'

run "$work/figures" --only test,bench,train,sanitizer
check "$work/figures" 1
report=$work/figures/report.md
expect "$report" '^\| test gpu \| passed \| [0-9]+ \| \[doctest\] assertions: 7'
expect "$report" '^\| bench memory \| passed \|'
expect "$report" "^\\| bench training \\| failed \\| [0-9]+ \\| ERROR OCCURRED: 'the loss does not fall'"
expect "$report" '^\| bench offload \| skipped \| [0-9]+ \| planted \|$'
expect "$report" '^\| train compare \| passed \| [0-9]+ \| the plan equals'
expect "$report" '^\| train full_shard \| passed \| [0-9]+ \| final loss 2 \|$'
expect "$report" '^\| train on_disk \| passed \| [0-9]+ \| final loss 1 \|$'
expect "$report" '^\| train broken \| failed \| [0-9]+ \| status 1: train_gpt_cuda: rank 0: planted \|$'
expect "$report" '^\| sanitizer gpu \| failed \| [0-9]+ \| status 9'
expect "$work/figures/report.json" '"of_copy": null'
expect "$work/figures/report.json" '"has_gpu": true'

# All of it well; then without a GPU.
run "$work/well" --only 'memory'
check "$work/well" 0
printf '#!/bin/sh\nexit 9\n' >"$work/bin/nvidia-smi"
run "$work/without" --only bench,peer
check "$work/without" 0
expect "$work/without/report.md" '^\| build bench_gpu \| passed \|'
expect "$work/without/report.md" '^\| bench memory \| skipped \| 0 \| there is no GPU: nvidia-smi lists none \|$'
expect "$work/without/report.json" '"has_gpu": false'

# Ended from outside: what was done so far is kept, and nothing runs on.
PLANTED_SLEEP=60 PATH="$work/bin:$PATH" bash "$root/cmake/gpu_check.sh" --deps "$work/deps" \
  --out "$work/ended" --only test >/dev/null 2>&1 &
child=$!
sleep 3
kill $child
status=0
wait $child || status=$?
check "$work/ended" 1
expect "$work/ended/report.md" '^\| interrupted \| failed \|'
if pgrep -f "$work/ended/.*/bin/gpu" >/dev/null; then echo 'a program runs on' && failed=1; fi

# Bad input: one line, status 2.
for words in '' "--deps $work/nothing" "--deps $work/deps --seconds 0" '--deps' '--what'; do
  status=0
  # shellcheck disable=SC2086  # a list of words
  said=$(bash "$root/cmake/gpu_check.sh" $words 2>&1) || status=$?
  if [ "$status" -ne 2 ] || [ "$(echo "$said" | wc -l)" -ne 1 ] || [[ $said != 'gpu_check: '* ]]; then
    echo "'$words' gives status $status: $said" && failed=1
  fi
done
[ $failed -eq 0 ] || { cat "$work/output" && exit 1; }
echo 'gpu_check.sh reports as it should'
