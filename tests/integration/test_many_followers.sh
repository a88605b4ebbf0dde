# shellcheck shell=bash
# 200 commands follow one job: each gets all of it, those that come late and those that come when it
# is over too; some are stopped and read nothing. The daemon's memory has a bound, and it answers
# others meanwhile.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
followers=${FOLLOWERS:-200} stuck=20

rss() { # KiB of the daemon
	awk '/^VmRSS/ { print $2 }' "/proc/$(daemon_pid)/status"
}

pids=()
at_exit() {
	local code=$?
	set +e
	((${#pids[@]} == 0)) || kill -KILL "${pids[@]}" 2>/dev/null
	(exit "$code")
	clean_up
}
trap at_exit EXIT

follow() { # FROM TO
	local i
	for ((i = $1; i < $2; i++)); do
		"$ORC" logs -f "$id" >"$T/follow.$i" 2>"$T/follow-err.$i" </dev/null &
		pids[i]=$!
	done
}

files_at_least() { # FROM TO BYTES
	local i
	for ((i = $1; i < $2; i++)); do
		(($(stat -c %s "$T/follow.$i") >= $3)) || return 1
	done
}

# shellcheck disable=SC2016 # the guest's shell expands it
block='i=0; while [ $i -lt 20000 ]; do echo "$1 $i: one line of the output that all of them follow"; i=$((i+1)); done'
printf '%s\n' "block() { $block; }" \
	'block a; sleep 20; block b; block c; sleep 20; echo end; exit 3' >"$T/script"
id=$(orc submit --image "$IMAGE" --timeout 10m -- sh -c "$(cat "$T/script")")
sh -c "$(sed 's/sleep 20/:/g' "$T/script")" >"$T/expected" || true
whole=$(stat -c %s "$T/expected")
wait_until 120 test -s "$(job_dir "$id")/stdout"

before=$(rss)
half=$((followers / 2))
follow 0 $half
for ((i = 0; i < stuck; i++)); do
	wait_until 60 test -s "$T/follow.$i"
	kill -STOP "${pids[i]}"
done
follow $half $((followers - 20))
wait_until 120 files_at_least $stuck $((followers - 20)) 1000
with=$(rss)
began=$(date +%s%N)
expect_exit 0 orc list jobs
expect_exit 0 orc status "$id"
answered=$((($(date +%s%N) - began) / 1000000))
other=$(orc submit --image "$IMAGE" -- sleep 100)
expect_exit 0 orc cancel "$other"
# All but the stopped ones come to the end.
wait_until 240 files_at_least $stuck $((followers - 20)) "$whole"
after=$(rss)
follow $((followers - 20)) "$followers"
for ((i = stuck; i < followers; i++)); do
	code=0
	wait "${pids[i]}" || code=$?
	expect_equal "the exit code of follower $i" 3 $code
	cmp "$T/expected" "$T/follow.$i" || fail "follower $i has other output"
done
# Those that were stopped go on as if nothing had been.
for ((i = 0; i < stuck; i++)); do
	kill -CONT "${pids[i]}"
done
for ((i = 0; i < stuck; i++)); do
	code=0
	wait "${pids[i]}" || code=$?
	expect_equal "the exit code of follower $i" 3 $code
	cmp "$T/expected" "$T/follow.$i" || fail "follower $i has other output"
done
pids=()
printf 'the daemon: %s KiB before, %s with followers, %s at the end; two questions took %s ms\n' \
	"$before" "$with" "$after" "$answered"
# A buffer, a thread's stack and a connection for each, and what a stopped one has not read.
sanitized || ((after - before < followers * 512)) || fail "the daemon grew by $((after - before)) KiB"
((answered < 10000)) || fail "list and status took $answered ms"
