# shellcheck shell=bash
# libvirtd is killed, and comes back, while a job runs, while a VM is started, and while jobs wait:
# the daemon goes on with it.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_image "$IMAGE"
. "$(dirname "${BASH_SOURCE[0]}")/../integration/session.sh"

# A libvirtd that is started again looks for its QEMU, and asks QEMU what it can do, first: that may take
# minutes, as docs/libvirt.md says.
# One job at a time, so that others wait.
export ORCHESTRATOR_MAX_VMS=1

under_a_running_job() {
	local id vm
	id=$(submit_slow)
	runs_with_bytes "$id" 300010
	vm=$(orc list vms -o json | jq -r '.[0].pid')
	kill_libvirtd
	expect_equal "the VM without libvirtd" yes "$([[ -e /proc/$vm/cmdline ]] && echo yes)"
	expect_exit 0 orc list vms -o name
	expect_whole "$id"
	wait_until 240 nothing_left
}

# $1: after how many seconds.
while_a_vm_is_started() {
	local id
	expect_exit 0 our_domains_none
	id=$(submit_slow)
	sleep "$1"
	kill_libvirtd
	expect_whole "$id"
	wait_until 240 nothing_left
}

our_domains_none() {
	! our_domains
}

# Away for some seconds only: the job waits for it.
while_a_job_begins() {
	local id
	touch "$T/no-libvirtd"
	kill_libvirtd
	id=$(submit_slow)
	sleep 4
	rm "$T/no-libvirtd"
	expect_whole "$id"
	wait_until 240 nothing_left
}

# Away for longer: who is in turn fails and says why, who waits behind it runs when it is back. The
# running one ends meanwhile, and so does its QEMU.
for_long() {
	local running first second vm
	running=$(submit_slow)
	runs_with_bytes "$running" 300010
	vm=$(orc list vms -o json | jq -r '.[0].pid')
	first=$(submit_slow)
	second=$(submit_slow)
	touch "$T/no-libvirtd"
	kill_libvirtd
	expect_exit 3 orc wait --timeout 100s "$running"
	cmp expected "$(job_dir "$running")/stdout"
	wait_until 30 test ! -e "/proc/$vm/cmdline"
	expect_exit 125 orc wait --timeout 100s "$first"
	expect_equal outcome infra "$(field "$first" .outcome)"
	expect_match 'qemu:///session: .*libvirt' <(field "$first" .error)
	rm "$T/no-libvirtd"
	expect_whole "$second"
	wait_until 240 nothing_left
}

orc list jobs >/dev/null
daemon=$(daemon_pid)
delays=(0.1 0.3 0.5 0.7 0.9 0.2 0.4 0.6 0.8 1.0)
for ((run = 0; run < FAULT_RUNS; run++)); do
	under_a_running_job
	while_a_vm_is_started "${delays[run % 10]}"
	while_a_job_begins
	for_long
	printf 'run %s: ok, %s s\n' $((run + 1)) "$SECONDS"
done
expect_equal "the daemon" "$daemon" "$(daemon_pid)"
expect_exit 0 orc stop
