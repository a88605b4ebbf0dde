# shellcheck shell=bash
# Faults that come together: the daemon dies and the VM with it, the daemon dies again while it takes
# jobs up, while a cancel waits for its grace, while much comes home; and the machine itself starts anew.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

in_mount_namespace
need_image "$IMAGE"
export ORCHESTRATOR_VSOCK=user
RENEWED=1

# job_file NAME LINES...: of the job's program.
job_file() {
	cat >"$1.yaml" <<-YAML
		image: $IMAGE
		resources: {cpus: 1, memory: 128M}
		retry: {max_attempts: 2, backoff: 100ms}
		run: |
	YAML
	printf '  %s\n' "${@:2}" >>"$1.yaml"
}
job_file ten 'echo begun' 'sleep 10' 'echo end'

begun() {
	[[ $(field "$1" .attempt) == "$2" ]] && grep -qs begun "$(job_dir "$1")/stdout"
}

# Jobs in VMs of their own and in a warm one, and an idle VM: all of it dies in one moment.
with_all_vms() {
	local job ids=() pids
	the_idle_vm
	for job in 1 2; do
		ids+=("$(orc submit ten.yaml)")
	done
	for job in "${ids[@]}"; do
		wait_until 120 begun "$job" 1
	done
	mapfile -t pids < <(processes_with qemu-system)
	kill -KILL "$(daemon_pid)" "${pids[@]}"
	wait_until 30 no_daemon
	for job in "${ids[@]}"; do
		expect_exit 0 orc wait --timeout 120s "$job"
		expect_equal attempts 2 "$(field "$job" .attempt)"
		expect_equal "the first" infra "$(field "$job" '.earlier_attempts[0].outcome')"
		expect_match 'the daemon ended while the job ran' \
			<(field "$job" '.earlier_attempts[0].error')
		expect_equal stdout "$(printf 'begun\nend')" "$(cat "$(job_dir "$job")/stdout")"
	done
}

# A daemon that was killed is followed by two that are killed after some hundredths of a second.
again_in_adoption() {
	local n pid first second
	first=$(orc submit ten.yaml)
	wait_until 120 begun "$first" 1
	second=$(orc submit ten.yaml)
	kill -KILL "$(daemon_pid)"
	wait_until 30 no_daemon
	for n in 1 2; do
		"$ORC" serve >>"$ORCHESTRATOR_STATE_DIR/daemon.log" 2>&1 </dev/null &
		pid=$!
		sleep "0.$(printf %03d $((RANDOM % 700)))"
		kill -KILL $pid
		wait $pid 2>/dev/null || true
		wait_until 30 no_daemon
	done
	for n in "$first" "$second"; do
		expect_exit 0 orc wait --timeout 120s "$n"
		expect_equal stdout "$(printf 'begun\nend')" "$(cat "$(job_dir "$n")/stdout")"
		expect_equal "failed attempts of $n" 0 \
			"$(field "$n" '[.earlier_attempts[]? | select(.error | test("before the program") | not)] | length')"
	done
	expect_equal "attempts of the one that ran" 1 "$(field "$first" .attempt)"
}

# The program has been told to end, and takes its time. That it was cancelled was not acknowledged to
# anybody when the daemon died, but the guest knows.
in_grace() {
	local begun cancel
	id=$(orc submit graceful.yaml)
	wait_until 120 begun "$id" 1
	orc cancel "$id" >"$T/cancel.out" 2>&1 </dev/null &
	cancel=$!
	wait_until 60 grep -q told "$(job_dir "$id")/stdout"
	kill -KILL "$(daemon_pid)"
	wait_until 30 no_daemon
	begun=$SECONDS
	expect_exit 130 orc wait --timeout 60s "$id"
	((SECONDS - begun <= 45)) || fail "it took $((SECONDS - begun)) s"
	wait "$cancel" || true
	expect_equal outcome cancelled "$(field "$id" .outcome)"
	expect_equal attempt 1 "$(field "$id" .attempt)"
}
job_file graceful "trap 'echo told' TERM" 'echo begun' \
	'i=0; while [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done'
echo 'stop_grace_period: 8s' >>graceful.yaml

# One VM stands still, another is half made, the third is well: neither of the others keeps the third
# from being taken up soon.
with_a_silent_vm() {
	local silent well begun
	silent=$(orc submit once.yaml)
	wait_until 120 begun "$silent" 1
	well=$(orc submit ten.yaml)
	wait_until 120 begun "$well" 1
	id=$(orc submit ten.yaml)
	kill -STOP "$(processes_with qemu-system "$(field "$silent" .vm)/")"
	sleep "0.$(printf %03d $((RANDOM % 700)))"
	kill -KILL "$(daemon_pid)"
	wait_until 30 no_daemon
	begun=$SECONDS
	expect_exit 0 orc list jobs
	wait_until 10 grep -q "$well: taken up in" "$ORCHESTRATOR_STATE_DIR/daemon.log"
	((SECONDS - begun <= 10)) || fail "taken up after $((SECONDS - begun)) s"
	for id in "$well" "$id"; do
		expect_exit 0 orc wait --timeout 120s "$id"
		expect_equal stdout "$(printf 'begun\nend')" "$(cat "$(job_dir "$id")/stdout")"
	done
	id=$silent
	ended_as 'agent_lost|infra' 'does not answer|keepalive' 90
}

# A hundred MiB come home.
while_collecting() {
	id=$(orc submit big.yaml)
	wait_until 200 some_came
	kill -KILL "$(daemon_pid)"
	wait_until 30 no_daemon
	[[ ! -e $(job_dir "$id")/artifacts ]] || echo "they had come already"
	expect_exit 0 orc wait --timeout 180s "$id"
	expect_equal attempt 1 "$(field "$id" .attempt)"
	expect_equal "what came" "$(head -c 104857600 /dev/zero | sha256sum)" \
		"$(find "$(job_dir "$id")/artifacts" -type f -exec cat {} + | sha256sum)"
	[[ ! -e $(job_dir "$id")/artifacts.partial ]] || fail "artifacts.partial is left"
}
some_came() {
	[[ $(find "$(job_dir "$id")/artifacts.partial" -type f -size +$((RANDOM % 40))M 2>/dev/null) ]]
}
job_file big 'echo begun' 'head -c 104857600 /dev/zero >/tmp/big'
sed -i 's/memory: 128M/memory: 384M/; s/^run:/outputs: [\/tmp\/big]\nrun:/' big.yaml

# The machine starts anew: no process is there, the runtime directory is empty, the kernel is another.
after_reboot() {
	local running waiting once pids
	running=$(orc submit ten.yaml)
	once=$(orc submit once.yaml)
	wait_until 120 begun "$running" 1
	wait_until 120 begun "$once" 1
	waiting=$(orc submit ten.yaml)
	mapfile -t pids < <(processes_with '')
	kill -KILL "$(daemon_pid)" "${pids[@]}"
	wait_until 30 no_daemon
	wait_until 30 test -z "$(processes_with '')"
	find "$ORCHESTRATOR_RUNTIME_DIR" -mindepth 1 -delete
	cat /proc/sys/kernel/random/uuid >"$T/boot_id"
	mount --bind "$T/boot_id" /proc/sys/kernel/random/boot_id
	for id in "$running" "$waiting"; do
		expect_exit 0 orc wait --timeout 120s "$id"
		expect_equal stdout "$(printf 'begun\nend')" "$(cat "$(job_dir "$id")/stdout")"
	done
	expect_equal "attempts of the one that ran" 2 "$(field "$running" .attempt)"
	expect_equal "its first" infra "$(field "$running" '.earlier_attempts[0].outcome')"
	id=$once
	ended_as infra 'the daemon ended while the job ran'
	umount /proc/sys/kernel/random/boot_id
}
job_file once 'echo begun' 'sleep 60'
sed -i '/^retry/d' once.yaml

repeat again_in_adoption
repeat with_a_silent_vm
repeat in_grace
repeat while_collecting
repeat after_reboot
expect_exit 0 orc stop
pool "$IMAGE" 1
repeat with_all_vms
