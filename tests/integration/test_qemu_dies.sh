# shellcheck shell=bash
# QEMU is killed under a running job.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

id=$(orc submit --image "$IMAGE" -- sh -c 'echo begun; sleep 300')
wait_until 120 grep -q begun "$(job_dir "$id")/stdout"
pid=$(orc list vms -o json | jq -r '.[0].pid')
[[ $pid =~ ^[1-9][0-9]*$ ]] || fail "list vms gives no pid: $pid"
grep -qF "$T" "/proc/$pid/cmdline" || fail "process $pid is not this test's"
kill -KILL "$pid"
expect_exit 125 orc wait --timeout 60s "$id"
expect_exit 0 orc result "$id"
expect_match 'QEMU ended' "$T/out"
expect_equal "what came before" begun "$(cat "$(job_dir "$id")/stdout")"
# The daemon goes on.
expect_exit 0 orc run --image "$IMAGE" -- true
