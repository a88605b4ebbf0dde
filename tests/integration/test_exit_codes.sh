# shellcheck shell=bash
# The job's own exit code is the command's; so are 126, 127 and 128+n. Both streams stay apart.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

expect_exit 7 orc run --image "$IMAGE" -- sh -c 'echo to-out; echo to-err >&2; exit 7'
expect_equal stdout to-out "$(cat "$T/out")"
expect_match '^to-err$' "$T/err"
expect_no_match to-out "$T/err"

expect_exit 127 orc run --image "$IMAGE" -- no-such-command --flag
expect_match 'no-such-command' "$T/err"

expect_exit 126 orc run --image "$IMAGE" -- /etc/passwd
expect_match '/etc/passwd' "$T/err"

expect_exit 143 orc run --image "$IMAGE" -- sh -c 'kill -TERM $$; sleep 60'
expect_match 'signal 15' "$T/err"
id=$(last_job)
expect_equal signal 15 "$(field "$id" .signal)"
expect_equal outcome failed "$(field "$id" .outcome)"

# Its id is all that submit prints; wait has the same codes.
expect_exit 0 orc submit --image "$IMAGE" -- sh -c 'exit 3'
expect_match '^[0-9a-v]{13}$' "$T/out"
expect_equal lines 1 "$(wc -l <"$T/out")"
expect_exit 3 orc wait "$(cat "$T/out")"
