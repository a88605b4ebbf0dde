# shellcheck shell=bash
# All of it without any privileges.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

if [[ $(id -u) == 0 ]]; then
	command -v setpriv >/dev/null || not_verified "needs setpriv"
	mkdir "$T/user"
	chown -R 12345:12345 "$T/user" "$T/home"
	export ORCHESTRATOR_STATE_DIR=$T/user/state ORCHESTRATOR_RUNTIME_DIR=$T/user/run
	ORC_AS=(setpriv --reuid 12345 --regid 12345 --clear-groups --inh-caps=-all --bounding-set=-all
		--no-new-privs)
	"${ORC_AS[@]}" test -x "$ORC" || not_verified "another user cannot reach $ORC"
	"${ORC_AS[@]}" test -r "$IMAGES/$IMAGE/manifest.json" ||
		not_verified "another user cannot read $IMAGES"
	chown -R 12345:12345 "$T/user"
else
	mkdir "$T/user"
	export ORCHESTRATOR_STATE_DIR=$T/user/state ORCHESTRATOR_RUNTIME_DIR=$T/user/run
fi
# Nor need there be a home.
export HOME=/nonexistent XDG_RUNTIME_DIR=/nonexistent
# Where mke2fs is, an ordinary user does not look.
PATH=$(tr : '\n' <<<"$PATH" | grep -v sbin | paste -sd :)
echo input >given
chmod 755 .
expect_exit 4 orc run --image "$IMAGE" --disk 64M --input "$PWD/given:/work/given" --output /tmp/made -- \
	sh -c 'cat /work/given; echo made >/tmp/made; exit 4'
expect_equal stdout input "$(cat "$T/out")"
expect_equal artifact made "$(cat "$(job_dir "$(last_job)")/artifacts/made")"
expect_match '^[1-9]' <(daemon_pid)
expect_equal "owner of the state directory" "$(stat -c %u "$ORCHESTRATOR_STATE_DIR")" \
	"$("${ORC_AS[@]}" id -u)"
expect_equal "mode of the state directory" 700 "$(stat -c %a "$ORCHESTRATOR_STATE_DIR")"
