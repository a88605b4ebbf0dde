# shellcheck shell=bash
# Ctrl-C while following: the job goes on, and the user is told how to come back or cancel.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

# A script's background job ignores SIGINT, unlike one at a terminal.
env --default-signal=INT "$ORC" run --image "$IMAGE" -- \
	sh -c 'echo begun; sleep 8; echo ended' >"$T/out" 2>"$T/err" &
follower=$!
wait_until 120 grep -q begun "$T/out"
id=$(last_job)
kill -INT "$follower"
code=0
wait "$follower" || code=$?
expect_equal "exit code" 130 "$code"
expect_match "orchestrator logs -f $id" "$T/err"
expect_match "orchestrator cancel $id" "$T/err"
expect_match '^(running|collecting|finished)$' <(field "$id" .state)

expect_exit 0 orc logs -f "$id"
expect_equal "all of its output" "begun
ended" "$(cat "$T/out")"
expect_equal outcome succeeded "$(field "$id" .outcome)"
