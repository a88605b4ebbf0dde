# shellcheck shell=bash
# libvirtd stands still (SIGSTOP), for seconds and for longer, and goes on, or is killed and started
# again: while a job runs, starts, is cancelled; while the daemon is stopped, and while one begins.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_image "$IMAGE"
. "$(dirname "${BASH_SOURCE[0]}")/../integration/session.sh"

export ORCHESTRATOR_MAX_VMS=2
# libvirt's name for the call, and how long.
no_answer='qemu:///session: libvirt (did not answer|has not answered) for [0-9]+ s \(vir[A-Za-z]+\); does libvirtd'

hang() {
	libvirtd=$(service_pid libvirtd) || fail "there is no libvirtd"
	kill -STOP "$libvirtd"
}

go_on() {
	kill -CONT "$libvirtd"
}

all_gone() {
	wait_until 240 nothing_left
}

# within SECONDS COMMAND...: it does not take longer.
within() {
	local limit=$1 begun=$SECONDS code=0
	shift
	"$@" || code=$?
	((SECONDS - begun <= limit)) && return "$code"
	echo "it took $((SECONDS - begun)) s, not $limit" >&2
	return 99
}

qemu_of() {
	orc list vms -o json | jq -r --arg job "$1" '.[] | select(.job == $job) | .pid'
}

# The order to start it is in libvirtd's socket then.
is_created() {
	[[ $(orc list vms -o json | jq -r --arg job "$1" '.[] | select(.job == $job) | .state') == creating ]]
}

# It was started when nobody waited for it any more; that is put right.
late_domains_go() {
	all_gone
	sleep 3
	all_gone
}

a_running_job_does_not_notice() {
	local id vm
	id=$(submit_slow)
	runs_with_bytes "$id" 300010
	vm=$(qemu_of "$id")
	hang
	expect_exit 0 within 5 orc list vms -o name
	expect_whole "$id"
	# Without libvirt, by its pid.
	wait_until 30 test ! -e "/proc/$vm/cmdline"
	go_on
	all_gone
}

a_start_waits_for_some_seconds() {
	local id
	hang
	id=$(submit_slow)
	sleep 8
	go_on
	expect_whole "$id"
	all_gone
}

# With a policy there is another attempt, which comes when libvirtd goes on.
a_start_fails_in_the_end() {
	local id retried
	hang
	id=$(submit_slow)
	retried=$(orc submit "$T/retried.yaml")
	expect_exit 125 orc wait --timeout 100s "$id"
	expect_equal outcome infra "$(field "$id" .outcome)"
	field "$id" .error
	expect_match "$no_answer" <(field "$id" .error)
	wait_until 60 second_attempt "$retried"
	go_on
	expect_exit 0 orc wait --timeout 150s "$retried"
	expect_equal "the second attempt's output" "done" "$(cat "$(job_dir "$retried")/stdout")"
	expect_equal "the first one's outcome" infra "$(field "$retried" '.earlier_attempts[0].outcome')"
	all_gone
}

cat >"$T/retried.yaml" <<YAML
image: $IMAGE
retry: {max_attempts: 2, on: [infra], backoff: 15s}
command: [echo, done]
YAML

# It waits for it, or has begun it.
second_attempt() {
	[[ $(field "$1" '.earlier_attempts | length') -ge 1 ]]
}

cancelled() {
	local id=$1
	expect_exit 0 within 5 orc cancel "$id"
	expect_exit 130 within 15 orc wait --timeout 60s "$id"
	expect_equal outcome cancelled "$(field "$id" .outcome)"
}

a_start_is_cancelled() {
	local id
	hang
	id=$(submit_slow)
	wait_until 20 is_created "$id"
	sleep 1
	cancelled "$id"
	go_on
	late_domains_go
}

a_running_job_is_cancelled() {
	local id vm
	id=$(submit_slow)
	runs_with_bytes "$id" 300010
	vm=$(qemu_of "$id")
	hang
	cancelled "$id"
	wait_until 15 test ! -e "/proc/$vm/cmdline"
	go_on
	all_gone
}

# One job runs, one starts. What libvirtd makes late of the second is the next daemon's to remove.
the_daemon_is_stopped() {
	local running starting
	running=$(submit_slow)
	runs_with_bytes "$running" 300010
	hang
	starting=$(submit_slow)
	wait_until 20 is_created "$starting"
	sleep 1
	expect_exit 0 within 30 orc stop
	wait_until 5 no_daemon
	go_on
	sleep 2
	expect_equal outcome cancelled "$(field "$running" .outcome)"
	expect_equal outcome cancelled "$(field "$starting" .outcome)"
	late_domains_go
}

# A daemon that begins without libvirtd follows the job all the same.
the_daemon_is_killed() {
	local id
	id=$(submit_slow)
	runs_with_bytes "$id" 300010
	hang
	kill -KILL "$(daemon_pid)"
	expect_exit 0 within 30 orc list jobs
	expect_whole "$id"
	go_on
	all_gone
}

killed_in_the_end() {
	local id
	hang
	id=$(submit_slow)
	sleep 5
	kill -KILL "$libvirtd"
	wait_until 30 no_libvirtd
	expect_whole "$id"
	all_gone
}

end_hung_services() {
	local code=$?
	set +e
	[[ ${libvirtd:-} ]] && kill -CONT "$libvirtd" 2>/dev/null
	(exit "$code")
	end_services
}
trap end_hung_services EXIT

expect_exit 0 orc run "${JOB[@]}" -- echo works
sample=(a_start_is_cancelled the_daemon_is_stopped)
all=(a_running_job_does_not_notice a_start_waits_for_some_seconds a_start_fails_in_the_end
	"${sample[@]}" a_running_job_is_cancelled the_daemon_is_killed killed_in_the_end)
if [[ ${FAULT_SAMPLE:-} ]]; then
	all=("${sample[@]}")
fi
for ((run = 1; run <= FAULT_RUNS; run++)); do
	for fault in "${all[@]}"; do
		begun=$SECONDS daemon=$(daemon_pid)
		"$fault"
		[[ $fault == the_daemon_* ]] ||
			expect_equal "the daemon's pid" "$daemon" "$(daemon_pid)"
		printf '%s %s: ok, %s s\n' "$run" "$fault" $((SECONDS - begun))
	done
done
expect_exit 0 orc stop
