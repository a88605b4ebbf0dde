# shellcheck shell=bash
# QEMU is killed: while libvirt starts it, while the guest boots, while the program runs, while its outputs come home.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

# Before libvirt says that the domain runs, or just behind.
while_created() {
	id=$(orc submit "${JOB[@]}" -- true)
	kill -KILL "$(process_appears qemu-system)"
	ended_as 'infra|boot_failed' '^starting the domain: libvirt: |^QEMU ended by signal 9 before'
}

while_booting() {
	id=$(orc submit --image slow --memory 128M -- true)
	wait_until 60 vm_boots
	sleep "$((RANDOM % 3)).$((RANDOM % 10))"
	kill -KILL "$(processes_with qemu-system)"
	ended_as boot_failed '^QEMU ended by signal 9 before the guest.s worker was ready'
}

while_running() {
	start_job
	kill -KILL "$qemu"
	ended_as infra '^QEMU ended by signal 9 under the job$'
	expect_equal "what came before" begun "$(cat "$(job_dir "$id")/stdout")"
}

while_collecting() {
	start_job --memory 384M --output /tmp/big -- sh -c 'echo begun; head -c 50331648 /dev/zero >/tmp/big'
	wait_until 60 test -d "$(job_dir "$id")/artifacts.partial"
	kill -KILL "$qemu"
	ended_as infra 'QEMU ended by signal 9 under the job$'
	[[ ! -e $(job_dir "$id")/artifacts ]] || fail "artifacts look complete"
}

derive_slow_image
repeat while_created
repeat while_booting
repeat while_running
repeat while_collecting
