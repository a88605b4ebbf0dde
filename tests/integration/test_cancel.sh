# shellcheck shell=bash
# A running and a queued job are cancelled; what the first wrote is kept.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
export ORCHESTRATOR_MAX_VMS=1

id=$(orc submit --image "$IMAGE" -- sh -c 'echo begun; sleep 300')
queued=$(orc submit --image "$IMAGE" -- true)
wait_until 120 grep -q begun "$(job_dir "$id")/stdout"
expect_equal "the second's state" queued "$(field "$queued" .state)"
expect_exit 0 orc cancel "$queued"
expect_exit 0 orc cancel "$id"
expect_exit 130 orc wait --timeout 60s "$id"
expect_exit 130 orc wait --timeout 60s "$queued"
expect_equal outcome cancelled "$(field "$id" .outcome)"
expect_equal kept begun "$(cat "$(job_dir "$id")/stdout")"
wait_until 60 bash -c "[[ -z \$('$ORC' list vms -o name) ]]"
