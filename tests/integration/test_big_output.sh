# shellcheck shell=bash
# 1 GiB of output: capped, counted and flagged.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

expect_exit 0 orc run --image "$IMAGE" -- head -c 1G /dev/zero
expect_equal "bytes kept" $((16 << 20)) "$(stat -c %s "$T/out")"
expect_match 'wrote more than limits.output' "$T/err"
id=$(last_job)
expect_equal "bytes counted" $((1 << 30)) "$(field "$id" .stdout.bytes)"
expect_equal flagged true "$(field "$id" .stdout.truncated)"
expect_equal "the other stream's flag" false "$(field "$id" .stderr.truncated)"
expect_equal "the file" $((16 << 20)) "$(stat -c %s "$(job_dir "$id")/stdout")"
