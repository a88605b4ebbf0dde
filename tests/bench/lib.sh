# shellcheck shell=bash
# What the benchmarks share: a daemon of their own, the conditions, and medians.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BUILD=${BUILD:-$ROOT/build}
ORC=$BUILD/bin/orchestrator
WORK=$(mktemp -d "${TMPDIR:-/tmp}/orchestrator-bench.XXXXXX")
export LC_ALL=C NO_COLOR=1
export ORCHESTRATOR_STATE_DIR=$WORK/state ORCHESTRATOR_RUNTIME_DIR=$WORK/run
export ORCHESTRATOR_IMAGE_DIR=${ORCHESTRATOR_IMAGE_DIR:-$BUILD/share/orchestrator/images}
DAEMON=

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 2
}

clean_up() {
	if [[ $DAEMON ]]; then
		kill "$DAEMON" 2>/dev/null || true
		wait "$DAEMON" 2>/dev/null || true
	fi
	rm -rf "$WORK"
}
trap clean_up EXIT

# need COMMAND PACKAGE ...: what is missing is named with its package.
need() {
	local missing=()
	while (($#)); do
		command -v "$1" >/dev/null || missing+=("$2")
		shift 2
	done
	((${#missing[@]} == 0)) || die "missing; apt-get install ${missing[*]}"
}

start_daemon() {
	[[ -x $ORC ]] || die "$ORC is not there; make programs image"
	mkdir -p "$ORCHESTRATOR_STATE_DIR"
	"$ORC" serve >"$WORK/daemon.log" 2>&1 &
	DAEMON=$!
	for ((i = 0; i < 100; i++)); do
		"$ORC" list jobs >/dev/null 2>&1 && return
		sleep 0.1
	done
	die "the daemon does not start: $(tail -3 "$WORK/daemon.log")"
}

# Numbers on stdin, one a line; the median on stdout.
median() {
	sort -n | awk '{ v[NR] = $1 }
		END { if (NR) print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

conditions() {
	local cpu
	cpu=$(awk -F': *' '/^model name/ { print $2; exit }' /proc/cpuinfo)
	printf 'host: %s x %s, Linux %s, load %s\n' "$(nproc)" "${cpu:-unknown processor}" \
		"$(uname -r)" "$(cut -d' ' -f1-3 /proc/loadavg)"
	command -v qemu-system-x86_64 >/dev/null &&
		printf 'qemu: %s\n' "$(qemu-system-x86_64 --version | head -1)"
	printf 'revision: %s\n' "$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)"
}
