# shellcheck shell=bash
# QEMU stands still (SIGSTOP) under two running jobs. The worker of one is lost within the deadline of
# the connection (common/rpc.c: 10 s and 20 s), the other job is cancelled; both VMs are ended.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

stopped() {
	local first first_qemu begun
	start_job
	first=$id first_qemu=$qemu
	kill -STOP "$qemu"
	start_job
	kill -STOP "$qemu"
	begun=$SECONDS
	expect_exit 0 orc cancel "$id"
	expect_exit 130 orc wait --timeout 60s "$id"
	expect_equal outcome cancelled "$(field "$id" .outcome)"
	id=$first
	ended_as agent_lost 'the guest is up, but its worker does not answer' 60
	((SECONDS - begun <= 45)) || fail "it took $((SECONDS - begun)) s"
	wait_until 20 test ! -e "/proc/$qemu" -a ! -e "/proc/$first_qemu"
}

repeat stopped
