# shellcheck shell=bash
# Ten jobs at once with two VM slots: all done, in order, never more than two VMs.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
export ORCHESTRATOR_MAX_VMS=2

# The pattern goes through a file, so that grep does not find itself.
printf '%s/vm/\n' "$ORCHESTRATOR_RUNTIME_DIR" >needle
qemus() {
	# The vsock devices name the directory too.
	{ grep -lsFf needle /proc/[0-9]*/cmdline || true; } |
		{ xargs -r grep -lsF qemu-system || true; } | wc -l
}

ids=()
for i in {1..10}; do
	ids+=("$(orc submit --image "$IMAGE" --name "job-$i" -- sh -c "echo $i; sleep 0.3")")
done
most=0 deadline=$((SECONDS + 300))
while [[ $(orc list jobs -s finished -o name | wc -l) -lt 10 ]]; do
	((SECONDS < deadline)) || fail "not done after 300 s"
	n=$(qemus)
	((n > most)) && most=$n
done
((most == 1 || most == 2)) || fail "$most QEMU processes at once"
orc list jobs -s finished -n 0 -o json | jq -r ".[].error // empty"
expect_exit 0 orc wait --timeout 5m "${ids[@]}"
for i in {1..10}; do
	expect_equal "output of job $i" "$i" "$(cat "$(job_dir "${ids[i - 1]}")/stdout")"
done
wait_until 60 bash -c "[[ -z \$('$ORC' list vms -o name) ]]"
orc list jobs -n 0 -o json >all
for id in "${ids[@]}"; do
	orc status -o json "$id"
done | jq -s . >records
expect_equal "jobs taken out of order" 0 "$(jq '[.[].times_usec.started] |
	[range(1; length) as $i | select(.[$i] < .[$i - 1])] | length' records)"
# From when it was taken until its outcome was recorded a job has its slot for sure.
expect_equal "most VMs at once" 2 "$(jq '[.[].times_usec | [.started, 1], [.recorded, -1]] |
	sort | [foreach .[] as $e (0; . + $e[1])] | max' records)"
