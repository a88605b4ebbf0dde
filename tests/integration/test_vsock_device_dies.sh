# shellcheck shell=bash
# The process of a VM's vsock device is killed under a running job: the job is told why, at once, and
# nothing is left behind.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
[[ ! -w /dev/vhost-vsock ]] || export ORCHESTRATOR_VSOCK=user

id=$(orc submit --image "$IMAGE" -- sh -c 'echo begun; sleep 300')
wait_until 120 grep -q begun "$(job_dir "$id")/stdout"
pid=
for stat in /proc/[0-9]*/cmdline; do
	words=$(tr '\0' ' ' 2>/dev/null <"$stat") || continue
	[[ $words == *vsock-device*"--uds $T/"* ]] || continue
	pid=${stat//[!0-9]/}
done
[[ $pid ]] || fail "this VM's vsock device is not found"
qemu=$(orc list vms -o json | jq -r '.[0].pid')
kill -KILL "$pid"
expect_exit 125 orc wait --timeout 60s "$id"
expect_exit 0 orc result "$id"
expect_match 'vsock device ended by signal 9' "$T/out"
wait_until 20 test ! -e "/proc/$qemu"
# The daemon goes on.
expect_exit 0 orc run --image "$IMAGE" -- true
wait_until 20 rmdir "$T/run/vm" # it is empty
