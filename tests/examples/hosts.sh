#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# hosts.sh <mpirun of Open MPI> <train_gpt_mpi> <train_gpt> <folder for scratch>
# Training over three machines, one of which is cut off in the middle. The machines are namespaces of
# Linux on this one: each has a host name, a network interface and shared memory of its own, and a
# bridge joins them. All of it lives in a namespace of processes: when this script ends, however it
# ends, nothing of it is left. Ends with 0, or says SKIPPED where the machine does not allow it.
set -u
if [[ $1 != inside ]]; then
  for tool in ip unshare nsenter timeout; do
    command -v $tool >/dev/null || { echo "SKIPPED: there is no $tool here"; exit 0; }
  done
  apart=(unshare --net --uts --mount --pid --fork --kill-child --mount-proc)
  [[ $(id -u) == 0 ]] || apart+=(--map-root-user)
  if ! why=$("${apart[@]}" ip link add name switch type bridge 2>&1); then
    echo "SKIPPED: this machine lets nobody make machines of namespaces: ${why//$'\n'/ }"
    exit 0
  fi
  exec "${apart[@]}" bash "$0" inside $$ "$@"
fi

readonly id=$2 mpirun=$3 train_gpt_mpi=$4 train_gpt=$5
readonly hosts=("a$id" "b$id" "c$id")
work=$(mktemp -d "$6/hosts.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
began=$(date +%s)

fail() {
  echo "hosts.sh: $*" >&2
  for file in "$work"/*.err "$work"/*.out; do
    [[ -s $file ]] && sed "s|^|$(basename "$file"): |" "$file" | tail -n 30 >&2
  done
  exit 1
}

# The machines -----------------------------------------------------------------------------------

# A host's first process; mpirun's host sees all processes, as it starts those of the others.
first_process() {
  local host=$1 own_processes=(--pid --fork --mount-proc --kill-child)
  [[ $host == "${hosts[0]}" ]] && own_processes=()
  unshare --net --uts --ipc --mount "${own_processes[@]}" bash -c "
    hostname $host && mount --bind '$work/names' /etc/hosts && mount -t tmpfs none /dev/shm &&
      : > '$work/$host.up' && exec sleep 1000" 2>"$work/$host.err" &
  local pid=$!
  until [[ -e $work/$host.up ]]; do
    kill -0 $pid 2>/dev/null || fail "$host does not come up"
    sleep 0.02
  done
  if [[ $host != "${hosts[0]}" ]]; then pid=$(tr -d ' ' < /proc/$pid/task/$pid/children); fi
  echo $pid > "$work/$host.pid"
}
# on <host> <command>...
on() {
  local host=$1
  shift
  nsenter -t "$(< "$work/$host.pid")" -n -u -i -m "$@"
}
ip link set lo up
ip link add name switch type bridge && ip link set switch up || fail "no bridge"
echo "127.0.0.1 localhost" > "$work/names"
for i in 0 1 2; do echo "10.73.0.$((i + 1)) ${hosts[i]}" >> "$work/names"; done
for i in 0 1 2; do
  host=${hosts[i]}
  first_process $host
  ip link add link$i type veth peer name eth0 netns "$(< "$work/$host.pid")" &&
    ip link set link$i master switch && ip link set link$i up &&
    on $host ip link set lo up && on $host ip addr add 10.73.0.$((i + 1))/24 dev eth0 &&
    on $host ip link set eth0 up || fail "no link to $host"
  # What was sent and not answered is given up within seconds: Open MPI's mpirun waits for that.
  on $host sh -c 'echo 3 > /proc/sys/net/ipv4/tcp_retries2' 2>/dev/null ||
    { echo "SKIPPED: tcp_retries2 cannot be set here"; exit 0; }
done
# What ssh would be: <agent> <host> <command>...
cat > "$work/agent" <<END
#!/usr/bin/env bash
host=\$1
shift
exec nsenter -t "\$(< "$work/\$host.pid")" -n -u -i -m -p bash -c "\$*"
END
chmod +x "$work/agent"

# start <name> <hosts> <ranks on each> <option>...: train_gpt_mpi. Output in <name>.out and <name>.err.
start() {
  local name=$1 count=$2 each=$3 launch
  shift 3
  printf "%s slots=$each\n" "${hosts[@]:0:count}" > "$work/$name.hosts"
  launch=(env -u OMPI_MCA_plm "$mpirun" --hostfile "$work/$name.hosts"
    --mca plm rsh --mca plm_rsh_agent "$work/agent" --mca btl tcp,self
    --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0
    --mca oob_tcp_keepalive_time 5 --mca oob_tcp_keepalive_intvl 1
    --mca oob_tcp_keepalive_probes 3)
  on "${hosts[0]}" timeout -k 1 45 "${launch[@]}" -wdir "$work" -n $((count * each)) \
    "$train_gpt_mpi" "${job[@]}" "$@" > "$work/$name.out" 2> "$work/$name.err" < /dev/null
}
# Number, loss and norm of each step in a log: equal text, equal bits.
steps() { grep '"event":"step"' "$1" | sed 's/"tokens_per_s":[^,]*,//; s/"sent_bytes".*//'; }
# same <log> <log> <steps>
same() {
  [[ $(steps "$1" | wc -l) == "$3" ]] || fail "$1 has $(steps "$1" | wc -l) steps, not $3"
  diff <(steps "$1") <(steps "$2") || fail "$1 and $2 differ"
}
# The numbers of processes that still train.
training() {
  local process
  for process in /proc/[0-9]*; do
    [[ $(readlink "$process/exe") == "$train_gpt_mpi" ]] && echo "${process#/proc/}"
  done
}

seq 4000 > "$work/text"
job=(--data "$work/text" --layers 1 --heads 2 --embed 16 --context 16 --batch 2)

# 1. Three machines train as three threads, to the bit ----------------------------------------------
start three 3 1 --steps 5 --log "$work/three.log" || fail "three hosts: status $?"
grep -q ", 3 ranks on 3 machines, " "$work/three.out" || fail "MPI does not see three machines"
"$train_gpt" "${job[@]}" --ranks 3 --steps 5 --quiet --log "$work/threads.log" > /dev/null ||
  fail "three threads: status $?"
same "$work/three.log" "$work/threads.log" 5
# Two ranks on each of two machines share memory there; and the plan knows.
start four 2 2 --steps 3 --log "$work/four.log" || fail "two ranks on each of two hosts: status $?"
grep -q ", 4 ranks on 2 machines, " "$work/four.out" || fail "MPI does not see two machines"
"$train_gpt" "${job[@]}" --ranks 4 --steps 3 --quiet --log "$work/four_threads.log" > /dev/null ||
  fail "four threads: status $?"
same "$work/four.log" "$work/four_threads.log" 3
start plan 2 2 --steps 1 --compare || fail "the plan for two machines: status $?"

# 2. One is cut off in the middle ---------------------------------------------------------------------
start cut 3 1 --quiet --steps 1000000 --checkpoint "$work/run" --every 1 --keep 3 --deadline 3 &
launched=$!
# The last checkpoint's step. Each checkpoint is soon gone (--keep), the file that names it stays.
reached() { grep -o 'step-[0-9]*' "$work/run/latest" 2> /dev/null | sed 's/step-0*//'; }
for ((i = 0; i < 1000; ++i)); do
  [[ $(reached) -ge 5 ]] || ! kill -0 $launched 2> /dev/null && break
  sleep 0.02
done
[[ $(reached) -ge 5 ]] || fail "no fifth step"
ip link set link2 down
cut=$(date +%s)
wait $launched
status=$?
seconds=$(($(date +%s) - cut))
[[ $status != 0 && $status -lt 124 ]] || fail "the job that lost a machine: status $status"
[[ $seconds -le 30 ]] || fail "the job that lost a machine ended behind $seconds s"
grep -q "^train_gpt_mpi: rank [01]: .*has not ended within 3 s; .*rank 2 does not answer" \
  "$work/cut.err" || fail "no rank says which one is cut off"
grep -q "rank 2 does not answer" shardexpr-calls.rank-0.txt || fail "no record of rank 0"
for ((i = 0; i < 200; ++i)); do
  [[ -z $(training) ]] && break
  sleep 0.1
done
[[ -z $(training) ]] || fail "these still train: $(training)"
# The one that is cut off finds out by itself, unless its launcher, which is cut off, too, ends it before.
[[ ! -e shardexpr-calls.rank-2.txt ]] || grep -q "^rank 2: .*rank 0\|^rank 2: .*has not ended" \
  shardexpr-calls.rank-2.txt || fail "the rank that is cut off says something else"

# 3. The other two go on ------------------------------------------------------------------------------
cp -r "$work/run" "$work/copy"
more=(--quiet --resume --steps $(($(reached) + 3)))
start two 2 1 "${more[@]}" --checkpoint "$work/run" --log "$work/two.log" ||
  fail "two hosts that are left: status $?"
"$train_gpt" "${job[@]}" "${more[@]}" --ranks 2 --checkpoint "$work/copy" \
  --log "$work/two_threads.log" > /dev/null || fail "two threads: status $?"
same "$work/two.log" "$work/two_threads.log" 3

grep "^train_gpt_mpi: rank" "$work/cut.err"
echo "three machines train, two go on; cut off, the job ended behind $seconds s;" \
  "$(($(date +%s) - began)) s in all"
