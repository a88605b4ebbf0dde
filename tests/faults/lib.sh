# shellcheck shell=bash
# What every test of a fault begins with. A fault is a function that makes it and says what must come
# of it; `repeat` calls it FAULT_RUNS times, one daemon for all, and looks after each whether that
# daemon lives, whether anything is left over, and whether the next job works.
. "$(dirname "${BASH_SOURCE[0]}")/../integration/lib.sh"

FAULT_RUNS=${FAULT_RUNS:-1}
IMAGE=${FAULT_IMAGE:-minimal}
# A trial guest is not what the faults are for.
export ORCHESTRATOR_ACCEL=${ORCHESTRATOR_ACCEL:-tcg}
JOB=(--image "$IMAGE" --memory 128M)
POOL_IDLE=0

# processes_with WORD [WORD]: those that have both and this test's runtime directory in their command
# line. The directory goes through a file, so that grep does not find itself.
processes_with() {
	local file line
	printf '%s/vm/\n' "$ORCHESTRATOR_RUNTIME_DIR" >"$T/needle"
	for file in $(grep -lsFf "$T/needle" /proc/[0-9]*/cmdline); do
		line=$(tr '\0' ' ' 2>/dev/null <"$file") || continue
		if [[ $line == *"$1"* && $line == *"${2:-}"* ]]; then
			tr -cd '0-9\n' <<<"$file"
		fi
	done
}

# Wait until there is one, and name it.
process_appears() {
	local found deadline=$((SECONDS + 60))
	until found=$(processes_with "$1") && [[ $found ]]; do
		((SECONDS < deadline)) || fail "no process with $1 appears"
		sleep 0.05
	done
	head -n 1 <<<"$found"
}

# An image whose guest never says that it is ready, so that whoever wants to meet it while it boots
# comes in time.
derive_slow_image() {
	local worker=$BUILD/failpoints/libexec/orchestrator/guest-worker
	[[ -x $worker ]] || fail "there is no $worker: make failpoints"
	copy_image "$IMAGE" # for the next jobs
	derive_image slow "$(image_file "$IMAGE" initramfs)"
	add_to_initramfs slow "$worker" init
	set_cmdline slow ORCHESTRATOR_FAILPOINT=worker.ready:1:hang
}

vm_boots() {
	[[ $(orc list vms -o json | jq -r '.[0].state') == booting ]]
}

# start_job ARGUMENT...: submit, and wait until the program has said "begun": sets id, vm, qemu, device.
# Without arguments it says so and sleeps.
start_job() {
	(($#)) || set -- -- sh -c 'echo begun; sleep 300'
	id=$(orc submit "${JOB[@]}" "$@")
	wait_until 120 grep -qs begun "$(job_dir "$id")/stdout"
	vm=$(field "$id" .vm)
	qemu=$(processes_with "qemu-system" "$vm/")
	# shellcheck disable=SC2034 # for the tests
	device=$(processes_with "vsock-device" "$vm/")
	[[ $qemu =~ ^[0-9]+$ ]] || fail "not one QEMU of $vm runs, but: ${qemu:-none}"
}

# ended_as OUTCOME REGEX [SECONDS]: job $id ends so within the time, with such words in its record.
ended_as() {
	expect_exit 125 orc wait --timeout "${3:-60}s" "$id"
	orc status -o json "$id" >"$T/status"
	jq -r .error "$T/status" | tee "$T/words"
	expect_match "^($1)\$" <(jq -r .outcome "$T/status")
	expect_match "$2" "$T/words"
	expect_equal "the exit code of its record" 125 "$(jq -r .exit_code "$T/status")"
}

cgroups_left() {
	local vm=$1
	[[ $vm ]] && find /sys/fs/cgroup -type d -name "*${vm#vm-}*" 2>/dev/null
}

# pool IMAGE N: from the next daemon on there is a pool, with N idle VMs that fit ${JOB[@]}.
pool() {
	POOL_IDLE=$2
	mkdir -p "$XDG_CONFIG_HOME/orchestrator"
	echo "pool: {$1: {min_idle: $2, max: $(($2 + 1)), cpus: 1, memory: 128M}}" \
		>"$XDG_CONFIG_HOME/orchestrator/orchestrator.yaml"
}

no_pool() {
	POOL_IDLE=0
	rm -f "$XDG_CONFIG_HOME/orchestrator/orchestrator.yaml"
}

idle_vms() {
	orc list vms -o json | jq -r '.[] | select(.state == "idle") | .id'
}

# Sets idle, qemu, device: of the one VM that waits.
the_idle_vm() {
	expect_exit 0 orc list jobs
	wait_until 120 one_idle_vm
	idle=$(idle_vms)
	qemu=$(processes_with "qemu-system" "$idle/")
	# shellcheck disable=SC2034 # for the tests
	device=$(processes_with "vsock-device" "$idle/")
	[[ $qemu =~ ^[0-9]+$ ]] || fail "not one QEMU of $idle runs, but: ${qemu:-none}"
}

one_idle_vm() {
	[[ $(idle_vms | wc -l) == 1 ]]
}

another_idle_vm() {
	local vms
	vms=$(idle_vms) && [[ $vms && $vms != *"$1"* ]]
}

# pool_info FIELD: of the first pool.
pool_info() {
	orc list pools -o json | jq -r ".[0].$1"
}

pool_says() {
	[[ $(pool_info reason) =~ $1 ]]
}

# Of whatever VM, but those that wait in a pool: no process, domain, socket, file, note or control
# group.
nothing_left() {
	local vms n=$((POOL_IDLE))
	vms=$(orc list vms -o json) || return
	[[ $(jq length <<<"$vms") == "$n" && $(jq '[.[] | select(.state == "idle")] | length' <<<"$vms") == "$n" ]] &&
		[[ $(processes_with qemu-system | wc -l) == "$n" ]] &&
		[[ $(processes_with '' | wc -l) -le $((2 * n)) ]] &&
		[[ $(ls -A "$ORCHESTRATOR_RUNTIME_DIR/vm") == "$(jq -r '.[].id' <<<"$vms" | sort)" ]] &&
		[[ $n != 0 || -z $(find "$ORCHESTRATOR_RUNTIME_DIR" -type s ! -name control.sock) ]] &&
		[[ $(libvirt_files) == $((LIBVIRT_FILES * n)) ]] &&
		! compgen -G "$ORCHESTRATOR_STATE_DIR/jobs/*/vm.json" &&
		[[ -z $(cgroups_left "$(jq -r '.vm // empty' "$T/status" 2>/dev/null)") ]]
}

# What the embedded driver writes of each domain: status, pid, three directories, QEMU's log.
LIBVIRT_FILES=6
libvirt_files() {
	find "$ORCHESTRATOR_STATE_DIR/libvirt" -name '*vm-*' -prune 2>/dev/null | wc -l
}

expect_nothing_left() {
	# A pool is filled again, after a pause if something of it failed. After a daemon's end libvirt may
	# need half a minute to see that a QEMU is gone.
	wait_until $((30 + ${RENEWED:-0} * 30 + 60 * POOL_IDLE)) nothing_left
}

descriptors() {
	local all=(/proc/"$1"/fd/*)
	echo "${#all[@]}"
}

next_job_works() {
	expect_exit 0 orc run "${JOB[@]}" -- echo works
	expect_equal "the next job's output" works "$(cat "$T/out")"
}

# repeat FUNCTION [ARGUMENT...]; RENEWED=1: the fault itself ends the daemon.
repeat() {
	local run pid first='' begun
	for ((run = 1; run <= FAULT_RUNS; run++)); do
		begun=$SECONDS
		rm -f "$T/status"
		"$@"
		expect_nothing_left
		next_job_works
		expect_nothing_left
		pid=$(daemon_pid) || fail "the daemon is gone"
		# What libvirt and gRPC open once is there after the first.
		if [[ ! $first || ${RENEWED:-} ]]; then
			first=$pid open=$(descriptors "$pid")
		fi
		expect_equal "the daemon's pid" "$first" "$pid"
		(($(descriptors "$pid") <= open + 8)) ||
			fail "the daemon had $open open files, and has $(descriptors "$pid")"
		printf '%s %d of %d: ok, %d s\n' "$*" "$run" "$FAULT_RUNS" $((SECONDS - begun))
	done
}

# derive_image NAME [FILE...]: an image of that name, the same as $IMAGE; what is named after it is
# copied, so that it may be changed.
# shellcheck disable=SC2016 # jq expands it
derive_image() {
	link_image "$IMAGE" "$@"
	change_manifest "$1" '.name = $value' "$1"
}

# change_manifest NAME FILTER VALUE: by jq, with VALUE as $value; its own digest follows
# (orchestrator/image_manifest.c).
# shellcheck disable=SC2016 # jq expands it
change_manifest() {
	local file=$T/images/$1/manifest.json digest
	jq --arg value "$3" "$2" "$file" >"$file.new"
	digest=$(jq -r '"orchestrator image \(.format)\ncmdline \(.kernel.cmdline)\nroot_type \(.root_type)",
		(("kernel", "initramfs", "root") as $f | .files[$f] as $v | "\($f) \($v.size) \($v.sha256)")' \
		"$file.new" | sha256sum | cut -d' ' -f1)
	jq --arg digest "sha256:$digest" '.digest = $digest' "$file.new" >"$file"
}

# shellcheck disable=SC2016 # jq expands it
set_cmdline() {
	change_manifest "$1" '.kernel.cmdline = $value' "$2"
}

# One entry of a cpio archive, as the kernel reads it: cpio_entry NAME MODE [FILE]
cpio_entry() {
	local size=0
	[[ -z ${3:-} ]] || size=$(stat -c %s "$3")
	printf '070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\0' \
		1 "$2" 0 0 1 0 "$size" 0 0 0 0 $((${#1} + 1)) 0 "$1"
	head -c $(((4 - (110 + ${#1} + 1) % 4) % 4)) /dev/zero
	[[ -z ${3:-} ]] || cat "$3"
	head -c $(((4 - size % 4) % 4)) /dev/zero
}

# add_to_initramfs IMAGE FILE NAME: in an archive behind the first, whose files win.
# shellcheck disable=SC2016 # jq expands it
add_to_initramfs() {
	local to
	to=$T/images/$1/$(image_file "$IMAGE" initramfs)
	cp "$to" "$to.new"
	{
		head -c $(((4 - $(stat -c %s "$to") % 4) % 4)) /dev/zero
		cpio_entry "$3" 0100755 "$2"
		cpio_entry 'TRAILER!!!' 0
	} >>"$to.new"
	mv "$to.new" "$to"
	change_manifest "$1" '.files.initramfs.size = ($value | tonumber)' "$(stat -c %s "$to")"
}
