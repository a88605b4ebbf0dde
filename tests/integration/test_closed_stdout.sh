# shellcheck shell=bash
# A job that closes its output and goes on is waited for.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

cat >job.yaml <<YAML
image: $IMAGE
run: |
  echo before
  exec >&- 2>&-
  sleep 2
  date >/tmp/after
  exit 5
outputs: [/tmp/after]
YAML
expect_exit 5 orc run job.yaml
expect_equal stdout before "$(cat "$T/out")"
[[ -s $(job_dir "$(last_job)")/artifacts/after ]] || fail "it did not go on"
