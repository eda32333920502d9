# SPDX-License-Identifier: Apache-2.0
# What the shell tests share; sourced, not run. Gives each test a scratch folder $T, an address of its own on the loopback
# net, servers and agents by name, loop disks, and an end that removes all of it and ends only the test's own children.
#
#   server_new NAME [INIT-ARGS]   server_start NAME [ARGS]   server_stop NAME   server_kill NAME   srv NAME COMMAND...
#   agent_new NAME [CONF-LINES]   agent_start NAME  agent_stop NAME   agent_kill NAME    agt NAME COMMAND...
#   enroll AGENT SERVER           disk_new NAME SIZE (sets disk_NAME to its device)      state_is AGENT DISK STATE
#   point AGENT [ARGS]            point_is SERVER MACHINE POINT DISK SUM      sum DEVICE      wait_until SECONDS COMMAND...
set -u
shopt -s inherit_errexit 2>/dev/null
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$top/build/${VARIANT:-release}
export PATH="$bin:$PATH" LC_ALL=C.UTF-8

T=$(mktemp -d "${TMPDIR:-/tmp}/tidemark-test.XXXXXX")
# The loopback net has room for an address per test: no port is ever taken.
addr=127.$((64 + ($$ >> 16 & 63))).$(($$ >> 8 & 255)).$(($$ & 255))
port=7340

declare -A pid=() # name -> pid of a child
cleanups=()
on_exit() { cleanups+=("$*"); }

# Ends a child by signal, if it is this shell's child still, and reaps it.
end_child() { # PID SIGNAL
	if [ "$(ps -o ppid= -p "$1" 2>/dev/null | tr -d ' ')" = "$BASHPID" ]; then
		kill "-$2" "$1" 2>/dev/null
		if [ "$2" = TERM ]; then
			wait_until 60 gone "$1" || kill -KILL "$1" 2>/dev/null
		fi
	fi
	wait "$1" 2>/dev/null
}
gone() { case $(ps -o stat= -p "$1" 2>/dev/null) in '' | Z*) true ;; *) false ;; esac; }

finish() {
	local rc=$? i n
	trap '' EXIT INT TERM HUP
	set +e
	if [ $rc != 0 ] && [ $rc != 77 ]; then
		for n in "$T"/*.log; do [ -s "$n" ] && printf -- '--- %s\n' "$n" && tail -n 15 "$n"; done
		[ -z "${why:-}" ] || printf '%s\n' "$why"
	fi
	for n in "${!pid[@]}"; do
		case $n in nbd-*) end_child "${pid[$n]}" TERM ;; *) end_child "${pid[$n]}" KILL ;; esac
	done
	for ((i = ${#cleanups[@]} - 1; i >= 0; i--)); do eval "${cleanups[i]}" >/dev/null 2>&1; done
	case $T in */tidemark-test.*) [ -n "${KEEP:-}" ] || rm -rf "$T" ;; esac
	exit $rc
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

fail() { why="FAIL: $*"; exit 1; }
skip() { echo "$*"; exit 77; }
step() { printf '%s == %s\n' "$(date +%T)" "$*"; }
need_root() { [ "$(id -u)" = 0 ] || skip "needs root"; }

# The only way to wait: until COMMAND succeeds, at most SECONDS (times TM_SLOWER, in slow guests); asks ten times a second, at
# first more often: most waits are short.
wait_until() {
	local end=$((SECONDS + $1 * ${TM_SLOWER:-1})) pause=02
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.$pause
		case $pause in 02) pause=04 ;; 04) pause=08 ;; *) pause=1 ;; esac
	done
}
# not COMMAND...; want SECONDS COMMAND...: as wait_until, the test fails if it never succeeds.
not() { ! "$@"; }
want() { wait_until "$@" || fail "not within $1 s: ${*:2}"; }
logged() { grep -qE "$2" "$T/$1.log"; }
same() { [ "$1" = "$2" ] || fail "$3: $1 is not $2"; }

# start NAME COMMAND...: a child in the background, its output in $T/NAME.log.
start() {
	local name=$1
	shift
	"$@" </dev/null >>"$T/$name.log" 2>&1 &
	pid[$name]=$!
}
stop() { [ -z "${pid[$1]:-}" ] || end_child "${pid[$1]}" TERM; unset "pid[$1]"; }
slay() { [ -z "${pid[$1]:-}" ] || end_child "${pid[$1]}" KILL; unset "pid[$1]"; }
alive() { ! gone "${pid[$1]}"; }

# --- servers: store in $T/NAME, control socket $T/NAME.sock; $under_NAME is put before the command (ip netns exec ...)
srv() { serverctl --socket "$T/$1.sock" "${@:2}"; }
server_new() {
	local at=${listen:-$addr:$port}
	serverctl init --dir "$T/$1" --listen "$at" "${@:2}" >>"$T/$1.log" 2>&1 || fail "serverctl init"
}
server_up() { srv "$1" machines --json; }
server_start() {
	local under="under_$1"
	# shellcheck disable=SC2086
	start "$1" ${!under:-} tidemark-server --dir "$T/$1" --socket "$T/$1.sock" "${@:2}"
	want 60 server_up "$1"
}
server_stop() { stop "$1"; }
server_kill() { slay "$1"; }

# --- agents: state in $T/NAME, configuration $T/NAME.conf, control socket $T/NAME.sock
agt() { agentctl --socket "$T/$1.sock" "${@:2}"; }
agent_new() {
	mkdir -p "$T/$1" && chmod 700 "$T/$1"
	# Points when the test asks for them, unless it says "interval = ..." itself.
	case "${*:2}" in *interval*) printf '[agent]\n' ;; *) printf '[agent]\ninterval = 0\n' ;; esac >"$T/$1.conf"
	printf '%s\n' "reconnect_max_ms = 1000" "${@:2}" >>"$T/$1.conf"
}
agent_up() { agt "$1" status --json; }
agent_start() {
	local under="under_$1"
	# shellcheck disable=SC2086
	start "$1" ${!under:-} tidemark-agent --config "$T/$1.conf" --state "$T/$1" --socket "$T/$1.sock" "${@:2}"
	want 60 agent_up "$1"
}
agent_stop() { stop "$1"; }
agent_kill() { slay "$1"; }
enroll() {
	local token
	token=$(srv "$2" token) || fail "serverctl token"
	agt "$1" enroll --server "${listen:-$addr:$port}" --token "$token" || fail "agentctl enroll"
}
machine() { agt "$1" status --json | jq -er .machine; }
connected() { agt "$1" status --json | jq -e '.connected == true'; }

# --- disks: sparse files behind loop devices
disk_new() {
	local dev
	truncate -s "$2" "$T/$1.img" && dev=$(losetup -f --show --direct-io=on "$T/$1.img") || fail "losetup"
	on_exit losetup -d "$dev"
	printf -v "disk_$1" %s "$dev"
}
# fill DISK OFFSET-MIB MIB [SEED]: contents that do not compress, the same for the same seed.
fill() {
	openssl enc -aes-128-ctr -nosalt -pass "pass:${4:-$RANDOM}" -pbkdf2 -iter 1 </dev/zero 2>/dev/null |
		dd of="$1" bs=1M seek="$2" count="$3" iflag=fullblock oflag=direct conv=notrunc status=none
}
# scatter DEVICE COUNT: COUNT random 4 KiB writes all over it.
scatter() {
	fio --name=w --filename="$1" --rw=randwrite --bs=4k --number_ios="$2" --size=100% --direct=1 --ioengine=libaio \
		--iodepth=16 --randseed=$RANDOM$RANDOM --refill_buffers --output=/dev/null || fail "fio"
}
sum() { sha256sum <"$1" | cut -d' ' -f1; }

state_is() { agt "$1" status --json | jq -e --arg d "$(basename "$2")" --arg s "$3" 'any(.disks[]; .name == $d and .state == $s)'; }
protect() { agt "$1" protect --tracker scan "${@:2}" || fail "protect ${*:2}"; }
# joined AGENT DISK...: all have been synced and watched.
joined() {
	local d
	for d in "${@:2}"; do state_is "$1" "$d" continuous || return 1; done
}
point() { agt "$1" point --wait "${@:2}"; }

# --- points
# serve SERVER MACHINE POINT DIR: an nbd server in the background; its name is the folder's.
served() { grep -q '^ready' "$T/$1.log"; }
serve() {
	mkdir -p "$4"
	: >"$T/nbd-$(basename "$4").log"
	start "nbd-$(basename "$4")" serverctl --socket "$T/$1.sock" nbd "$2" --point "$3" --socket "$4"
	want 60 served "nbd-$(basename "$4")"
}
unserve() { stop "nbd-$(basename "$1")"; rm -rf "$1"; }
nbd_uri() { echo "nbd+unix:///?socket=$1"; }
# point_sum SERVER MACHINE POINT DISK...: sha256 of each disk as of the point, into the array got. (Not in a subshell:
# children belong to the test itself.)
point_sum() {
	local d dir=$T/view
	got=()
	serve "$1" "$2" "$3" "$dir"
	for d in "${@:4}"; do
		got+=("$(nbdcopy "$(nbd_uri "$dir/$(basename "$d").sock")" - | sha256sum | cut -d' ' -f1)")
	done
	unserve "$dir"
}
# point_is SERVER MACHINE POINT DISK SUM [DISK SUM]...: fails the test if a disk reads otherwise as of the point.
point_is() {
	local server=$1 machine=$2 p=$3 disks=() sums=() i
	shift 3
	while [ $# -gt 0 ]; do disks+=("$1") sums+=("$2"); shift 2; done
	point_sum "$server" "$machine" "$p" "${disks[@]}"
	for i in "${!disks[@]}"; do same "${got[i]}" "${sums[i]}" "point $p of ${disks[i]}"; done
}

# --- two network namespaces joined by a cable (tests/tools/netwire.c): $net_a (10.93.0.1), $net_b (10.93.0.2)
wire() { echo "$*" >"$T/wire.fifo"; }
wire_ready() { grep -q ready "$T/netwire.log"; }
wire_new() {
	local n
	[ -c /dev/net/tun ] || skip "no /dev/net/tun here"
	net_a=tm$$a net_b=tm$$b
	for n in "$net_a" "$net_b"; do
		ip netns add "$n" || skip "no network namespaces here"
		on_exit ip netns del "$n"
		ip -n "$n" link set lo up
	done
	mkfifo "$T/wire.fifo"
	start netwire "$bin/tests/tools/netwire" "$net_a" "$net_b" "$T/wire.fifo"
	want 20 wire_ready
	ip -n "$net_a" addr add 10.93.0.1/24 dev wire && ip -n "$net_b" addr add 10.93.0.2/24 dev wire || fail "addresses"
	ip -n "$net_a" link set wire up && ip -n "$net_b" link set wire up || fail "wire"
}
