# shellcheck shell=bash
# The process of a VM's vsock device is killed: while the guest boots, while the program runs, and
# in a VM that a second daemon took up, which is not that process's parent. The job is told why, at
# once.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
export ORCHESTRATOR_VSOCK=user

while_booting() {
	id=$(orc submit --image slow --memory 128M -- true)
	wait_until 60 vm_boots
	sleep "$((RANDOM % 3)).$((RANDOM % 10))"
	kill -KILL "$(processes_with vsock-device)"
	ended_as infra "the VM's vsock device ended by signal 9\$"
}

while_running() {
	start_job
	kill -KILL "$device"
	ended_as infra "^the VM's vsock device ended by signal 9\$" 20
}

when_adopted() {
	start_job
	kill -KILL "$(daemon_pid)"
	wait_until 30 no_daemon
	wait_until 30 state_is "$id" running
	# By its next word, that the second daemon follows.
	kill -KILL "$device"
	ended_as infra "^the VM's vsock device ended\$" 20
}

# While no daemon is there.
before_adoption() {
	start_job
	kill -KILL "$(daemon_pid)"
	wait_until 30 no_daemon
	kill -KILL "$device"
	ended_as infra "the VM's vsock device ended\$" 20
}

derive_slow_image
repeat while_booting
repeat while_running
RENEWED=1 repeat when_adopted
RENEWED=1 repeat before_adoption
