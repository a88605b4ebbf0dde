# shellcheck shell=bash
# The daemon starts by itself, and leaves when it is idle.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
export ORCHESTRATOR_IDLE_TIMEOUT=2s

no_daemon || fail "there is one already"
expect_exit 0 orc list vms # does not need one
no_daemon || fail "listing VMs started a daemon"
# Longer than the idle timeout: a job is no idleness.
expect_exit 0 orc run --image "$IMAGE" -- sleep 4
pid=$(daemon_pid)
wait_until 30 no_daemon
wait_until 10 test ! -e "/proc/$pid"
# What was recorded is there for the next one.
expect_equal outcome succeeded "$(field "$(last_job)" .outcome)"
