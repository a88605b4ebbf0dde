# shellcheck shell=bash
# The disk of the state directory is full. Submits are refused; of jobs that run the outcome is
# recorded, with what of their output did not fit; those that wait go on waiting; nothing of what was
# acknowledged is lost, not even when the daemon is killed meanwhile; and with room all goes on, without
# a restart.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

in_mount_namespace
need_image "$IMAGE"
export ORCHESTRATOR_MAX_VMS=1 ORCHESTRATOR_MIN_FREE_DISK=8M ORCHESTRATOR_BALLAST=4M

state=$ORCHESTRATOR_STATE_DIR
ballast=$state/ballast
mount -t tmpfs -o size=48m,mode=711 none "$state" || not_verified "cannot mount a tmpfs"

fill() {
	head -c 64M /dev/zero 2>/dev/null >"$state/filler" || true
	expect_equal "free bytes" 0 "$(($(stat -f -c '%a * %S' "$state")))"
}

# All goes on by itself.
make_room() {
	rm "$state/filler"
}

expect_refused() {
	expect_exit 125 orc submit "${JOB[@]}" -- true
	expect_match 'no jobs are taken below 8M' "$T/err"
}

still_queued() {
	sleep 2
	expect_equal "the state of the one that waits" queued "$(field "$1" .state)"
}

while_running() {
	local next
	start_job -- sh -c 'echo begun; sleep 4; head -c 3000000 /dev/zero; exit 3'
	next=$(orc submit "${JOB[@]}" -- echo next)
	fill
	expect_refused
	expect_exit 3 orc wait --timeout 60s "$id"
	orc status -o json "$id" >"$T/status"
	expect_equal outcome failed "$(jq -r .outcome "$T/status")"
	expect_equal "bytes written" 3000006 "$(jq .stdout.bytes "$T/status")"
	expect_equal flagged true "$(jq .stdout.truncated "$T/status")"
	expect_match '^stdout: disk full after [0-9]+ bytes$' <(jq -r .left_out "$T/status")
	[[ ! -e $ballast ]] || fail "the ballast is still there"
	[[ -s $(job_dir "$id")/result.json ]] || fail "there is no result.json"
	still_queued "$next"
	expect_refused
	make_room
	expect_exit 0 orc wait --timeout 60s "$next"
	expect_equal "the next one's output" next "$(cat "$(job_dir "$next")/stdout")"
	expect_equal "the ballast's size" 4194304 "$(stat -c %s "$ballast")"
}

# collecting CODE: of a job that ends with that code.
collecting() {
	start_job --output /tmp/big -- sh -c "echo begun; sleep 4
		head -c 3000000 /dev/zero >/tmp/big; exit $1"
	fill
	code=125 outcome=infra key=.error
	if (($1)); then
		code=$1 outcome=failed key=.left_out
	fi
	expect_exit "$code" orc wait --timeout 60s "$id"
	orc status -o json "$id" >"$T/status"
	expect_equal outcome "$outcome" "$(jq -r .outcome "$T/status")"
	expect_match 'disk full while writing artifacts' <(jq -r "$key" "$T/status")
	[[ ! -e $(job_dir "$id")/artifacts ]] || fail "artifacts look complete"
	make_room
}

# The next attempt waits for room, and has it.
tried_again() {
	cat >job.yaml <<-YAML
		image: $IMAGE
		resources: {memory: 128M}
		retry: {max_attempts: 2, on: [infra], backoff: 100ms}
		outputs: [/tmp/big]
		run: |
		  echo begun
		  sleep 4
		  head -c 3000000 /dev/zero >/tmp/big
	YAML
	id=$(orc submit job.yaml)
	wait_until 120 grep -qs begun "$(job_dir "$id")/stdout"
	fill
	wait_until 60 state_is "$id" queued
	still_queued "$id"
	make_room
	expect_exit 0 orc wait --timeout 60s "$id"
	orc status -o json "$id" >"$T/status"
	expect_equal attempt 2 "$(jq .attempt "$T/status")"
	expect_match 'disk full while writing artifacts' <(jq -r '.earlier_attempts[0].error' "$T/status")
	expect_equal "the output's size" 3000000 "$(stat -c %s "$(job_dir "$id")/artifacts/big")"
}

daemon_killed() {
	local next
	start_job -- sh -c 'echo begun; sleep 12; echo more; exit 5'
	next=$(orc submit "${JOB[@]}" -- echo next)
	fill
	kill -KILL "$(daemon_pid)"
	wait_until 30 no_daemon
	expect_exit 0 orc list jobs
	expect_exit 5 orc wait --timeout 60s "$id"
	expect_equal attempt 1 "$(field "$id" .attempt)"
	still_queued "$next"
	make_room
	expect_exit 0 orc wait --timeout 60s "$next"
}

repeat while_running
repeat collecting 0
repeat collecting 4
repeat tried_again
RENEWED=1 repeat daemon_killed

# The job's own disk is a file of the runtime directory: one that does not fit there is the program's
# error, and the VM lives.
scratch() {
	start_job --disk 64M -- sh -c 'echo begun; sleep 4
		dd if=/dev/zero of=/home/job/big bs=1M count=40 conv=fsync || exit 6'
	fill
	expect_exit 6 orc wait --timeout 60s "$id"
	make_room
}
orc stop
mkdir -m 711 "$state/run"
export ORCHESTRATOR_RUNTIME_DIR=$state/run
repeat scratch
