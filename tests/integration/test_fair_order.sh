# shellcheck shell=bash
# One VM slot: the urgent job first, then turns between the shares, the humble one last; and what can
# never fit is refused.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
export ORCHESTRATOR_MAX_VMS=1 ORCHESTRATOR_MEMORY_OVERCOMMIT=20

submit() {
	orc submit --image "$IMAGE" "$@" -- true
}

# Holds the slot until all others are in the queue.
first=$(orc submit --image "$IMAGE" -- sleep 20)
wait_until 120 state_is "$first" running
heavy_1=$(submit -l queue=heavy)
heavy_2=$(submit -l queue=heavy)
heavy_3=$(submit -l queue=heavy)
humble=$(submit -l queue=heavy --priority -50)
light=$(submit -l queue=light)
urgent=$(submit --priority 50)
expected="$urgent $heavy_1 $light $heavy_2 $heavy_3 $humble"

expect_equal "share of the light one" queue:light "$(field "$light" .share)"
expect_equal "share of the urgent one" "uid:$(id -u)" "$(field "$urgent" .share)"
expect_equal "priority of the humble one" -50 "$(field "$humble" .priority)"
orc list jobs -s queued -o json >queued
expect_equal "order in the queue" "$expected" \
	"$(jq -r 'sort_by(.queue_position) | map(.id) | join(" ")' queued)"
expect_equal "places in the queue" "1 2 3 4 5 6" \
	"$(jq -r 'map(.queue_position) | sort | map(tostring) | join(" ")' queued)"
expect_equal "jobs of the heavy one" 4 "$(orc list jobs -l queue=heavy -o name | wc -l)"

expect_exit 125 orc submit --image "$IMAGE" --memory 256G -- true
expect_match 'wants 256G of memory.*memory_overcommit.*could never start' "$T/err"
expect_equal "jobs after a refused one" 7 "$(orc list jobs -o name | wc -l)"

# shellcheck disable=SC2086 # ids
expect_exit 0 orc wait --timeout 5m $expected
for id in $expected; do
	orc status -o json "$id"
done | jq -s . >records
expect_equal "order of the starts" "$expected" \
	"$(jq -r 'sort_by(.times_usec.started) | map(.id) | join(" ")' records)"
