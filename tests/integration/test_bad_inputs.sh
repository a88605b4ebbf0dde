# shellcheck shell=bash
# Input files that are missing or cannot be read.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

cat >job.yaml <<YAML
image: $IMAGE
run: "true"
inputs:
  - {src: present, dest: /work/present}
  - {src: data/absent.txt, dest: /work/absent}
YAML
echo there >present
expect_exit 2 orc submit job.yaml
expect_match 'job.yaml: inputs\[1\]: data/absent.txt.*: No such file or directory' "$T/err"
expect_equal stdout "" "$(cat "$T/out")"

mkfifo fifo
expect_exit 2 orc submit --image "$IMAGE" --input fifo:/work/fifo -- true
expect_match 'fifo.*neither a file nor a directory' "$T/err"

expect_exit 0 orc list jobs -o name
expect_equal "jobs made" 0 "$(wc -l <"$T/out")"
expect_equal "directories left" "" "$(ls "$ORCHESTRATOR_STATE_DIR/jobs" 2>/dev/null)"

[[ $(id -u) != 0 ]] || command -v setpriv >/dev/null || not_verified "needs setpriv"
mkdir below
echo secret >below/closed
chmod 000 below/closed
if [[ $(id -u) == 0 ]]; then
	# Root may read everything, so another user submits; that needs a daemon of its own.
	chmod 755 below .
	orc stop
	mkdir "$T/other"
	chown -R 65534:65534 "$T/home" "$T/other"
	export ORCHESTRATOR_STATE_DIR=$T/other/state ORCHESTRATOR_RUNTIME_DIR=$T/other/run
	ORC_AS=(setpriv --reuid 65534 --regid 65534 --clear-groups)
	"${ORC_AS[@]}" test -x "$ORC" || not_verified "another user cannot reach $ORC"
	"${ORC_AS[@]}" test -r "$IMAGES/$IMAGE/manifest.json" || not_verified "nor the images"
fi
expect_exit 2 orc submit --image "$IMAGE" --input "$PWD/below/closed:/work/closed" -- true
expect_match 'below/closed.*: Permission denied' "$T/err"
expect_exit 125 orc submit --image "$IMAGE" --input "$PWD/below:/work/below" -- true
expect_match 'closed: Permission denied' "$T/err"
