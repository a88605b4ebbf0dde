# shellcheck shell=bash
# The daemon is killed under a running job: nothing is lost or left behind.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

id=$(orc submit --image "$IMAGE" --timeout 4m -- sh -c 'echo begun; sleep 200')
wait_until 120 grep -q begun "$(job_dir "$id")/stdout"
vm=$(orc list vms -o json | jq -r '.[0].pid')
pid=$(daemon_pid)
kill -KILL "$pid"
wait_until 30 no_daemon
# The next command starts another, which knows the job and destroys what was left of its VM, or
# takes it up again.
expect_exit 0 orc status "$id"
state=$(field "$id" .state)
expect_match '^(queued|starting|running|finished)$' <(echo "$state")
if [[ $state != finished ]]; then
	expect_exit 0 orc cancel "$id"
	expect_exit 130 orc wait --timeout 60s "$id"
fi
wait_until 60 test ! -e "/proc/$vm/cmdline"
expect_exit 0 orc run --image "$IMAGE" -- echo again
expect_equal stdout again "$(cat "$T/out")"
