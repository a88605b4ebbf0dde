# shellcheck shell=bash
# Jobs are cancelled in each state that they have with a VM, and in the queue: what they wrote is
# kept, and the VM goes.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
export ORCHESTRATOR_MAX_VMS=1

no_vm() {
	[[ -z $(orc list vms -o name) ]]
}

# cancelled ID: told to end, it does, and leaves no VM; a second time is an error.
cancelled() {
	expect_exit 0 orc cancel "$1"
	expect_exit 130 orc wait --timeout 60s "$1"
	expect_equal outcome cancelled "$(field "$1" .outcome)"
	wait_until 60 no_vm
	expect_exit 125 orc cancel "$1"
	expect_match "job $1 has already ended \(cancelled\)" "$T/err"
}

id=$(orc submit --image "$IMAGE" -- sh -c 'echo begun; sleep 300')
queued=$(orc submit --image "$IMAGE" -- true)
wait_until 120 grep -q begun "$(job_dir "$id")/stdout"
expect_equal "the second's state" queued "$(field "$queued" .state)"
expect_exit 0 orc cancel "$queued"
expect_exit 130 orc wait --timeout 60s "$queued"
cancelled "$id"
expect_equal kept begun "$(cat "$(job_dir "$id")/stdout")"

# Several at once; one that has ended does not save the other.
id=$(orc submit --image "$IMAGE" -- sleep 300)
wait_until 60 state_is "$id" starting
expect_exit 125 orc cancel "$queued" "$id"
expect_match 'already ended' "$T/err"
expect_exit 130 orc wait --timeout 60s "$id"
wait_until 60 no_vm

# While its VM boots.
id=$(orc submit --image "$IMAGE" -- sleep 300)
wait_until 60 state_is "$id" starting
cancelled "$id"

# While its files go in: they take a while.
sends_inputs() {
	[[ $(field "$1" '.times_usec | has("worker_ready") and (has("inputs_sent") | not)') == true ]]
}
truncate -s 300M big
id=$(orc submit --image "$IMAGE" --disk 400M --input big:/home/job/big -- sleep 300)
wait_until 120 sends_inputs "$id"
cancelled "$id"
expect_equal "was it begun" null "$(field "$id" .times_usec.program_started)"

# While its files come home.
cat >job.yaml <<YAML
image: $IMAGE
working_dir: /home/job
outputs: [big]
resources: {disk: 400M}
run: head -c 300000000 /dev/zero >big
YAML
id=$(orc submit job.yaml)
wait_until 180 state_is "$id" collecting
cancelled "$id"

# The program hears of it before it is killed, if it wants to.
cat >job.yaml <<YAML
image: $IMAGE
stop_grace_period: 20s
run: |
  trap 'echo told; exit 0' TERM
  echo begun
  while :; do sleep 0.1; done
YAML
id=$(orc submit job.yaml)
wait_until 120 grep -q begun "$(job_dir "$id")/stdout"
cancelled "$id"
expect_match '^told$' "$(job_dir "$id")/stdout"

# If not, it is killed when its grace is over.
sed -i "s/20s/1s/; s/trap .* TERM/trap '' TERM/" job.yaml
id=$(orc submit job.yaml)
wait_until 120 grep -q begun "$(job_dir "$id")/stdout"
cancelled "$id"
