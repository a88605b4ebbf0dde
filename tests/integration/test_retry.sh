# shellcheck shell=bash
# QEMU is killed under a job that asks for other attempts: as often as it has attempts, or once. Who
# reads along is told, and the output of each attempt is kept.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

cat >job.yaml <<-YAML
	image: $IMAGE
	retry: {max_attempts: 3, backoff: 500ms}
	run: |
	  echo begun
	  sleep 300
YAML

# Attempt N runs: its output is in the job's directory, and its predecessor's is not any more.
attempt_runs() {
	[[ $(field "$1" .attempt) == "$2" && $(field "$1" .state) == running ]] &&
		grep -qs begun "$(job_dir "$1")/stdout"
}

kill_vm_of() {
	local pid
	pid=$(orc list vms -o json | jq -r --arg job "$1" '.[] | select(.job == $job) | .pid')
	[[ $pid =~ ^[1-9][0-9]*$ ]] || fail "list vms gives no pid: $pid"
	grep -qF "$T" "/proc/$pid/cmdline" || fail "process $pid is not this test's"
	kill -KILL "$pid"
}

id=$(orc submit job.yaml)
orc logs -f "$id" >followed.out 2>followed.err &
follower=$!
orc wait "$id" >waited.out 2>waited.err &
waiter=$!
for n in 1 2 3; do
	wait_until 120 attempt_runs "$id" "$n"
	kill_vm_of "$id"
done
code=0
wait "$waiter" || code=$?
expect_equal "the waiter's exit" 125 "$code"
expect_match 'attempt 1 of 3 ended: infra: .*; the next starts (in 1 s|now)' waited.err
expect_match 'attempt 2 of 3 ended: infra: ' waited.err
expect_equal outcome infra "$(field "$id" .outcome)"
expect_equal attempt 3 "$(field "$id" .attempt)"
expect_equal "earlier attempts" "1 infra, 2 infra" \
	"$(field "$id" '[.earlier_attempts[] | "\(.attempt) \(.outcome)"] | join(", ")')"
for n in 1 2; do
	expect_equal "stdout of attempt $n" begun "$(cat "$(job_dir "$id")/attempts/$n/stdout")"
	expect_equal "result.json of attempt $n" "$n infra" \
		"$(jq -r '"\(.attempt) \(.outcome)"' "$(job_dir "$id")/attempts/$n/result.json")"
	[[ -s $(job_dir "$id")/attempts/$n/console.log ]] || fail "attempt $n has no console.log"
	expect_exit 0 orc logs --attempt "$n" "$id"
	expect_equal "logs of attempt $n" begun "$(cat "$T/out")"
	expect_exit 0 orc result --attempt "$n" --output-dir "out-$n" "$id"
	expect_equal "results of attempt $n" begun "$(cat "out-$n/stdout")"
done
code=0
wait "$follower" || code=$?
expect_equal "the follower's exit" 125 "$code"
expect_equal followed "$(printf 'begun\nbegun\nbegun')" "$(cat followed.out)"
expect_match 'attempt 1 of 3 ended: infra: .*; the next starts (in 1 s|now)' followed.err
expect_match 'attempt 2 of 3 ended: infra: ' followed.err
expect_no_match 'attempt 3 of 3' followed.err
expect_exit 0 orc status "$id"
expect_match '^ +2  infra +125 ' "$T/out"
expect_exit 125 orc logs --attempt 4 "$id"
expect_match 'has no attempt 4' "$T/err"

# Its second attempt is let alone. Long enough for the first to be found running.
sed -i 's/sleep 300/sleep 25/' job.yaml
id=$(orc submit job.yaml)
wait_until 120 attempt_runs "$id" 1
kill_vm_of "$id"
expect_exit 0 orc wait --timeout 120s "$id"
expect_equal outcome succeeded "$(field "$id" .outcome)"
expect_equal attempt 2 "$(field "$id" .attempt)"
expect_equal "the first" infra "$(field "$id" '.earlier_attempts[0].outcome')"

# The daemon and the VM are killed: one more attempt, by the same rule.
id=$(orc submit job.yaml)
wait_until 120 attempt_runs "$id" 1
vm=$(orc list vms -o json | jq -r '.[0].pid')
kill -KILL "$(daemon_pid)" "$vm"
wait_until 30 no_daemon
expect_exit 0 orc status "$id"
expect_match 'the daemon ended while the job ran' "$T/out"
wait_until 120 attempt_runs "$id" 2
expect_exit 0 orc cancel "$id"
expect_exit 130 orc wait --timeout 60s "$id"
expect_equal "attempts" 2 "$(field "$id" .attempt)"

# A backoff is cancelled at once.
sed -i 's/500ms/10m/' job.yaml
id=$(orc submit job.yaml)
wait_until 120 attempt_runs "$id" 1
kill_vm_of "$id"
wait_until 60 state_is "$id" queued
expect_exit 0 orc cancel "$id"
expect_equal outcome cancelled "$(field "$id" .outcome)"
expect_exit 125 orc cancel "$id"
expect_match 'already ended' "$T/err"

# What has ended can be had again, with its inputs.
echo data >in
cat >job.yaml <<-YAML
	image: $IMAGE
	inputs: [{src: in, dest: /home/job/in}]
	command: [sh, -c, "cat /home/job/in; exit 4"]
YAML
expect_exit 4 orc run job.yaml
id=$(last_job)
rm in
expect_exit 4 orc retry -f "$id"
expect_equal "the second's output" data "$(cat "$T/out")"
again=$(last_job)
expect_equal "where it is from" "$id" "$(field "$again" .retried_from)"
expect_equal "its input's digest" "$(sha256sum <<<data | cut -d' ' -f1)" \
	"$(field "$again" '.inputs[0].sha256')"
