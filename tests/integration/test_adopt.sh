# shellcheck shell=bash
# The daemon is killed at a named place, and started again: no acknowledged job is lost, each has one
# result and its whole output, nothing is left over, and the next daemon answers soon. A sample of
# the places; tests/faults/kill-daemon (make test-faults) takes all.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

KILL_POINTS=${KILL_POINTS:-submit.committed vm.created run.sent run.stop-sent output.written outputs.published
	recover.settled retry.committed retry.moving}
POINT_IMAGE=${POINT_IMAGE:-minimal}
ANSWER_SECONDS=10

# The first VM that is made and destroyed shall be the job's, not a probe's.
export ORCHESTRATOR_ACCEL=${ORCHESTRATOR_ACCEL:-tcg}
need_image "$POINT_IMAGE"
plain=$ORC
ORC=$BUILD/failpoints/bin/orchestrator
[[ -x $ORC ]] || fail "there is no $ORC: make failpoints"

# More than is acknowledged at once, then numbers slowly, so that a kill finds it running.
# shellcheck disable=SC2016 # the guest's shell expands it
program='head -c 300000 /dev/zero; i=0; while [ $i -lt 15 ]; do echo $i; i=$((i+1)); sleep 0.1; done
echo end >&2; cp in out; exit 3'

# write_job [LINE]: with one more line.
write_job() {
	cat >job.yaml <<-YAML
		image: $POINT_IMAGE
		${1:-}
		inputs: [{src: in, dest: /home/job/in}]
		working_dir: /home/job
		outputs: [out]
		timeout: 90s
		resources: {memory: 128M, disk: 16M}
		run: |
	YAML
	sed 's/^/  /' <<<"$program" >>job.yaml
	echo "the input" >in
	{ head -c 300000 /dev/zero; seq 0 14; } >expected
}

# serve [FAILPOINT]: a daemon in the background; its pid is in $served.
serve() {
	ORCHESTRATOR_FAILPOINT=${1:+$1:1} "$ORC" serve >>"$ORCHESTRATOR_STATE_DIR/serve.log" 2>&1 \
		</dev/null &
	served=$!
	for _ in {1..300}; do
		[[ -S $ORCHESTRATOR_RUNTIME_DIR/control.sock && $(daemon_pid) == "$served" ]] && return
		[[ -e /proc/$served ]] || return 0 # died already, as ordered
		sleep 0.1
	done
	fail "the daemon does not come up"
}

died() {
	local code=0
	for _ in {1..900}; do
		[[ $(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null) =~ ^[^ZX]$ ]] || break
		sleep 0.1
	done
	[[ $(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null) =~ ^[^ZX]$ ]] && return 1
	wait "$1" 2>/dev/null || code=$?
	expect_equal "the daemon's exit" 137 "$code"
}

# Not a failure by itself: the daemon may die before it answers.
submit() {
	timeout 60 "$ORC" submit --key "$1" job.yaml 2>>submit.err || true
}

# The pattern goes through a file, so that grep does not find itself.
processes_left() {
	printf '%s/vm/\n' "$ORCHESTRATOR_RUNTIME_DIR" >"$base/needle"
	grep -lsFf "$base/needle" /proc/[0-9]*/cmdline
}

nothing_left() {
	[[ -z $(processes_left) && -z $(ls "$ORCHESTRATOR_RUNTIME_DIR/vm") ]] &&
		! compgen -G "$ORCHESTRATOR_STATE_DIR/jobs/*/vm.json" &&
		[[ -z $(find "$ORCHESTRATOR_STATE_DIR/libvirt" -name '*vm-*' 2>/dev/null) ]]
}

# Jobs that come many in one call, which has no keys: those that were acknowledged are there, and all
# that are there end.
kill_at_many() {
	local point=$1 acknowledged id ids
	for id in 1 2 3; do
		printf 'image: %s\ncommand: [echo, many]\nresources: {memory: 128M}\n' \
			"$POINT_IMAGE" >"many$id.yaml"
	done
	serve "$point"
	acknowledged=$(timeout 60 "$ORC" submit many[123].yaml 2>>submit.err || true)
	died "$served" || fail "$point was not passed"
	serve
	ids=$(orc list jobs -o name)
	for id in $acknowledged; do
		grep -qx "$id" <<<"$ids" || fail "$point: acknowledged $id is lost"
	done
	for id in $ids; do
		expect_exit 0 orc wait --timeout 120s "$id"
		expect_equal "$point: stdout" many "$(cat "$(job_dir "$id")/stdout")"
	done
	wait_until 30 nothing_left
	expect_exit 0 orc stop
	printf '%s: ok, %d jobs\n' "$point" "$(wc -w <<<"$ids")"
}

# The job's first attempt ended, and its record and its output are there.
check_first_attempt() {
	local point=$1 id=$2 restarts
	restarts=$(field "$id" '.restarts // 0')
	expect_equal "$point: earlier attempts" $((1 + restarts)) \
		"$(field "$id" '.earlier_attempts | length')"
	expect_equal "$point: failed attempts" 1 \
		"$(field "$id" '[.earlier_attempts[] | select(.outcome == "failed")] | length')"
	expect_equal "$point: attempt" $((2 + restarts)) "$(field "$id" .attempt)"
	cmp expected "$(job_dir "$id")/attempts/1/stdout" || fail "$point: stdout of attempt 1"
	expect_equal "$point: the first's artifact" "the input" \
		"$(cat "$(job_dir "$id")/attempts/1/artifacts/out")"
	expect_equal "$point: the first's result.json" 1 \
		"$(jq .attempt "$(job_dir "$id")/attempts/1/result.json")"
}

pool=$XDG_CONFIG_HOME/orchestrator/orchestrator.yaml
an_idle_vm() {
	[[ $(orc list vms -o json | jq -r '.[].state') == idle ]]
}

# The VM of the job that ran, if it is there to be taken up, unless its result has been recorded.
vm_that_runs() {
	local note qemu
	for note in "$ORCHESTRATOR_STATE_DIR"/jobs/*/vm.json; do
		qemu=$(jq -r .qemu "$note" 2>/dev/null) || continue
		grep -qsF "$ORCHESTRATOR_RUNTIME_DIR" "/proc/$qemu/cmdline" && jq -r '"\(.id) \(.attempt)"' "$note"
	done
	return 0
}

# By its log: the VM in $left, or its attempt had ended.
taken_up() {
	[[ ! $left ]] || for _ in $(seq $((10 * ANSWER_SECONDS))); do
		grep -q "taken up in ${left% *}" "$ORCHESTRATOR_STATE_DIR/serve.log" && return
		[[ $(orc list jobs -o json | jq -r '.[0].state') != @(running|starting|collecting) ]] && return
		[[ $(field "$(last_job)" .attempt) != "${left#* }" ]] && return
		sleep 0.1
	done
	[[ ! $left ]]
}

kill_at() {
	local point=$1 acknowledged id again began left code=0
	write_job
	case $point in
	retry.linking)
		# Of a job that has ended.
		serve "$point"
		acknowledged=$(submit key)
		orc wait --timeout 120s "$acknowledged" >"$T/out" 2>"$T/err" || true
		timeout 60 "$ORC" retry "$acknowledged" 2>>submit.err || true
		;;
	retry.* | store.requeue)
		write_job 'retry: {max_attempts: 2, on: [failed], backoff: 100ms}'
		serve "$point"
		acknowledged=$(submit key)
		;;
	warm.*)
		# With a pool of VMs that fit the job, which the daemon after has not.
		mkdir -p "$XDG_CONFIG_HOME/orchestrator"
		echo "pool: {$POINT_IMAGE: {max: 1, cpus: 1, memory: 128M, disk: 16M}}" >"$pool"
		serve "$point"
		acknowledged=
		if [[ $point == warm.take* || $point == warm.answered ]]; then
			wait_until 120 an_idle_vm
			acknowledged=$(submit key)
		fi
		;;
	recover.* | adopt.* | store.take-over)
		# The second daemon dies, of taking up the job of the first.
		serve run.first-byte
		acknowledged=$(submit key)
		died "$served" || fail "$point: run.first-byte was not passed"
		serve "$point"
		;;
	*)
		serve "$point"
		acknowledged=$(submit key)
		;;
	esac
	died "$served" || fail "$point was not passed"
	rm -f "$pool"
	left=$(vm_that_runs)
	began=$SECONDS
	serve
	taken_up || fail "$point: not taken up after $((SECONDS - began)) s"
	expect_exit 0 orc list jobs -o name
	sanitized || ((SECONDS - began <= ANSWER_SECONDS)) || fail "$point: $((SECONDS - began)) s until it answered"
	# The same key is the same job, whether the first submission was heard or not.
	again=$(submit key)
	[[ $again ]] || fail "$point: the job cannot be submitted"
	[[ -z $acknowledged || $acknowledged == "$again" ]] ||
		fail "$point: acknowledged $acknowledged is lost, $again came in its place"
	id=$again
	orc wait --timeout 120s "$id" >"$T/out" 2>"$T/err" || code=$?
	[[ $code == 3 ]] || {
		orc status "$id" || true
		fail "$point: exit code $code"
	}
	expect_equal "$point: jobs" "$id" "$(orc list jobs -o name)"
	expect_equal "$point: directories" "$id" "$(ls "$ORCHESTRATOR_STATE_DIR/jobs")"
	grep -q ^retry: job.yaml && check_first_attempt "$point" "$id"
	cmp expected "$(job_dir "$id")/stdout" || fail "$point: stdout"
	expect_equal "$point: stderr" end "$(cat "$(job_dir "$id")/stderr")"
	expect_equal "$point: artifact" "the input" "$(cat "$(job_dir "$id")/artifacts/out")"
	[[ $(field "$id" .stdout.bytes) == "$(stat -c %s expected)" ]] || fail "$point: bytes"
	wait_until 30 nothing_left
	expect_exit 0 orc stop
	printf '%s: ok, attempt %s, %d s after the kill\n' "$point" "$(jq -r .attempt \
		"$(job_dir "$id")/result.json")" $((SECONDS - began))
}

# A program that is told to end, and takes its time. Nobody is told that it was cancelled, but it is.
kill_at_cancel() {
	local point=$1 id
	cat >job.yaml <<-YAML
		image: $POINT_IMAGE
		timeout: 90s
		stop_grace_period: 4s
		retry: {max_attempts: 2, on: [infra, failed, agent_lost], backoff: 100ms}
		resources: {memory: 128M}
		run: |
		  trap 'echo told' TERM
		  echo begun
		  i=0; while [ \$i -lt 800 ]; do sleep 0.1; i=\$((i+1)); done
	YAML
	serve "$point"
	id=$(submit key)
	wait_until 60 grep -qs begun "$(job_dir "$id")/stdout"
	timeout 60 "$ORC" cancel "$id" 2>>submit.err || true
	died "$served" || fail "$point was not passed"
	serve
	expect_exit 130 orc wait --timeout 60s "$id"
	expect_equal "$point: outcome" cancelled "$(field "$id" .outcome)"
	expect_equal "$point: attempt" 1 "$(field "$id" .attempt)"
	expect_equal "$point: stdout" "$(printf 'begun\ntold')" "$(cat "$(job_dir "$id")/stdout")"
	wait_until 30 nothing_left
	expect_exit 0 orc stop
	printf '%s: ok\n' "$point"
}

base=$T run=0 failed=()
for point in $KILL_POINTS; do
	run=$((run + 1))
	# A state directory for each, with what the last daemon found out about this machine.
	last=$ORCHESTRATOR_STATE_DIR
	export ORCHESTRATOR_STATE_DIR=$base/$run/state ORCHESTRATOR_RUNTIME_DIR=$base/$run/run
	mkdir -m 711 "$base/$run" "$base/$run/state" "$base/$run/run"
	[[ -f $last/accel.json ]] && cp "$last/accel.json" "$base/$run/state/"
	if [[ -d $last/libvirt/cache ]]; then
		mkdir -m 711 "$base/$run/state/libvirt"
		cp -r "$last/libvirt/cache" "$base/$run/state/libvirt/"
	fi
	# One that fails is no reason not to look at the others. (With `||` behind it the subshell would
	# not heed its set -e.)
	set +e
	(
		set -e
		trap clean_up EXIT
		case $point in
		submit-many.*) kill_at_many "$point" ;;
		run.stop*) kill_at_cancel "$point" ;;
		*) kill_at "$point" ;;
		esac
	)
	(($? == 0)) || failed+=("$point")
	set -e
	[[ $last != "$base/state" ]] && rm -rf "${last%/state}"
done
ORC=$plain
echo "$run points, ${#failed[@]} failed: ${failed[*]}"
((run > 0 && ${#failed[@]} == 0))
