# shellcheck shell=bash
# What the tests of `orchestrator bench` have in common.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

nothing_left() {
	[[ ! -e $ORCHESTRATOR_STATE_DIR/bench && ! -e $ORCHESTRATOR_RUNTIME_DIR/bench ]] ||
		fail "left behind: $(find "$T/state/bench" "$T/run/bench" 2>/dev/null)"
	! pgrep -f "qemu.*$T/" >/dev/null || fail "a QEMU was left behind"
}
