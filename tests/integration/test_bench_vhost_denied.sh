# shellcheck shell=bash
# A /dev/vhost-vsock that is there, but not for this user: which group has it is said, by `bench` and by
# `run`. The device is a node in a /dev of this test's own.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_bench_image "$IMAGE"
[[ $(id -u) == 0 ]] || not_verified "needs root, to make a device"
command -v setpriv unshare >/dev/null || not_verified "needs setpriv and unshare"
mkdir "$T/user" "$T/upper" "$T/workdir"
chown 12345:12345 "$T/user" "$T/home"
ORC_AS=(setpriv --reuid 12345 --regid 12345 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs)
"${ORC_AS[@]}" test -x "$ORC" || not_verified "another user cannot reach $ORC"
"${ORC_AS[@]}" test -r "$IMAGES/$IMAGE/manifest.json" || not_verified "another user cannot read $IMAGES"
chmod 755 .
export ORCHESTRATOR_STATE_DIR=$T/user/state ORCHESTRATOR_RUNTIME_DIR=$T/user/run

cat >denied <<END
mount -t tmpfs dev "$T/upper" && mkdir "$T/upper/u" "$T/upper/w" &&
	mount -t overlay dev -o lowerdir=/dev,upperdir="$T/upper/u",workdir="$T/upper/w" /dev &&
	rm -f /dev/vhost-vsock && mknod -m 660 /dev/vhost-vsock c 10 241 && chown root:kvm /dev/vhost-vsock ||
	exit 99
export ORCHESTRATOR_VSOCK=kernel
exec ${ORC_AS[*]} "\$@"
END
code=0
unshare --mount sh denied true 2>/dev/null || code=$?
((code != 99)) || not_verified "cannot make a /dev of its own"

expect_exit 125 unshare --mount sh denied timeout 120 "$ORC" bench --quick --image "$IMAGE"
expect_match 'no permission for /dev/vhost-vsock: be in the group kvm' "$T/err"
expect_equal "lines of error" 1 "$(wc -l <"$T/err")"
[[ ! -e $ORCHESTRATOR_STATE_DIR/bench ]] || fail "left behind: $ORCHESTRATOR_STATE_DIR/bench"
expect_exit 125 unshare --mount sh denied timeout 120 "$ORC" run --image "$IMAGE" -- true
expect_match 'be in the group kvm' "$T/err"
unshare --mount sh denied "$ORC" stop >/dev/null 2>&1 || true
