# shellcheck shell=bash
# QEMU stands still (SIGSTOP) before it has answered libvirt, which waits for it without a deadline:
# one job is cancelled, another ends by itself (vm.c: 30 s, or boot_timeout if that is more).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
export ORCHESTRATOR_BOOT_TIMEOUT=30s

vm_state() {
	orc list vms -o json | jq -r --arg job "$id" '.[] | select(.job == $job) | .state'
}

# Stop it in time: "creating" is the state until libvirt has answered. Sets id and qemu.
start_stopped() {
	local try
	for ((try = 1; try <= 10; try++)); do
		id=$(orc submit "${JOB[@]}" -- true)
		qemu=$(process_appears qemu-system)
		kill -STOP "$qemu"
		sleep 0.5
		[[ $(vm_state) != creating ]] || return 0
		kill -CONT "$qemu"
		expect_exit 0 orc wait --timeout 60s "$id"
		expect_nothing_left
	done
	fail "QEMU was faster each time"
}

stopped_early() {
	local begun
	start_stopped
	begun=$SECONDS
	expect_exit 0 orc cancel "$id"
	expect_exit 130 orc wait --timeout 30s "$id"
	((SECONDS - begun <= 15)) || fail "it took $((SECONDS - begun)) s to cancel"
	wait_until 20 test ! -e "/proc/$qemu"
	[[ ${FAULT_SAMPLE:-} ]] && return
	expect_nothing_left
	start_stopped
	ended_as infra 'libvirt has not answered for 3[0-9] s \(virDomainCreateXML\); does QEMU' 60
	wait_until 20 test ! -e "/proc/$qemu"
}

expect_exit 0 orc run "${JOB[@]}" -- true
repeat stopped_early
