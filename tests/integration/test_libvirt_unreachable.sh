# shellcheck shell=bash
# A libvirt that is not there: its own words and the URI reach the user.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
[[ ! -e /run/libvirt/virtqemud-sock && ! -e /run/libvirt/libvirt-sock ]] ||
	not_verified "there is a system libvirt here"

export ORCHESTRATOR_LIBVIRT_URI=qemu:///system
expect_exit 125 orc run --image "$IMAGE" -- true
expect_match 'qemu:///system: .*libvirt' "$T/err"
expect_match 'is libvirtd running' "$T/err"
