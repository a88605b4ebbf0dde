# shellcheck shell=bash
# `run` and `wait` stay with their job while the daemon is killed under them three times: each time
# the command itself starts the next one, and the output is the job's, byte for byte.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

lines_at_least() {
	(($(wc -l <"$T/run.out") >= $1))
}

other_daemon() {
	daemon_pid >"$T/pid" && [[ $(cat "$T/pid") != "$1" ]]
}

# shellcheck disable=SC2016 # the guest's shell expands it
numbers='i=0; while [ $i -lt 150 ]; do printf "%d\t\001x\r\n" $i; i=$((i+1)); sleep 0.1; done; echo end >&2; exit 7'
printf '%s' "$numbers" >"$T/script"
orc run --image "$IMAGE" --timeout 5m -- sh -c "$numbers" >"$T/run.out" 2>"$T/run.err" </dev/null &
run=$!
wait_until 120 lines_at_least 5
id=$(last_job)
orc wait "$id" >"$T/wait.out" 2>"$T/wait.err" &
wait=$!
for _ in 1 2 3; do
	pid=$(daemon_pid)
	lines=$(wc -l <"$T/run.out")
	kill -KILL "$pid"
	wait_until 60 other_daemon "$pid"
	wait_until 60 lines_at_least $((lines + 5))
done
code=0
wait $run || code=$?
expect_equal "run's exit code" 7 $code
code=0
wait $wait || code=$?
expect_equal "wait's exit code" 7 $code
sh -c "$(sed 's/sleep 0.1/:/' "$T/script")" >"$T/expected" 2>/dev/null || true
cmp "$T/expected" "$T/run.out" || fail "the output is not the job's"
expect_equal stderr end "$(cat "$T/run.err")"
expect_equal attempt 1 "$(field "$id" .attempt)"
