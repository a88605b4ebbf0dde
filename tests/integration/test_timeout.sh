# shellcheck shell=bash
# A job that does not end in time: exit 124, and what it wrote before is kept.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

expect_exit 124 orc run --image "$IMAGE" --timeout 8s -- sh -c 'echo partial; sleep 300'
expect_equal stdout partial "$(cat "$T/out")"
expect_match 'timeout of 8' "$T/err"
id=$(last_job)
expect_equal outcome timeout "$(field "$id" .outcome)"
expect_equal kept partial "$(cat "$(job_dir "$id")/stdout")"

# One that does not want to hear SIGTERM is killed after its grace.
cat >job.yaml <<YAML
image: $IMAGE
run: |
  trap 'echo no' TERM
  echo begun
  while :; do sleep 1; done
timeout: 8s
stop_grace_period: 1s
YAML
expect_exit 124 orc run job.yaml
expect_match '^begun$' "$T/out"
