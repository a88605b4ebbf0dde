# shellcheck shell=bash
# `orchestrator bench` without the libvirtd that the configuration names.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_bench_image "$IMAGE"
[[ ! -e /run/libvirt/virtqemud-sock && ! -e /run/libvirt/libvirt-sock ]] ||
	not_verified "there is a system libvirt here"

expect_exit 125 env ORCHESTRATOR_LIBVIRT_URI=qemu:///system "$ORC" bench --quick --image "$IMAGE"
expect_match 'qemu:///system: .*libvirt' "$T/err"
expect_match 'is libvirtd running' "$T/err"
expect_equal "lines on stdout" 0 "$(wc -l <"$T/out")"
[[ ! -e $ORCHESTRATOR_STATE_DIR/bench ]] || fail "left behind: $ORCHESTRATOR_STATE_DIR/bench"
