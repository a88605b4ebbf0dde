# shellcheck shell=bash
# An emulated guest's clock runs like the host's, also where four are begun at once on a loaded host:
# job timeouts are the guest's to keep.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image minimal
[[ $(uname -m) == x86_64 ]] || not_verified "the time stamp counter is x86's"
export ORCHESTRATOR_ACCEL=tcg ORCHESTRATOR_MAX_VMS=4

for i in 1 2 3 4; do
	# shellcheck disable=SC2016 # the guest's shell expands it
	ids[i]=$(orc submit --image minimal --memory 96M -- sh -c \
		'grep MHz /proc/cpuinfo; read a b </proc/uptime; sleep 4; read c d </proc/uptime; echo $a $c')
done
for id in "${ids[@]}"; do
	expect_exit 0 orc wait --timeout 180s "$id"
	expect_match 'MHz.*: [1-9]' "$(job_dir "$id")/stdout"
	# Four seconds there are no less here. More they may be: it is told late.
	ran=$(jq '.times_usec | .program_ended - .program_started' "$(job_dir "$id")/result.json")
	((ran > 3900000)) || fail "a sleep of 4 s took $ran us"
	cat "$(job_dir "$id")/stdout"
done
