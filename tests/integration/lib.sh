# shellcheck shell=bash
# What every integration test begins with: its own configuration, helpers, and an end that leaves
# nothing behind. tests/integration/run has set T (the test's directory), ROOT, BUILD and TEST_NAME.
set -euo pipefail

: "${T:?run me by tests/integration/run --filter NAME}" "${ROOT:?}" "${BUILD:?}" "${TEST_NAME:?}"

ORC=$BUILD/bin/orchestrator
# shellcheck disable=SC2034 # for the tests
IMAGE=${TEST_IMAGE:-debian}
IMAGES=$BUILD/share/orchestrator/images
# Outside configuration would change what is tested.
for variable in "${!ORCHESTRATOR_@}"; do
	case $variable in
	ORCHESTRATOR_ACCEL | ORCHESTRATOR_VSOCK | ORCHESTRATOR_LIBVIRT_URI) ;;
	*) unset "$variable" ;;
	esac
done
export ORCHESTRATOR_STATE_DIR=$T/state ORCHESTRATOR_RUNTIME_DIR=$T/run
export ORCHESTRATOR_IMAGE_DIR=$IMAGES ORCHESTRATOR_IDLE_TIMEOUT=10m
export HOME=$T/home XDG_CONFIG_HOME=$T/home/config
export LC_ALL=C NO_COLOR=1
# Before each `orchestrator`: for a test that runs it as another user.
ORC_AS=()
# No command of a test waits longer for the daemon.
ORC_TIMEOUT=${ORC_TIMEOUT:-180}
mkdir -p "$HOME" "$T/work"
cd "$T/work"

fail() {
	printf 'FAILED at %s:%s: %s\n' "${BASH_SOURCE[1]##*/}" "${BASH_LINENO[0]}" "$*"
	exit 1
}

# This machine cannot show what the test is about.
not_verified() {
	printf '%s\n' "$*" >"$T/not-verified"
	exit 77
}

# The program that is tested.
orc() {
	timeout --foreground --kill-after=10 "$ORC_TIMEOUT" "${ORC_AS[@]}" "$ORC" "$@"
}

# expect_exit CODE COMMAND...: its output is in $T/out and $T/err.
expect_exit() {
	local expected=$1 code=0
	shift
	printf '+ %s\n' "$*"
	"$@" >"$T/out" 2>"$T/err" </dev/null || code=$?
	[[ $code == "$expected" ]] && return
	printf 'exit %s where %s was expected\n' "$code" "$expected"
	show out
	show err
	fail "$*"
}

# show out|err: what the last command said.
show() {
	printf -- '--- std%s\n' "$1"
	head -c 4000 "$T/$1" | cat -v
}

# expect_match REGEX FILE, and its opposite.
expect_match() {
	grep -Eq -- "$1" "$2" && return
	printf 'nothing in %s matches: %s\n' "$2" "$1"
	head -c 4000 "$2" | cat -v
	fail "expect_match"
}

expect_no_match() {
	grep -Eq -- "$1" "$2" || return 0
	printf 'something in %s matches: %s\n' "$2" "$1"
	head -c 4000 "$2" | cat -v
	fail "expect_no_match"
}

# expect_equal WHAT EXPECTED ACTUAL
expect_equal() {
	[[ $2 == "$3" ]] || fail "$1 is '$3', expected '$2'"
}

# wait_until SECONDS COMMAND...: until it succeeds.
wait_until() {
	local deadline=$((SECONDS + $1)) seconds=$1
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < deadline)) || fail "still not so after $seconds s: $*"
		sleep 0.1
	done
}

# field ID PATH: of the job's record: field "$id" .stdout.bytes
field() {
	orc status -o json "$1" | jq -r "$2"
}

state_is() {
	[[ $(field "$1" .state) == "$2" ]]
}

job_dir() {
	printf '%s/jobs/%s' "$ORCHESTRATOR_STATE_DIR" "$1"
}

# The id of the newest job.
last_job() {
	orc list jobs -n 1 -o name
}

# The daemon's pid; fails if none runs.
daemon_pid() {
	local pid
	pid=$(cat "$ORCHESTRATOR_STATE_DIR/lock" 2>/dev/null) && [[ $pid ]] || return 1
	# Numbers are used again: it must be of this test.
	grep -qsF -e "$T" "/proc/$pid/environ" "/proc/$pid/cmdline" || return 1
	printf '%s\n' "$pid"
}

no_daemon() {
	! daemon_pid >/dev/null
}

# Its absence is a failure: a run without images would show nothing and look well.
need_image() {
	[[ -f $IMAGES/$1/manifest.json ]] || fail "there is no image '$1' in $IMAGES: make image"
}

# The distribution's kernel has no virtio-net in the guest.
need_bench_image() {
	need_image "$1"
	[[ $(jq -r .kernel.kind "$IMAGES/$1/manifest.json") != stock ]] ||
		not_verified "image $1 has the distribution's kernel: make kernel image"
}

need_root() {
	[[ $(id -u) == 0 ]] || not_verified "needs root: $*"
}

# Run the whole test in a mount namespace of its own. Must be its first line after lib.sh.
in_mount_namespace() {
	[[ ${IN_MOUNT_NAMESPACE:-} ]] && return
	need_root "a mount namespace"
	unshare --mount --propagation private true 2>/dev/null ||
		not_verified "no right to make a mount namespace"
	trap - EXIT
	IN_MOUNT_NAMESPACE=1 exec unshare --mount --propagation private bash "$0"
}

# A copy of an image in a directory of the test's, whose files may be changed: only what is named
# after it is copied, the rest are links.
copy_image() {
	local name=$1 file to=$T/images/$1
	shift
	mkdir -p "$to"
	for file in "$IMAGES/$name"/*; do
		ln -sf "$file" "$to/"
	done
	for file in "$@" manifest.json; do
		rm -f "$to/$file"
		cp "$IMAGES/$name/$file" "$to/"
	done
	export ORCHESTRATOR_IMAGE_DIR=$T/images
}

# The name of an image's file: image_file debian kernel|initramfs|root
image_file() {
	jq -er --arg key "$2" '.files[$key].name' "$IMAGES/$1/manifest.json"
}

# Same size, other content.
scribble() {
	local size
	size=$(stat -c %s "$1")
	head -c "$size" /dev/zero | tr '\0' 'x' >"$1.new"
	mv "$1.new" "$1"
}

clean_up() {
	local code=$? pid
	set +e
	trap '' INT TERM
	if pid=$(daemon_pid); then
		ORC_TIMEOUT=60 orc stop >"$T/stop.out" 2>&1 || cat -v "$T/stop.out"
		if [[ $(daemon_pid) == "$pid" ]]; then
			echo "the daemon (pid $pid) did not stop when asked"
			kill -KILL "$pid"
			((code)) || code=1
		fi
	fi
	exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[[ -x $ORC ]] || fail "there is no $ORC: make"
