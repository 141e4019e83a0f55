#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# docs/generate_diagnostics.sh
# Writes docs/diagnostics.md from the compile-fail cases: reason, broken code, legal twin, and what
# each compiler found here says of it. Run it when a rule or its text changes.
set -eu
cd "$(dirname "$0")/.."
out=docs/diagnostics.md

compile() {  # compile <compiler> <file>: the error line of the broken form, paths shortened
  case $1 in
    nvcc) set -- "$2" nvcc -x cu -c -o /dev/null ;;
    *) set -- "$2" "$1" -fsyntax-only ;;
  esac
  file=$1
  shift
  "$@" -std=c++20 -Iinclude -I/usr/include/eigen3 -DMUST_FAIL "$file" 2>&1 |
    grep -E '\berror: ' | sed "s|$PWD/||g; s|^.*include/shardexpr/|shardexpr/|"
}

{
  cat <<'EOF'
# Diagnostics

What makes no sense does not compile. Each refusal is one `error:` line with a code; this page says why the rule is there
and what to write instead. It is made by `docs/generate_diagnostics.sh` from `tests/compile_fail/`, where each case is
tested on every compiler: the broken form must give exactly that one line, its legal twin must compile.

The line appears where the strategy is first used, not where it is named. Codes: 0xx the grammar of a pack of policies,
1xx combinations of policies, 2xx the model, 3xx what a strategy is to run on: a device, a communicator and the units of
this model. Of several, the lowest that applies speaks. To ask quietly, use
`shardexpr::LegalStrategy<Policies...>`.

EOF
  for case in tests/compile_fail/sx*.cpp; do
    code=$(sed -n 's|^// expect-error: *||p' "$case")
    line=$(compile g++ "$case")
    text=$(printf '%s' "$line" | sed "s|.*\[$code\] ||; s| (docs/diagnostics.md).*||")
    echo "## $code"
    echo
    printf '%s\n' "$text" | sed 's|: |.\n\nInstead: |; s|$|.|; s|\.\.$|.|'
    echo
    sed -n 's|^// why: ||p' "$case"
    echo
    echo '```cpp'
    sed -n '/#if.*MUST_FAIL/,/#endif/p' "$case"
    echo '```'
    echo
    echo '```text'
    for compiler in g++ clang++ nvcc; do
      command -v "$compiler" >/dev/null 2>&1 || continue
      compile "$compiler" "$case" | sed "s|^|$compiler: |"
    done
    echo '```'
    echo
  done
} >$out.part
mv $out.part $out
