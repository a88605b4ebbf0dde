# shellcheck shell=bash
# More memory than the host has; more than the guest has; as little as 128 MiB.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image debian

# What can never fit is refused at once, and is no job.
expect_exit 125 orc run --image debian --memory 256G -- true
expect_match 'the job wants 256G of memory, and this host gives its VMs' "$T/err"
expect_equal jobs "" "$(orc list jobs -o name)"

# Where the configuration lets VMs have more than there is, the host may still not have it.
orc stop
ORCHESTRATOR_MEMORY_OVERCOMMIT=10000 expect_exit 125 orc run --image debian --memory 256G -- true
expect_match 'not enough memory: the job asks for 256G' "$T/err"
expect_equal outcome oom_host "$(field "$(last_job)" .outcome)"
orc stop

expect_exit 0 orc run --image debian --memory 128M -- python3 -c 'print(1)'
expect_equal stdout 1 "$(cat "$T/out")"

expect_exit 137 orc run --image debian --memory 192M -- \
	python3 -c 'print("begun", flush=True); x = [bytearray(1 << 20) for i in range(1024)]'
expect_equal stdout begun "$(cat "$T/out")"
expect_match 'more memory than its VM has' "$T/err"
expect_equal outcome oom_guest "$(field "$(last_job)" .outcome)"
