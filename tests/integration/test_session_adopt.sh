# shellcheck shell=bash
# On qemu:///session the daemon is killed, twice, under a running job: the next one takes it up.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
IMAGE=${TEST_IMAGE:-minimal}
need_image "$IMAGE"
. "$(dirname "${BASH_SOURCE[0]}")/session.sh"

id=$(submit_slow)
runs_with_bytes "$id" 300010
vm=$(orc list vms -o json | jq -r '.[0].pid')
expect_equal "its user" "$("${ORC_AS[@]}" id -un)" "$(stat -c %U "/proc/$vm")"
our_domains >"$T/domains"
expect_match '^orchestrator-vm-' "$T/domains"
for round in 1 2; do
	kill -KILL "$(daemon_pid)"
	wait_until 30 no_daemon
	expect_equal "the VM after kill $round" yes "$([[ -e /proc/$vm/cmdline ]] && echo yes)"
	size=$(stat -c %s "$(job_dir "$id")/stdout")
	sleep 1
	expect_exit 0 orc status "$id"
	wait_until 60 bytes_at_least "$id" $((size + 12))
done
expect_equal state running "$(field "$id" .state)"
expect_whole "$id"
wait_until 60 nothing_left

# libvirtd is killed with the daemon: the next daemon starts it, finds the VM, and takes it up.
id=$(submit_slow)
runs_with_bytes "$id" 300010
kill -KILL "$(daemon_pid)"
kill_libvirtd
wait_until 30 no_daemon
expect_exit 0 orc status "$id"
expect_whole "$id"
wait_until 60 nothing_left

# It is away still when the next daemon begins.
id=$(submit_slow)
runs_with_bytes "$id" 300010
touch "$T/no-libvirtd"
kill -KILL "$(daemon_pid)"
kill_libvirtd
wait_until 30 no_daemon
expect_exit 0 orc status "$id"
sleep 4
rm "$T/no-libvirtd"
expect_whole "$id"
wait_until 60 nothing_left
