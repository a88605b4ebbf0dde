# shellcheck shell=bash
# Two daemons on one state directory: the second is refused and names the first.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

"$ORC" serve >"$T/serve.out" 2>"$T/serve.err" &
first=$!
wait_until 30 daemon_pid
expect_equal "the daemon" "$first" "$(daemon_pid)"
wait_until 30 orc list vms
expect_exit 125 orc serve
expect_match "daemon \\(pid $first\\) serves $ORCHESTRATOR_STATE_DIR already" "$T/err"
# The first is unharmed.
expect_exit 0 orc list jobs
expect_equal "the daemon" "$first" "$(daemon_pid)"
expect_exit 0 orc stop
code=0
wait "$first" || code=$?
expect_equal "the first's exit code" 0 "$code"
no_daemon || fail "it is still there"
