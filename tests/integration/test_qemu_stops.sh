# shellcheck shell=bash
# QEMU stands still (SIGSTOP) under a running job: its worker is lost, and the VM is ended all the
# same; and a job in such a VM can be cancelled.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

# A job that runs in a VM that stands still: sets id and qemu.
stopped_job() {
	id=$(orc submit --image "$IMAGE" -- sh -c 'echo begun; sleep 300')
	wait_until 120 grep -q begun "$(job_dir "$id")/stdout"
	qemu=$(orc list vms -o json | jq -r '.[0].pid')
	grep -qF "$T" "/proc/$qemu/cmdline" || fail "process $qemu is not this test's"
	kill -STOP "$qemu"
}

stopped_job
expect_exit 125 orc wait --timeout 100s "$id"
expect_exit 0 orc result -o json "$id"
expect_match '"agent_lost"' "$T/out"
wait_until 20 test ! -e "/proc/$qemu"

stopped_job
expect_exit 0 orc cancel "$id"
expect_exit 130 orc wait --timeout 60s "$id"
wait_until 20 test ! -e "/proc/$qemu"
wait_until 20 rmdir "$T/run/vm" # it is empty
