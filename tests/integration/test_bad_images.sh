# shellcheck shell=bash
# No such image; an image without its kernel.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

expect_exit 125 orc run --image no-such-image -- true
expect_match 'no image "no-such-image"' "$T/err"
expect_match 'orchestrator image build' "$T/err"
expect_match "$IMAGE" "$T/err" # what there is
expect_exit 0 orc list jobs -o name
expect_equal "jobs made" 0 "$(wc -l <"$T/out")"

# The daemon reads images when a job comes: no restart is needed, but for the configuration.
orc stop
copy_image "$IMAGE"
rm "$T/images/$IMAGE/$(image_file "$IMAGE" kernel)"
expect_exit 125 orc run --image "$IMAGE" -- true
expect_match "kernel is missing: there is no $T/images/$IMAGE/" "$T/err"
expect_exit 0 orc list images
expect_match 'broken.*kernel is missing' "$T/err"
