# shellcheck shell=bash
# After lib.sh: all of the test runs on qemu:///session, with a libvirtd of its own below $T that
# starts by itself. Root has no session, so where we are root the product runs as `nobody`.

command -v libvirtd >/dev/null || not_verified "there is no libvirtd here"
command -v virsh >/dev/null || not_verified "there is no virsh here"

user=$T/user
mkdir -p "$user"/{state,run,xdg,home}
chmod 711 "$user" "$user/state" "$user/run"
chmod 700 "$user/xdg"
export ORCHESTRATOR_STATE_DIR=$user/state ORCHESTRATOR_RUNTIME_DIR=$user/run
export ORCHESTRATOR_LIBVIRT_URI=qemu:///session
export HOME=$user/home XDG_RUNTIME_DIR=$user/xdg XDG_CONFIG_HOME=$user/home/config
export XDG_CACHE_HOME=$user/home/cache XDG_DATA_HOME=$user/home/data
unset DBUS_SESSION_BUS_ADDRESS
# It ends by itself when nobody uses it, and is started through this: without, it cannot be.
mkdir "$T/sbin"
cat >"$T/sbin/libvirtd" <<-SH
	#!/bin/sh
	[ ! -e "$T/no-libvirtd" ] || exit 1
	exec $(command -v libvirtd) "\$@"
SH
chmod 755 "$T/sbin/libvirtd"
export LIBVIRTD_PATH=$T/sbin # a directory
if [[ $(id -u) == 0 ]]; then
	command -v setpriv >/dev/null || not_verified "needs setpriv"
	chown -R nobody:"$(id -gn nobody)" "$user"
	ORC_AS=(setpriv --reuid nobody --regid "$(id -g nobody)" --clear-groups --inh-caps=-all
		--bounding-set=-all --no-new-privs)
	"${ORC_AS[@]}" test -x "$ORC" || not_verified "another user cannot reach $ORC"
	"${ORC_AS[@]}" test -r "$IMAGES/$IMAGE/manifest.json" ||
		not_verified "another user cannot read $IMAGES"
fi

# The pid of libvirtd or virtlogd, while it runs.
service_pid() {
	local pid
	pid=$(cat "$XDG_RUNTIME_DIR/libvirt/$1.pid" 2>/dev/null) && [[ $pid ]] || return 1
	grep -qsFz -e "$XDG_RUNTIME_DIR" "/proc/$pid/environ" || return 1
	printf '%s\n' "$pid"
}

kill_libvirtd() {
	local pid
	pid=$(service_pid libvirtd) || fail "there is no libvirtd"
	kill -KILL "$pid"
	wait_until 30 libvirtd_is_not "$pid"
}

# Another one may have been started already.
libvirtd_is_not() {
	[[ $(service_pid libvirtd) != "$1" ]]
}

our_domains() {
	timeout 60 "${ORC_AS[@]}" virsh -q -c qemu:///session list --all --name | grep .
}

# Domains, processes, directories, notes.
nothing_left() {
	! our_domains && [[ -z $(ls "$ORCHESTRATOR_RUNTIME_DIR/vm") && -z $(vm_processes) ]] &&
		! compgen -G "$ORCHESTRATOR_STATE_DIR/jobs/*/vm.json"
}

# The pattern goes through a file, so that grep does not find itself.
vm_processes() {
	printf '%s/vm/\n' "$ORCHESTRATOR_RUNTIME_DIR" >"$T/needle"
	grep -lsFf "$T/needle" /proc/[0-9]*/cmdline
}

end_services() {
	local code=$? name pid
	set +e
	trap '' INT TERM
	((code == 0)) || tail -n 30 "$ORCHESTRATOR_STATE_DIR/daemon.log"
	rm -f "$T/no-libvirtd"
	(clean_up_with "$code")
	code=$?
	for name in libvirtd virtlogd; do
		pid=$(service_pid $name) && kill "$pid"
	done
	exit "$code"
}

# clean_up() ends with the code that it finds.
clean_up_with() {
	(exit "$1")
	clean_up
}
trap end_services EXIT

# What a job of these tests does: more output than is acknowledged at once, then numbers slowly.
# shellcheck disable=SC2016,SC2034 # the guest's shell expands it
slow_program='head -c 300000 /dev/zero; i=0; while [ $i -lt 80 ]; do echo $i; i=$((i+1)); sleep 0.1; done
echo end >&2; echo made >/home/job/made; exit 3'
{ head -c 300000 /dev/zero; seq 0 79; } >expected

# Its id.
submit_slow() {
	orc submit --image "$IMAGE" --timeout 4m --output /home/job/made "$@" -- sh -c "$slow_program"
}

bytes_at_least() {
	(($(stat -c %s "$(job_dir "$1")/stdout") >= $2))
}

# Its program runs, and has written so much. A job that has ended already is told at once.
runs_with_bytes() {
	wait_until 200 runs_or_ended "$@"
	[[ $(field "$1" .state) != finished ]] || fail "job $1 ended: $(field "$1" .error)"
}

runs_or_ended() {
	bytes_at_least "$@" || [[ $(field "$1" .state) == finished ]]
}

# expect_whole ID: it ended as it should, and nothing of it is missing.
expect_whole() {
	expect_exit 3 orc wait --timeout 150s "$1"
	cmp expected "$(job_dir "$1")/stdout" || fail "stdout of $1"
	expect_equal stderr end "$(cat "$(job_dir "$1")/stderr")"
	expect_equal artifact made "$(cat "$(job_dir "$1")/artifacts/made")"
	expect_equal bytes "$(stat -c %s expected)" "$(field "$1" .stdout.bytes)"
	expect_equal attempt 1 "$(field "$1" .attempt)"
}
