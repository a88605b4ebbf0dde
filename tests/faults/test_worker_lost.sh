# shellcheck shell=bash
# The worker, PID 1 of its guest, crashes: its kernel panics of that, and says so. The worker hangs,
# all threads of it: it is lost within the deadline of the connection. Both by a worker that has places
# for it (common/failpoint.h): before it has proved itself, while the program runs, while the outputs
# are fetched.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
worker=$BUILD/failpoints/libexec/orchestrator/guest-worker
[[ -x $worker ]] || fail "there is no $worker: make failpoints"
points=(worker.hello worker.output worker.outputs)
export ORCHESTRATOR_MAX_VMS=${#points[@]}

# lost ACTION OUTCOME REGEX SECONDS: at all places at once, in a VM each.
lost() {
	local point
	local -A ids
	for point in "${points[@]}"; do
		ids[$point]=$(orc submit --image "$point-$1" --memory 128M --output /tmp/out -- \
			sh -c 'echo begun; echo x >/tmp/out; sleep 2')
	done
	for point in "${points[@]}"; do
		id=${ids[$point]}
		ended_as "$2" "$3" "$4"
		if [[ $point != worker.hello ]]; then
			expect_equal "what came before" begun "$(cat "$(job_dir "$id")/stdout")"
		fi
		[[ ! -e $(job_dir "$id")/artifacts ]] || fail "artifacts look complete"
	done
}

copy_image "$IMAGE" # for the next jobs
for point in "${points[@]}"; do
	for action in crash hang; do
		derive_image "$point-$action" "$(image_file "$IMAGE" initramfs)"
		add_to_initramfs "$point-$action" "$worker" init
		set_cmdline "$point-$action" "ORCHESTRATOR_FAILPOINT=$point:1:$action"
	done
done
repeat lost crash guest_panic \
	"the guest's kernel panicked: Attempted to kill init! exitcode=0x00000004" 40
repeat lost hang agent_lost 'the guest is up, but its worker does not answer' 60
