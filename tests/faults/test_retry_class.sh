# shellcheck shell=bash
# Each fault under a job that asks for another attempt when it ends so: as often as the fault comes the
# job has attempts, and no more; when it comes once, the next attempt's end is the job's; and a job that
# asks for other classes has one attempt. The VMs are those of a warm pool, as far as there are any.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
worker=$BUILD/failpoints/libexec/orchestrator/guest-worker
[[ -x $worker ]] || fail "there is no $worker: make failpoints"
export ORCHESTRATOR_VSOCK=user ORCHESTRATOR_MAX_VMS=5

# job_file CLASS [IMAGE [COMMAND]]
job_file() {
	cat <<-YAML
		image: ${2:-$IMAGE}
		resources: {cpus: 1, memory: 128M}
		retry: {max_attempts: 2, on: [$1], backoff: 100ms}
		run: |
		  echo begun
		  ${3:-sleep 300}
	YAML
}

attempt_runs() {
	[[ $(field "$1" .attempt) == "$2" && $(field "$1" .state) == running ]] &&
		grep -qs begun "$(job_dir "$1")/stdout"
}

# Sets qemu and device, of the VM that the job $1 is in for the N-th time.
vm_of_attempt() {
	wait_until 120 attempt_runs "$1" "$2"
	vm=$(field "$1" .vm)
	qemu=$(processes_with "qemu-system" "$vm/")
	# shellcheck disable=SC2034 # for the tests
	device=$(processes_with "vsock-device" "$vm/")
}

# attempts_were "1 CLASS, 2 CLASS": those before the last.
attempts_were() {
	expect_equal "attempts before the last" "$1" \
		"$(field "$id" '[.earlier_attempts[]? | "\(.attempt) \(.outcome)"] | join(", ")')"
}

# hit SIGNAL OF: whoever runs job $id, in its N-th attempt.
hit() {
	vm_of_attempt "$id" "$3"
	kill "-$1" "${!2}"
}

# of_process SIGNAL OF CLASS REGEX: three jobs at once, whose VMs are hit in each attempt, in the first
# one only, and once where the job asks for another class.
of_process() {
	local each once other
	each=$(orc submit "$3.yaml")
	once=$(orc submit "$3-once.yaml")
	other=$(orc submit failed.yaml)
	for id in "$once" "$each" "$other"; do
		hit "$1" "$2" 1
	done
	id=$each
	hit "$1" "$2" 2
	ended_as "$3" "$4" 120
	attempts_were "1 $3"
	id=$once
	expect_exit 0 orc wait --timeout 150s "$id"
	attempts_were "1 $3"
	expect_equal outcome succeeded "$(field "$id" .outcome)"
	id=$other
	ended_as "$3" "$4" 120
	attempts_were ""
	expect_equal attempt 1 "$(field "$id" .attempt)"
}

# of_guest CLASS REGEX IMAGE [COMMAND]: what the guest does by itself.
of_guest() {
	local other
	job_file "$1" "$3" "${4:-}" >job.yaml
	job_file failed "$3" "${4:-}" >other.yaml
	id=$(orc submit job.yaml)
	other=$(orc submit other.yaml)
	ended_as "$1" "$2" 150
	attempts_were "1 $1"
	id=$other
	ended_as "$1" "$2" 60
	attempts_were ""
}

# Killed while it boots.
booting() {
	local n
	job_file boot_failed slow >job.yaml
	id=$(orc submit job.yaml)
	for n in 1 2; do
		wait_until 60 attempt_boots "$n"
		kill -KILL "$(processes_with qemu-system "$(field "$id" .vm)/")"
	done
	ended_as boot_failed '^QEMU ended by signal 9 before the guest.s worker was ready'
	attempts_were "1 boot_failed"
}

attempt_boots() {
	[[ $(field "$id" .attempt) == "$1" ]] && [[ $(orc list vms -o json |
		jq -r --arg job "$id" '.[] | select(.job == $job) | .state') == booting ]]
}

for class in infra agent_lost failed; do
	job_file $class >$class.yaml
	job_file $class "$IMAGE" 'sleep 12' >$class-once.yaml
done
derive_slow_image
for action in crash hang; do
	derive_image "worker-$action" "$(image_file "$IMAGE" initramfs)"
	add_to_initramfs "worker-$action" "$worker" init
	set_cmdline "worker-$action" "ORCHESTRATOR_FAILPOINT=worker.output:1:$action"
done
derive_image fragile
set_cmdline fragile sysctl.vm.panic_on_oom=2

pool "$IMAGE" 1
repeat of_process KILL qemu infra '^QEMU ended by signal 9 under the job$'
repeat of_process KILL device infra "^the VM's vsock device ended by signal 9\$"
repeat booting
repeat of_guest guest_panic "^the guest's kernel panicked: Attempted to kill init!" worker-crash
repeat of_guest guest_panic "^the guest's kernel panicked: .*panic_on_oom" fragile \
	'for i in 1 2 3 4; do dd if=/dev/zero of=/dev/null bs=48M & done; wait'
# Silence is waited for, for half a minute an attempt.
if [[ ! ${FAULT_SAMPLE:-} ]]; then
	repeat of_process STOP qemu agent_lost 'the guest is up, but its worker does not answer'
	repeat of_guest agent_lost 'the guest is up, but its worker does not answer' worker-hang
fi
