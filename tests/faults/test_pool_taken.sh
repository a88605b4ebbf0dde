# shellcheck shell=bash
# A warm VM dies or falls silent when a job has just got it: either the job boots another VM, and nothing
# of it is seen; or its program had been ordered to start, and the attempt ends with its class, and
# another follows, since the job asks for that.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
worker=$BUILD/failpoints/libexec/orchestrator/guest-worker
[[ -x $worker ]] || fail "there is no $worker: make failpoints"
export ORCHESTRATOR_VSOCK=user

cold=0 again=0

# taken SIGNAL OF CLASS REGEX
taken() {
	local victim delay
	the_idle_vm
	victim=${!2} delay=$((RANDOM % 250))
	orc submit job-"$3".yaml >"$T/id" &
	sleep "0.$(printf %03d $delay)"
	kill "-$1" "$victim"
	wait $!
	id=$(cat "$T/id")
	expect_exit 0 orc wait --timeout 150s "$id"
	orc status -o json "$id" >"$T/status"
	expect_equal stdout "$(printf 'begun\nend')" "$(cat "$(job_dir "$id")/stdout")"
	case $(field "$id" .attempt) in
	1)
		expect_equal "its VM, after $delay ms" false "$(field "$id" .wall.warm)"
		cold=$((cold + 1))
		;;
	2)
		expect_equal "the first attempt, after $delay ms" "$3" \
			"$(field "$id" '.earlier_attempts[0].outcome')"
		expect_match "$4" <(field "$id" '.earlier_attempts[0].error')
		again=$((again + 1))
		;;
	*) fail "attempts: $(field "$id" .attempt)" ;;
	esac
}

for class in infra agent_lost; do
	cat >job-$class.yaml <<-YAML
		image: $IMAGE
		resources: {cpus: 1, memory: 128M}
		retry: {max_attempts: 2, on: [$class], backoff: 100ms}
		run: |
		  echo begun
		  sleep 2
		  echo end
	YAML
done
pool "$IMAGE" 1
repeat taken KILL qemu infra '^QEMU ended by signal 9 under the job$'
repeat taken KILL device infra "^the VM's vsock device ended by signal 9\$"
repeat taken STOP qemu agent_lost 'its worker does not answer'
echo "a cold VM: $cold, another attempt: $again"
expect_exit 0 orc stop

# The worker's last answer was before the job came; each VM of this image does so.
useless() {
	local n
	wait_until 120 one_idle_vm
	for n in 1 2; do
		expect_exit 0 orc run --image "answers-$1" --memory 128M -- echo works
		id=$(last_job)
		expect_equal "its VM" false "$(field "$id" .wall.warm)"
		expect_equal attempt 1 "$(field "$id" .attempt)"
		wait_until 60 failures_are "$n"
		wait_until 60 one_idle_vm
	done
}

failures_are() {
	[[ $(pool_info failures) == "$1" ]]
}

copy_image "$IMAGE" # for the other jobs
actions=(crash hang)
[[ ! ${FAULT_SAMPLE:-} ]] || actions=(crash)
for action in "${actions[@]}"; do
	derive_image "answers-$action" "$(image_file "$IMAGE" initramfs)"
	add_to_initramfs "answers-$action" "$worker" init
	# By the program that it is made to run first it has proved itself.
	set_cmdline "answers-$action" "ORCHESTRATOR_FAILPOINT=worker.addition:1:$action"
	pool "answers-$action" 1
	for ((run = 1; run <= FAULT_RUNS; run++)); do
		expect_exit 0 orc list jobs
		useless $action
		POOL_IDLE=0
		expect_exit 0 orc stop
		printf 'useless %s %d of %d: ok\n' "$action" "$run" "$FAULT_RUNS"
	done
done
