# shellcheck shell=bash
# The daemon is killed under a running job, and started again by the next command: the job runs on
# meanwhile, its output is complete, and its exit code comes through.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

lines_at_least() {
	(($(wc -l <"$(job_dir "$1")/stdout") >= $2))
}

# shellcheck disable=SC2016 # the guest's shell expands it
numbers='i=0; while [ $i -lt 100 ]; do echo $i; i=$((i+1)); sleep 0.1; done; echo end >&2; exit 7'
id=$(orc submit --image "$IMAGE" --timeout 4m -- sh -c "$numbers")
wait_until 120 lines_at_least "$id" 10
vm=$(orc list vms -o json | jq -r '.[0].pid')
for round in 1 2; do
	pid=$(daemon_pid)
	kill -KILL "$pid"
	wait_until 30 no_daemon
	expect_equal "the VM after kill $round" yes "$([[ -e /proc/$vm/cmdline ]] && echo yes)"
	lines=$(wc -l <"$(job_dir "$id")/stdout")
	sleep 1
	expect_exit 0 orc status "$id"
	wait_until 60 lines_at_least "$id" $((lines + 10))
done
expect_equal state running "$(field "$id" .state)"
expect_exit 7 orc wait --timeout 120s "$id"
expect_equal stdout "$(seq 0 99)" "$(cat "$(job_dir "$id")/stdout")"
expect_equal stderr end "$(cat "$(job_dir "$id")/stderr")"
expect_equal attempt 1 "$(field "$id" .attempt)"
wait_until 60 test ! -e "/proc/$vm/cmdline"
no_vm_left() {
	[[ -z $(ls "$ORCHESTRATOR_RUNTIME_DIR/vm") && ! -e $(job_dir "$id")/vm.json ]]
}
wait_until 60 no_vm_left

# One whose VM goes with the daemon is lost, and says so.
id=$(orc submit --image "$IMAGE" --timeout 4m -- sh -c 'echo begun; sleep 200')
wait_until 120 grep -q begun "$(job_dir "$id")/stdout"
vm=$(orc list vms -o json | jq -r '.[0].pid')
kill -KILL "$(daemon_pid)" "$vm"
wait_until 30 no_daemon
expect_exit 125 orc wait --timeout 60s "$id"
expect_equal outcome infra "$(field "$id" .outcome)"
wait_until 60 no_vm_left

# One that was taken up can be cancelled.
id=$(orc submit --image "$IMAGE" --timeout 4m -- sh -c 'echo begun; sleep 200')
wait_until 120 grep -q begun "$(job_dir "$id")/stdout"
kill -KILL "$(daemon_pid)"
wait_until 30 no_daemon
expect_exit 0 orc cancel "$id"
expect_exit 130 orc wait --timeout 60s "$id"
wait_until 60 no_vm_left
expect_exit 0 orc run --image "$IMAGE" -- echo again
expect_equal stdout again "$(cat "$T/out")"
