# shellcheck shell=bash
# A job with a ttl_after_finished goes when it is over, record and directory; others stay.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

printf 'image: %s\ncommand: [echo, short]\nttl_after_finished: 1s\n' "$IMAGE" >short.yaml
expect_exit 0 orc run short.yaml
short=$(last_job)
ended=$SECONDS
expect_exit 0 orc run --image "$IMAGE" -- echo long
long=$(last_job)

# No job goes in its first minute, and the dry run says so.
expect_exit 0 orc gc --dry-run -o name
expect_equal "what goes at once" "" "$(cat "$T/out")"

# The daemon sweeps when it starts and each minute then: it shall not come first.
while ((SECONDS - ended < 25)); do sleep 1; done
orc stop
while ((SECONDS - ended < 63)); do
	((SECONDS - ended < 28)) || orc list jobs -o name >/dev/null
	sleep 1
done
expect_exit 0 orc gc --dry-run -o name
expect_equal "what would go" "$short" "$(cat "$T/out")"
[[ -d $(job_dir "$short") ]] || fail "a dry run removed the directory"
expect_exit 0 orc gc -o name
expect_equal "what goes" "$short" "$(cat "$T/out")"
[[ ! -e $(job_dir "$short") ]] || fail "the directory is still there"
expect_exit 125 orc status "$short"
expect_equal "what is left" "$long" "$(orc list jobs -o name)"
expect_equal "the output of what is left" long "$(cat "$(job_dir "$long")/stdout")"
expect_exit 2 orc gc now
