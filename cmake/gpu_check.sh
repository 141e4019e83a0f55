#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# cmake/gpu_check.sh --deps DIR [--out DIR] [--seconds N] [--only WORD,...] [--commit ID]
# On a machine with a GPU, CUDA, NCCL and g++ (no CMake, no packages): builds and runs everything that
# needs a GPU, the most important first, and writes report.json and report.md.
#   --deps DIR      what cmake/gpu_deps.sh made, on a machine with packages
#   --out DIR       where programs, logs and reports go (build/gpu_check)
#   --seconds N     all of it ends by then: what is left is skipped, and said (540)
#   --only WORD,... items alone that one of the words is a part of: test, bench, train, sanitizer, peer
#   --commit ID     of the tree, where there is no git to ask
# An item passes, fails, runs out of its time, or is skipped for a reason; none stops the others. Ends
# with 1 if one failed or ran out of time. Without a GPU it builds what it can and says what it left.
set -uo pipefail
began=$SECONDS

usage() { sed -n '3,13s/^# //p' "$0" >&2; }
bad() {
  echo "gpu_check: $1" >&2
  exit 2
}
deps='' out='' seconds=540 only='' commit=''
while [ $# -gt 0 ]; do
  case $1 in
    --deps | --out | --seconds | --only | --commit)
      if [ $# -lt 2 ] || [ -z "$2" ]; then bad "$1 takes a value"; fi
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --help)
      usage 2>&1
      exit 0
      ;;
    *) bad "unknown option '$1'; see --help" ;;
  esac
done
[ -n "$deps" ] || bad "no --deps; make the folder with cmake/gpu_deps.sh where there are packages"
[ -d "$deps/include" ] || bad "--deps $deps has no include/; make it with cmake/gpu_deps.sh"
[[ $seconds =~ ^[1-9][0-9]*$ ]] || bad "--seconds '$seconds' is no whole number above 0"
deps=$(cd "$deps" && pwd)
command -v timeout >/dev/null 2>&1 || bad "there is no timeout here; install coreutils"
root=$(cd "$(dirname "$0")/.." && pwd)
out=${out:-$root/build/gpu_check}
mkdir -p "$out" || bad "--out $out cannot be made"
out=$(cd "$out" && pwd)
work=$out/work
rm -rf "${out:?}/work" "${out:?}/report.json" "${out:?}/report.md"
mkdir -p "$work/bin" "$work/logs" || bad "--out $out cannot be written to"
cd "$root" || exit 2

pid=''  # what runs now
left() { echo $((seconds - (SECONDS - began))); }

# The machine --------------------------------------------------------------------------------------

nvcc=$(command -v nvcc || true)
for folder in "${CUDA_HOME:-}" "${CUDA_PATH:-}" /usr/local/cuda; do
  [ -z "$nvcc" ] && [ -n "$folder" ] && [ -x "$folder/bin/nvcc" ] && nvcc=$folder/bin/nvcc
done
cuda=''
[ -z "$nvcc" ] || cuda=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
cxx=$(command -v g++ || true)

nccl_include='' nccl_library=''
for folder in "${NCCL_HOME:-}" "$cuda" /usr /usr/local \
  "$(python3 -c 'import nvidia.nccl as n; print(list(n.__path__)[0])' 2>/dev/null)"; do
  if [ -n "$nccl_include" ] || [ -z "$folder" ] || [ ! -e "$folder/include/nccl.h" ]; then continue; fi
  for library in "$folder"/lib64/libnccl.so* "$folder"/lib/libnccl.so* \
    "$folder"/lib/"$(uname -m)"-linux-gnu/libnccl.so*; do
    [ -e "$library" ] || continue
    nccl_include=$folder/include nccl_library=$library
    break
  done
done

gpus='' driver='' capability='' no_gpu=''
query() { timeout 20 nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null; }
if ! command -v nvidia-smi >/dev/null 2>&1; then
  [ -e /dev/nvidia0 ] || no_gpu="there is no GPU: neither nvidia-smi nor /dev/nvidia0"
elif ! gpus=$(query name,memory.total) || [ -z "$gpus" ]; then
  no_gpu="there is no GPU: nvidia-smi lists none" gpus=''
else
  driver=$(query driver_version | head -n 1)
  capability=$(query compute_cap | head -n 1 | tr -d '. ')
fi

if [ -z "$commit" ]; then
  commit=$(git -C "$root" rev-parse HEAD 2>/dev/null || true)
  if [ -n "$commit" ] && [ -n "$(git -C "$root" status --porcelain -uno 2>/dev/null)" ]; then
    commit="$commit, changed"
  fi
fi
nccl_version=''
[ -z "$nccl_include" ] || nccl_version=$(
  awk '/^#define NCCL_(MAJOR|MINOR|PATCH) /{v = v (v == "" ? "" : ".") $3} END{print v}' \
    "$nccl_include/nccl.h"
)
machine_names=(date commit host system processor cores memory gpus driver cuda nccl compiler)
machine_values=(
  "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
  "${commit:-unknown}"
  "$(uname -n)"
  "$(uname -srm)"
  "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)"
  "$(nproc)"
  "$(awk '/^MemTotal/{printf "%.0f GiB", $2 / 1048576}' /proc/meminfo 2>/dev/null)"
  "${gpus:-none}"
  "${driver:-none}"
  "$([ -z "$nvcc" ] || "$nvcc" --version | sed -n 's/.*release [^,]*, V//p')"
  "${nccl_version:-none}"
  "$([ -z "$cxx" ] || "$cxx" -dumpfullversion)"
)

# Reports ------------------------------------------------------------------------------------------

names=() states=() reasons=() times=() figures=() logs=()

json_string() { # of what is on standard input
  LC_ALL=C tr '\t' ' ' | LC_ALL=C tr -d '\000-\010\013-\037\177' | LC_ALL=C sed 's/[\\"]/\\&/g' |
    LC_ALL=C awk 'BEGIN { printf "\"" } { printf "%s%s", (NR > 1 ? "\\n" : ""), $0 } END { printf "\"" }'
}
count_of() {
  local state n=0
  for state in ${states[@]+"${states[@]}"}; do [ "$state" != "$1" ] || n=$((n + 1)); done
  echo $n
}
summary() {
  echo "$(count_of passed) passed, $(count_of failed) failed, $(count_of 'timed out') timed out," \
    "$(count_of skipped) skipped, $((SECONDS - began)) s"
}
# Figures of benchmarks are JSON; NaN and infinity are not.
json_figures() {
  if [ -n "$1" ] && [ -s "$1" ] && [ "$(tail -c 3 "$1" | tr -d ' \n')" = "}" ]; then
    sed -E 's/: *-?(NaN|nan|Infinity|inf)\b/: null/' "$1"
  else
    printf null
  fi
}
write_reports() {
  local i
  {
    printf '{\n  "machine": {'
    for i in "${!machine_names[@]}"; do
      [ "$i" -eq 0 ] || printf ','
      printf '\n    "%s": %s' "${machine_names[$i]}" "$(printf '%s' "${machine_values[$i]}" | json_string)"
    done
    printf '\n  },\n  "has_gpu": %s,\n  "seconds": %d,\n  "summary": %s,\n  "items": [' \
      "$([ -z "$no_gpu" ] && echo true || echo false)" $((SECONDS - began)) "$(summary | json_string)"
    for i in "${!names[@]}"; do
      [ "$i" -eq 0 ] || printf ','
      printf '\n    {"name": "%s", "state": "%s", "seconds": %d, "reason": %s,\n     "figures": ' \
        "${names[$i]}" "${states[$i]}" "${times[$i]}" "$(printf '%s' "${reasons[$i]}" | json_string)"
      json_figures "${figures[$i]}"
      printf '}'
    done
    printf '\n  ]\n}\n'
  } >"$out/report.json.part" && mv "$out/report.json.part" "$out/report.json"
  {
    echo "# Report of cmake/gpu_check.sh"
    echo
    echo "$(summary)."
    [ -z "$no_gpu" ] || echo "Nothing ran on a GPU: $no_gpu."
    echo
    echo "| | |"
    echo "|---|---|"
    for i in "${!machine_names[@]}"; do
      echo "| ${machine_names[$i]} | $(printf '%s' "${machine_values[$i]}" | tr '\n|' '; ') |"
    done
    echo
    echo "| item | state | s | |"
    echo "|---|---|---|---|"
    for i in "${!names[@]}"; do
      echo "| ${names[$i]} | ${states[$i]} | ${times[$i]} | $(printf '%s' "${reasons[$i]}" | tr '\n|' '; ') |"
    done
    for i in "${!names[@]}"; do
      case ${names[$i]}:${states[$i]} in
        *:skipped) continue ;;
        bench* | peer* | *:failed | *:'timed out') ;;
        *) continue ;;
      esac
      [ -s "${logs[$i]}" ] || continue
      echo
      echo "## ${names[$i]}"
      echo
      echo '```text'
      tail -n 40 "${logs[$i]}" | LC_ALL=C tr -d '\000-\010\013-\037\177' | cut -c 1-400
      echo '```'
    done
  } >"$out/report.md.part" && mv "$out/report.md.part" "$out/report.md"
}

# note NAME STATE REASON SECONDS LOG FIGURES
note() {
  names+=("$1") states+=("$2") reasons+=("$3") times+=("$4") logs+=("$5") figures+=("$6")
  printf '%-9s %-28s %4d s  %s\n' "$2" "$1" "$4" "$3"
  write_reports
}
finish() {
  trap - EXIT
  [ -z "${builder:-}" ] || { kill "$builder" && wait "$builder"; } 2>/dev/null
  write_reports
  echo "gpu_check: $(summary); $out/report.md, $out/report.json"
  [ "$(count_of failed)" -eq 0 ] && [ "$(count_of 'timed out')" -eq 0 ]
  exit $?
}
trap 'finish' EXIT
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; note interrupted failed "stopped from outside" 0 "" ""; exit 1' \
  HUP INT TERM

# Programs -----------------------------------------------------------------------------------------

flags=(-std=c++20 -Xcompiler -pthread -I"$root/include" -I"$deps/include")
if [ -n "$capability" ]; then
  flags+=(-gencode "arch=compute_$capability,code=sm_$capability")
elif [ -z "$no_gpu" ]; then
  flags+=(-arch=native)
else
  flags+=(-gencode 'arch=compute_90,code=sm_90')
fi
host_flags=-fno-math-errno,-march=native
libraries=(-lcublasLt -Xlinker -rpath -Xlinker "$cuda/lib64")
if [ -e "$deps/lib/liburing.a" ]; then
  flags+=(-DSHARDEXPR_LIBURING)
  libraries+=("$deps/lib/liburing.a")
fi
for library in "$deps"/lib/libbenchmark.a "$deps"/lib/libbenchmark.so*; do
  [ -e "$library" ] && benchmark=("-Xlinker" "$library" "-Xlinker" -rpath "-Xlinker" "$deps/lib")
done

# Seconds that a compiler may take: it ends before all does.
to_build() { echo $(($(left) > 6 ? $(left) - 5 : 1)); }
# compile PROGRAM: its commands, where this machine can build it.
compile() {
  local program=$1 source optimize=-O2 extra=()
  case $program in
    bench_gpu) source=benchmarks/gpu.cu optimize=-O3 extra=("${benchmark[@]}") ;;
    train_gpt_cuda)
      source=examples/train_gpt_cuda/main.cu optimize=-O3
      extra=("$root/examples/train_gpt_cuda/traced.cu" -I"$root/examples/train_gpt_cuda"
        -DTRAIN_GPT_TRACE=1)
      ;;
    *)
      source=tests/cuda/$program.cu
      if [ "$program" = gpu_nccl ]; then
        extra=(-I"$nccl_include" -Xlinker "$nccl_library"
          -Xlinker -rpath -Xlinker "$(dirname "$nccl_library")")
      elif [ "$program" = gpu_gpt ] && [ -e tests/cuda/gpt_reference.cpp ]; then
        # The Cpu's training, apart: nvcc must not see Eigen.
        limited "$(to_build)" "$cxx" -std=c++20 -O2 -march=native -fno-math-errno -pthread -I"$root/include" \
          -isystem "$deps/include" \
          -c tests/cuda/gpt_reference.cpp -o "$work/gpt_reference.o" || return 1
        extra=("$work/gpt_reference.o")
      fi
      ;;
  esac
  limited "$(to_build)" "$nvcc" "${flags[@]}" $optimize -Xcompiler "$host_flags" "$root/$source" -o "$work/bin/$program" \
    "${extra[@]}" "${libraries[@]}"
}

# Why a program is not built here; nothing if it is.
cannot_build() {
  if [ -z "$nvcc" ]; then
    echo "there is no nvcc: set CUDA_HOME"
  elif [ -z "$cxx" ]; then
    echo "there is no g++"
  elif [ "$1" = gpu_nccl ] && [ -z "$nccl_library" ]; then
    echo "NCCL is not installed: set NCCL_HOME"
  elif [ "$1" = bench_gpu ] && [ -z "${benchmark[*]:-}" ]; then
    echo "--deps has no Google Benchmark"
  fi
}

wanted() {
  local word
  [ -n "$only" ] || return 0
  for word in ${only//,/ }; do [[ $1 == *"$word"* ]] && return 0; done
  return 1
}

tests=()
for file in tests/cuda/gpu*.cu; do tests+=("$(basename "$file" .cu)"); done
programs=()
for test in "${tests[@]}"; do
  if wanted "test $test" || wanted "sanitizer $test"; then programs+=("$test"); fi
done
if wanted 'bench memory' || wanted 'bench training' || wanted 'bench offload 1500m'; then
  programs+=(bench_gpu)
fi
if wanted train; then programs+=(train_gpt_cuda); fi

# limited COMMAND...: to its end, or to that of all; whoever ends this shell ends it, too.
limited() {
  local most=$1
  shift
  timeout -k 5 "$most" "$@" &
  pid=$!
  wait $pid
  local status=$?
  pid=''
  return $status
}
# Compiles beside what follows, as many at once as there are cores, each to a file that says how it
# ended.
build_all() {
  local program running=0
  trap - EXIT HUP INT
  trap 'kill $(jobs -p) 2>/dev/null; exit 143' TERM
  for program in ${programs[@]+"${programs[@]}"}; do
    [ -z "$(cannot_build "$program")" ] || continue
    if [ $running -ge "$jobs" ]; then
      wait -n
      running=$((running - 1))
    fi
    (
      trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; exit 143' TERM
      start=$SECONDS
      compile "$program" >"$work/logs/build_$program" 2>&1
      echo "$? $((SECONDS - start))" >"$work/built_$program.part"
      mv "$work/built_$program.part" "$work/built_$program"
    ) &
    running=$((running + 1))
  done
  wait
}

# built PROGRAM: waits until it is; notes what went wrong, once.
declare -A built_state
built() {
  local program=$1 status took why
  if [ -z "${built_state[$program]:-}" ]; then
    why=$(cannot_build "$program")
    if [ -n "$why" ]; then
      note "build $program" skipped "$why" 0 '' ''
      built_state[$program]="not built: $why"
      return 1
    fi
    while [ ! -e "$work/built_$program" ] && [ "$(left)" -gt 2 ] && kill -0 "$builder" 2>/dev/null; do
      sleep 0.2
    done
    if [ -e "$work/built_$program" ]; then
      read -r status took <"$work/built_$program"
    else
      status=124 took=$((SECONDS - began))
    fi
    case $status in
      0) built_state[$program]=ready && note "build $program" passed '' "$took" '' '' ;;
      124 | 137) note "build $program" 'timed out' 'the time for all is over' "$took" "$work/logs/build_$program" '' ;;
      *)
        note "build $program" failed "$(grep -m 1 -E 'error|fatal' "$work/logs/build_$program" ||
          tail -n 1 "$work/logs/build_$program")" "$took" "$work/logs/build_$program" ''
        ;;
    esac
    : "${built_state[$program]:=not built}"
  fi
  [ "${built_state[$program]}" = ready ]
}

# Items --------------------------------------------------------------------------------------------

# item NAME LIMIT PROGRAM COMMAND...: runs COMMAND where PROGRAM was built (- needs none). A file
# $work/figures_NAME that it writes is its figures. An output line "SKIPPED: why" skips it.
item() {
  local name=$1 limit=$2 program=$3 log start status took state reason='' file
  shift 3
  wanted "$name" || return 0
  file=${name// /_}
  log=$work/logs/$file
  if [ "$program" != - ] && ! built "$program"; then
    note "$name" skipped "$program is ${built_state[$program]}" 0 '' ''
    return
  fi
  [ "$limit" -le "$(left)" ] || limit=$(($(left) - 2))
  if [ "$limit" -lt 5 ]; then
    note "$name" skipped 'no time is left' 0 '' ''
    return
  fi
  start=$SECONDS
  limited "$limit" "$@" >"$log" 2>&1
  status=$?
  took=$((SECONDS - start))
  case $status in
    0)
      state=passed
      if grep -q '^SKIPPED: ' "$log"; then
        state=skipped reason=$(sed -n 's/^SKIPPED: //p' "$log" | head -n 1)
      elif grep -q 'ERROR OCCURRED' "$log"; then
        state=failed reason=$(grep -m 1 -o 'ERROR OCCURRED.*' "$log")
      else
        reason=$(grep -E '^final loss|^the plan|^\[doctest\] assertions|^========= ERROR SUMMARY|^tokens/s' "$log" | tail -n 1)
      fi
      ;;
    124 | 137) state='timed out' reason="more than $limit s" ;;
    *)
      state=failed
      reason=$(grep -m 1 -E 'ERROR:|rror: |: rank ' "$log" || tail -n 1 "$log")
      reason="status $status: $reason"
      ;;
  esac
  note "$name" "$state" "$reason" "$took" "$log" "$work/figures_$file"
}
# The same for what only a GPU can do.
gpu_item() {
  if [ -n "$no_gpu" ]; then
    wanted "$1" || return 0
    [ "$3" = - ] || built "$3"
    note "$1" skipped "$no_gpu" 0 '' ''
  else
    item "$@"
  fi
}
bench_item() { # NAME LIMIT FILTER
  gpu_item "$1" "$2" bench_gpu "$work/bin/bench_gpu" --benchmark_filter="$3" \
    --benchmark_out="$work/figures_${1// /_}" --benchmark_out_format=json
}

text=$deps/text.txt
[ -s "$text" ] || { text=$work/text.txt && cat "$root"/docs/*.md >"$text"; }
jobs=$(nproc)
build_all &
builder=$!
write_reports

for test in "${tests[@]}"; do item "test $test" 120 "$test" "$work/bin/$test"; done

# Compilers would disturb what is timed.
for program in ${programs[@]+"${programs[@]}"}; do built "$program"; done
bench_item 'bench memory' 60 'triad|copy|cast|sum_squares|adamw'
bench_item 'bench training' 120 'tokens_per_s|host_alone|engine_over_handwritten'

train=("$work/bin/train_gpt_cuda" --data "$text" --ranks 2 --nvme "$work/nvme")
model=(--layers 4 --heads 4 --embed 256 --context 256 --batch 8 --lr 0.002 --steps 150)
if wanted train; then
  mkdir -p "$work/nvme"
  strategies=''
  if [ -z "$no_gpu" ] && built train_gpt_cuda; then
    strategies=$("${train[0]}" --list | awk '{print $1 ($0 ~ /OnNvme/ ? ":nvme" : "")}')
    [ -n "$strategies" ] || note 'train' failed 'train_gpt_cuda --list says nothing' 0 '' ''
  fi
  gpu_item 'train compare' 60 train_gpt_cuda "${train[@]}" --compare --steps 2
  for strategy in $strategies; do
    command=("${train[@]::5}")
    case $strategy in *:nvme) command=("${train[@]}") ;; esac
    gpu_item "train ${strategy%:nvme}" 40 train_gpt_cuda "${command[@]}" "${model[@]}" \
      --strategy "${strategy%:nvme}"
  done
fi

bench_item 'bench offload' 60 'offload_all_124m'
bench_item 'bench offload 1500m' 150 'offload_all_1500m'

sanitizer=$(command -v compute-sanitizer || true)
for file in "$cuda/bin/compute-sanitizer" "$cuda/compute-sanitizer/compute-sanitizer"; do
  [ -n "$sanitizer" ] || [ ! -x "$file" ] || sanitizer=$file
done
for test in "${tests[@]}"; do
  [ "$test" != gpu_nccl ] || continue  # several processes, which it does not follow well
  if [ -n "$sanitizer" ]; then
    gpu_item "sanitizer $test" 120 "$test" "$sanitizer" --tool memcheck --error-exitcode 9 \
      "$work/bin/$test"
  elif wanted "sanitizer $test"; then
    note "sanitizer $test" skipped 'compute-sanitizer is not installed' 0 '' ''
  fi
done

if command -v python3 >/dev/null 2>&1; then
  gpu_item 'peer torch' 120 - python3 benchmarks/peers/torch_gpt2.py --out "$work/figures_peer_torch"
elif wanted 'peer torch'; then
  note 'peer torch' skipped 'there is no python3' 0 '' ''
fi
rm -rf "${work:?}/nvme"
