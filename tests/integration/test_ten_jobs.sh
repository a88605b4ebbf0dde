# shellcheck shell=bash
# Ten jobs at once with two VM slots: all done, in order, never more than two VMs.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
export ORCHESTRATOR_MAX_VMS=2

ids=()
for i in {1..10}; do
	ids+=("$(orc submit --image "$IMAGE" --name "job-$i" -- sh -c "echo $i; sleep 0.3")")
done
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
# A VM's time is from when its job was taken until it is destroyed.
expect_equal "most VMs at once" 2 "$(jq '[.[].times_usec | [.started, 1], [.destroyed, -1]] |
	sort | [foreach .[] as $e (0; . + $e[1])] | max' records)"
