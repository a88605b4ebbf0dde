# shellcheck shell=bash
# The host's disk is full while output and files come in.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

in_mount_namespace
need_image "$IMAGE"

mkdir "$ORCHESTRATOR_STATE_DIR/jobs"
mount -t tmpfs -o size=24m,mode=700 none "$ORCHESTRATOR_STATE_DIR/jobs" ||
	not_verified "cannot mount a tmpfs"

expect_exit 125 orc run --image "$IMAGE" --output /tmp/big -- \
	sh -c 'echo begun; head -c 64M /dev/zero >/tmp/big'
expect_match 'disk full while writing artifacts' "$T/err"
id=$(last_job)
expect_equal outcome infra "$(field "$id" .outcome)"
expect_equal "what came before" begun "$(cat "$(job_dir "$id")/stdout")"
[[ ! -e $(job_dir "$id")/artifacts ]] || fail "artifacts look complete"

cat >job.yaml <<YAML
image: $IMAGE
run: head -c 64M /dev/zero
limits: {output: 256M}
YAML
orc run job.yaml >/dev/null 2>"$T/err" && fail "succeeded on a full disk"
expect_match 'disk full while writing stdout' "$T/err"
expect_equal flagged true "$(field "$(last_job)" .stdout.truncated)"

# The daemon lives, and with room it goes on.
rm -rf "$ORCHESTRATOR_STATE_DIR"/jobs/*
expect_exit 0 orc run --image "$IMAGE" -- true

# Below the reserve no job is taken.
orc stop
export ORCHESTRATOR_MIN_FREE_DISK=1T
expect_exit 125 orc submit --image "$IMAGE" -- true
expect_match 'no jobs are taken below' "$T/err"
