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

# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../expect.sh"

# The program that is tested.
orc() {
	timeout --foreground --kill-after=10 "$ORC_TIMEOUT" "${ORC_AS[@]}" "$ORC" "$@"
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

# Programs that are built with a sanitizer: what memory and time they take says nothing.
sanitized() {
	grep -q '__[at]san_init' "$ORC"
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

# link_image FROM NAME [FILE...]: image FROM as NAME, in a directory of the test's that the daemon then
# looks at. What is named after it and the manifest are copies, which may be changed; the rest are links.
link_image() {
	local from=$IMAGES/$1 to=$T/images/$2 file
	shift 2
	mkdir -p "$to"
	for file in "$from"/*; do
		ln -sf "$file" "$to/"
	done
	for file in "$@" manifest.json; do
		cp --remove-destination "$from/$file" "$to/"
		chmod u+w "$to/$file"
	done
	export ORCHESTRATOR_IMAGE_DIR=$T/images
}

# The same under its own name: copy_image NAME [FILE...]
copy_image() {
	link_image "$1" "$@"
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
