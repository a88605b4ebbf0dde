# shellcheck shell=bash
# What idles in a warm pool dies, or falls silent: no job is told anything of it, another comes in its
# place, `list pools` says why, and it is one that works. An image whose VMs all do so makes no storm of
# boots.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
worker=$BUILD/failpoints/libexec/orchestrator/guest-worker
[[ -x $worker ]] || fail "there is no $worker: make failpoints"
export ORCHESTRATOR_VSOCK=user

# All VMs that were there since, one a line.
vms_seen() {
	orc list vms -o name >>"$T/seen"
	sort -u "$T/seen"
}

# lost SIGNAL OF REGEX SECONDS: the idle VM's QEMU or device gets the signal.
lost() {
	local victim
	the_idle_vm
	victim=$idle
	: >"$T/seen"
	kill "-$1" "${!2}"
	wait_until "$4" pool_says "$3"
	wait_until 60 another_idle_vm "$victim"
	wait_until 30 test ! -e "/proc/$qemu"
	# One for one.
	expect_equal "VMs since" 1 "$(vms_seen | wc -l)"
	expect_exit 0 orc run "${JOB[@]}" -- echo works
	expect_equal "did the next job find it" true "$(field "$(last_job)" .wall.warm)"
}

pool "$IMAGE" 1
repeat lost KILL qemu '^QEMU ended by signal 9$' 20
repeat lost KILL device "^the VM's vsock device ended by signal 9\$" 20
repeat lost STOP qemu 'its worker does not answer' 60
expect_exit 0 orc stop

# Each VM of the image dies, or falls silent, half a second after it has nothing to do.
useless() {
	local image=$1 reason=$2 vms begun
	pool "$image" 2
	expect_exit 0 orc list jobs
	: >"$T/seen"
	wait_until 120 pool_says "$reason"
	begun=$SECONDS
	# Of a loop there would be dozens.
	while ((SECONDS < begun + 40)); do
		vms_seen >/dev/null
		sleep 0.2
	done
	vms=$(vms_seen | wc -l)
	((vms <= 8)) || fail "$vms VMs in $((SECONDS - begun)) s"
	expect_match '^(backing off|open|trial)$' <(pool_info state)
	pool_says "$reason" || fail "the reason is now: $(pool_info reason)"
	# No other image is held up.
	expect_exit 0 orc run "${JOB[@]}" -- echo works
	POOL_IDLE=0
	expect_exit 0 orc stop
	wait_until 10 no_daemon
	expect_equal "what is left" "" "$(processes_with '')$(ls "$ORCHESTRATOR_RUNTIME_DIR/vm")"
	printf '%s: ok, %d VMs in 40 s\n' "$image" "$vms"
}

copy_image "$IMAGE" # for the other jobs
actions=(crash hang)
[[ ! ${FAULT_SAMPLE:-} ]] || actions=(crash)
for action in "${actions[@]}"; do
	derive_image "spare-$action" "$(image_file "$IMAGE" initramfs)"
	add_to_initramfs "spare-$action" "$worker" init
	set_cmdline "spare-$action" "ORCHESTRATOR_FAILPOINT=worker.spare:1:$action"
done
for ((run = 1; run <= FAULT_RUNS; run++)); do
	# On a busy host it hangs before it has proved itself, or while it does.
	useless spare-crash "the guest's kernel panicked: Attempted to kill init!"
	[[ ${FAULT_SAMPLE:-} ]] || useless spare-hang 'its worker does not answer'
done
