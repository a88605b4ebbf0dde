#!/bin/bash
# inside.sh: the product as installed, with libvirtd, the kernel's vhost-vsock and assigned CIDs.
#
# tests/kernel-vsock/run starts it, in the outer VM or on this host, with INSTALLED (the prefix the
# product was installed under), IMAGES (images, `minimal` among them), PROBES (vsock_probe and
# stranger) and OUTER_VM=1 in the outer VM, where all is ours: services are started and stopped there,
# users made. On a host it starts none, leaves all domains but its own alone, and says NOT VERIFIED
# for the rest.
#
# The tests go on from each other: two VMs serve most of them, because booting is what takes the time.
set -u
: "${INSTALLED:?}" "${IMAGES:?}" "${PROBES:?}" "${OUTER_VM:=}"

export LC_ALL=C NO_COLOR=1 TERM=dumb
for variable in "${!ORCHESTRATOR_@}"; do
	unset "$variable"
done
orc=$INSTALLED/bin/orchestrator
system=qemu:///system
free_first=70002 # 70001 is held by somebody else
passed=0 failed=0 skipped=0 current=''
test_seconds=${TEST_SECONDS:-500} # that one test may take
T=$(mktemp -d /tmp/kv.XXXXXX)
chmod 755 "$T"
pids=()

# --- helpers --------------------------------------------------------------------------------------

# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../expect.sh"

# The daemon of root, and those of the user `tester`.
daemon_of_root() {
	env ORCHESTRATOR_STATE_DIR="$T/root" ORCHESTRATOR_RUNTIME_DIR="$T/root/run" \
		ORCHESTRATOR_CIDS=70001-70003 ORCHESTRATOR_MAX_VMS=3 ORCHESTRATOR_LIBVIRT_URI=$system "$@"
}

orc() {
	daemon_of_root timeout --kill-after=10 900 "$orc" "$@"
}

as() { # USER COMMAND...
	setpriv --reuid "$1" --regid "$(id -g "$1")" --init-groups --inh-caps=-all --reset-env \
		env PATH="$PATH" LC_ALL=C NO_COLOR=1 "${settings[@]}" "${@:2}"
}

tester() { # system|session COMMAND...
	as tester env XDG_RUNTIME_DIR="$T/tester" ORCHESTRATOR_STATE_DIR="$T/tester/$1" \
		ORCHESTRATOR_RUNTIME_DIR="$T/tester/$1/run" ORCHESTRATOR_LIBVIRT_URI="qemu:///$1" "${@:2}"
}

field() { # ID JQ-PATH
	orc status -o json "$1" | jq -r "$2"
}

domains() {
	virsh -q -c $system list --name | grep .
}

vm_of() { # JOB JQ-PATH
	orc list vms -o json | jq -er --arg job "$1" ".[] | select(.job == \$job) | $2"
}

job_began() {
	[[ $(field "$1" .state) =~ ^(running|finished)$ ]]
}

job_is() {
	[[ $(field "$1" .state) == "$2" ]]
}

show() {
	[[ -s $1 ]] || return 0
	printf '    --- %s\n' "$1"
	tail -n "${2:-40}" "$1" | tail -c 12000 | cat -v | sed 's/^/    /'
}

show_all() {
	local file
	for file in "$T"/root/daemon.log "$T"/tester/*/daemon.log "$T"/*/jobs/*/console.log \
		"$T"/tester/*/jobs/*/console.log; do
		show "$file" 25
	done
	[[ $OUTER_VM ]] || return 0
	for file in "$T"/libvirtd.log /var/log/libvirt/qemu/*.log; do
		show "$file" 12
	done
	printf '    --- kernel\n'
	dmesg | tail -n 20 | sed 's/^/    /'
}

# The processes of orchestrator, libvirt and QEMU, with what each of their threads waits in.
show_processes() {
	local pid
	printf '    --- processes\n'
	ps -eo pid,ppid,stat,user:12,time,wchan:24,args --forest 2>/dev/null | grep -v '\]$' |
		cut -c1-220 | sed 's/^/    /'
	command -v gdb >/dev/null || return 0
	for pid in $(pgrep -f 'orchestrator|libvirtd|virsh|stranger'); do
		printf '    --- stacks of %s: %s\n' "$pid" "$(tr '\0' ' ' <"/proc/$pid/cmdline")"
		timeout 90 gdb -p "$pid" -batch -ex 'set pagination off' -ex 'thread apply all bt 24' \
			2>/dev/null </dev/null | grep -E '^(Thread|#)' | cut -c1-160 | sed 's/^/    /'
	done
}

show_vms() {
	[[ $OUTER_VM ]] || return 0
	printf '    --- domains\n'
	timeout 20 virsh -q -c $system list --all | sed 's/^/    /'
	[[ -e $T/tester/libvirt ]] &&
		tester session timeout 20 virsh -q -c qemu:///session list --all | sed 's/^/    /'
	return 0
}

# watchdog GROUP: a test that stands still says where, and ends. Started in the background.
watchdog() {
	sleep "$test_seconds"
	{
		printf '    not done within %s s\n' "$test_seconds"
		show_processes
		show_vms
	} >"$T/stall.new" 2>&1
	mv "$T/stall.new" "$T/stall"
	kill -KILL -- "-$1"
}

# run_test NAME FUNCTION: in a shell of its own; what is to be remembered goes to files.
run_test() {
	local code began=$SECONDS test dog
	rm -f "$T/stall"
	# Each in a process group of its own, so that it can be ended whole.
	set -m
	(
		set -e
		"$2"
	) >"$T/log" 2>&1 &
	test=$!
	watchdog $test >/dev/null 2>&1 &
	dog=$!
	set +m
	current=$test
	wait $test 2>/dev/null
	code=$?
	current=''
	[[ -e $T/stall ]] || kill -KILL -- "-$dog"
	wait $dog 2>/dev/null
	case $code in
	0)
		passed=$((passed + 1))
		printf 'PASS %s (%d s)\n' "$1" $((SECONDS - began))
		;;
	77)
		skipped=$((skipped + 1))
		printf 'NOT VERIFIED %s: %s\n' "$1" "$(cat "$T/not-verified")"
		;;
	*)
		failed=$((failed + 1))
		printf 'FAIL %s (%d s)\n' "$1" $((SECONDS - began))
		show "$T/log" 60
		[[ -e $T/stall ]] && head -c 60000 "$T/stall"
		[[ $failed == 1 || -e $T/stall ]] && show_all
		;;
	esac
}

start_services() {
	mkdir -p /run/dbus /run/libvirt
	dbus-daemon --system --fork 2>/dev/null
	/usr/lib/polkit-1/polkitd --no-debug >"$T/polkitd.log" 2>&1 &
	pids+=($!)
	virtlogd -d
	start_libvirtd
	useradd -m -G libvirt,kvm tester
	useradd -m outsider
	install -d -o tester -g tester -m 711 "$T/tester"
	install -d -o tester -g tester -m 700 "$T/tester/system" "$T/tester/session"
}

clean_up() {
	local pid
	trap '' INT TERM
	[[ $current ]] && kill -KILL -- "-$current" 2>/dev/null
	[[ -e $T/root ]] && orc stop >/dev/null 2>&1
	[[ -e $T/tester ]] && for kind in system session; do
		tester $kind "$orc" stop >/dev/null 2>&1
	done
	virsh -q -c $system destroy "foreign-$$" >/dev/null 2>&1
	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null
	done
	[[ $OUTER_VM ]] || rm -rf "$T"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- the tests ------------------------------------------------------------------------------------

the_host_is_ready() {
	expect_exit 0 virsh -c $system version
	[[ -c /dev/vhost-vsock ]]
	expect_exit 0 orc list images
	expect_match minimal "$T/out"
	cat >"$T/foreign.xml" <<-XML
		<domain type='qemu'><name>foreign-$$</name><memory unit='MiB'>16</memory>
		<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>
	XML
	expect_exit 0 virsh -c $system create --paused "$T/foreign.xml"
	"$PROBES/vsock_probe" hold 70001 >"$T/held" &
	echo $! >"$T/holder"
	wait_until 10 grep -q held "$T/held"
}

two_vms_at_once() {
	echo given >"$T/given"
	orc submit --image minimal --name stays -- sleep 3000 >"$T/stays"
	wait_until 400 job_began "$(cat "$T/stays")"
	orc submit --image minimal --name hello --input "$T/given:/home/job/given" \
		--input "$PROBES/vsock_probe:/home/job/vsock_probe" --output /home/job/made -- sh -c '
			echo hello; cat given; ./vsock_probe socket; echo words >&2; echo made >made
			while ! [ -e /tmp/end ] && [ $((n = n + 1)) -lt 25 ]; do sleep 1; done
			echo last; exit 7' >"$T/hello"
	(orc logs -f "$(cat "$T/hello")" >"$T/streamed" 2>&1 &)
	wait_until 400 grep -Eq '^hello|failed' "$T/streamed"
	expect_match '^hello' "$T/streamed"
	orc list vms -o json >"$T/vms"
	job_is "$(cat "$T/hello")" running || fail "its output came when it had ended"
	expect_equal "CIDs" "70002 70003" "$(jq -r '.[].cid' "$T/vms" | sort | xargs)"
	expect_equal "vsock devices" kernel "$(jq -r '.[].vsock_device' "$T/vms" | sort -u)"
	vm_of "$(cat "$T/stays")" .cid >"$T/cid"
	vm_of "$(cat "$T/stays")" .domain >"$T/domain"
	vm_of "$(cat "$T/stays")" .pid >"$T/pid"
	expect_match "vhost-vsock-pci.*guest-cid.*$(cat "$T/cid")" "/proc/$(cat "$T/pid")/cmdline"
}

a_taken_cid_is_passed_over() {
	expect_equal "the first VM's CID" $free_first "$(cat "$T/cid")"
	expect_match 'CID 70001 is taken' "$T/root/daemon.log"
}

no_cid_is_left() {
	expect_exit 125 env ORCHESTRATOR_STATE_DIR="$T/none" ORCHESTRATOR_LIBVIRT_URI=$system \
		ORCHESTRATOR_CIDS=70001-70001 "$orc" run --image minimal -- true
	cat "$T/err"
	expect_match 'no CID of 70001-70001 is free, of 1 tried: CID 70001 is taken by another process' "$T/err"
	ORCHESTRATOR_STATE_DIR=$T/none "$orc" stop
}

virsh_shows_our_domains() {
	domains >"$T/out"
	expect_match "^$(cat "$T/domain")\$" "$T/out"
	virsh -q -c $system dumpxml "$(cat "$T/domain")" >"$T/xml"
	expect_match "cid auto='no' address='$(cat "$T/cid")'" "$T/xml"
	expect_no_match '<interface' "$T/xml"
}

foreign_domains_are_not_listed() {
	domains >"$T/out"
	expect_match "^foreign-$$\$" "$T/out"
	orc list vms -o json >"$T/out"
	expect_no_match foreign "$T/out"
}

hello_ends_with_its_code() {
	local id
	id=$(cat "$T/hello")
	expect_exit 7 orc wait "$id"
	expect_exit 0 orc logs "$id"
	printf 'hello\ngiven\nOperation not permitted\nlast\n' | diff - "$T/out"
	expect_equal artifact made "$(cat "$T/root/jobs/$id/artifacts/made")"
	[[ ! $OUTER_VM || ! -e /dev/kvm ]] ||
		expect_equal accelerator kvm "$(field "$id" .wall.accelerator)"
	expect_equal "network interface" false "$(field "$id" .wall.network_interface)"
	expect_equal "libvirt" $system "$(field "$id" .wall.libvirt_uri)"
	orc status --timing "$id"
}

a_job_cannot_open_vsock() {
	orc logs "$(cat "$T/hello")" >"$T/out"
	expect_match '^Operation not permitted$' "$T/out"
}

nobody_cannot_talk_to_the_worker() {
	local cid
	cid=$(cat "$T/cid")
	as nobody "$PROBES/vsock_probe" dial "$cid" 9999 >"$T/out"
	expect_match '^closed' "$T/out"
	as nobody "$PROBES/vsock_probe" dial "$cid" 9999 700 >"$T/out"
	expect_match '^no such source port: Permission denied' "$T/out"
	as nobody "$PROBES/stranger" "$cid" 9999 >"$T/out" 2>"$T/err" || true
	expect_no_match answered "$T/out"
	# Not the uid is what counts, but the port.
	"$PROBES/vsock_probe" dial "$cid" 9999 2000 >"$T/out"
	expect_match '^closed' "$T/out"
	job_is "$(cat "$T/stays")" running
}

without_the_secret_only_hello() {
	local cid
	cid=$(cat "$T/cid")
	"$PROBES/vsock_probe" dial "$cid" 9999 700 >"$T/out"
	expect_match '^open' "$T/out"
	"$PROBES/stranger" "$cid" 9999 >"$T/out" 2>"$T/err"
	cat "$T/out" "$T/err"
	expect_match '^hello: answered$' "$T/out"
	expect_equal "answers" 1 "$(grep -c answered "$T/out")"
	expect_equal "refusals" 7 "$(grep -c ': UNAUTHENTICATED$' "$T/out")"
	job_is "$(cat "$T/stays")" running
}

# The worker as PID 1 of a guest is out of a test's reach, but its check is the same anywhere: here it
# listens on this machine's own CIDs, and who dials it by loopback comes from CID 1, not 2.
the_worker_refuses_other_cids() {
	local worker
	grep -q vsock_loopback /proc/modules 2>/dev/null ||
		not_verified "the module vsock_loopback is not loaded here"
	"$INSTALLED/libexec/orchestrator/guest-worker" --port 7777 >"$T/worker.log" 2>&1 &
	worker=$!
	sleep 2
	"$PROBES/vsock_probe" dial 1 7777 >"$T/out"
	kill $worker
	expect_match '^closed' "$T/out"
	expect_match 'CID 1, which is not the host' "$T/worker.log"
}

qemu_killed() {
	local id
	id=$(cat "$T/stays")
	kill -KILL "$(cat "$T/pid")"
	expect_exit 125 orc wait "$id"
	expect_equal outcome infra "$(field "$id" .outcome)"
	field "$id" .error
	wait_until 30 not_there "$(cat "$T/domain")"
}

not_there() {
	! domains | grep -qx "$1"
}

ours_are_there() {
	domains | grep -q '^orchestrator-'
}

none_of_ours() {
	! ours_are_there
}

a_sweep_spares_foreign_domains() {
	orc submit --image minimal -- sleep 3000 >"$T/swept"
	wait_until 120 ours_are_there
	kill -KILL "$(cat "$T/root/lock")"
	sleep 1
	# The next command starts the next daemon, which finds the VM.
	orc list jobs
	orc cancel "$(cat "$T/swept")" || true
	orc stop
	wait_until 60 none_of_ours
	domains >"$T/out"
	expect_match "^foreign-$$\$" "$T/out"
}

# A job of an ordinary user, whose daemon is killed under it and taken up by the next.
ordinary_user() { # system|session
	[[ $OUTER_VM ]] || not_verified "needs a user of its own, which is made in the outer VM only"
	# The worker of a user who may not bind low ports hears others, but tells them nothing.
	# shellcheck disable=SC2016 # the guest's shell expands it
	tester "$1" "$orc" submit --image minimal --output /home/job/made -- sh -c '
		head -c 300000 /dev/zero; i=0
		while [ $i -lt 40 ]; do echo $i; i=$((i+1)); sleep 1; done
		echo "as $0" >&2; echo made >/home/job/made; exit 9' "$1" >"$T/tester.$1"
	local id cid pid code=0
	id=$(cat "$T/tester.$1")
	wait_until 400 tester_job_began "$1" "$id"
	[[ $(tester_state "$1" "$id") == running ]] || {
		tester "$1" "$orc" status "$id"
		fail "the job does not run"
	}
	tester "$1" "$orc" list vms -o json >"$T/vms.$1"
	cid=$(jq -r '.[0].cid' "$T/vms.$1")
	pid=$(jq -r '.[0].pid' "$T/vms.$1")
	expect_equal "QEMU's user" tester "$(stat -c %U "/proc/$pid")"
	expect_match "vhost-vsock-pci.*guest-cid.*$cid" "/proc/$pid/cmdline"
	as nobody "$PROBES/stranger" "$cid" 9999 >"$T/out.$1" 2>&1
	cat "$T/out.$1"
	expect_match '^hello: answered$' "$T/out.$1"
	expect_equal "answers" 1 "$(grep -c answered "$T/out.$1")"
	kill -KILL "$(cat "$T/tester/$1/lock")"
	[[ -e /proc/$pid/cmdline ]] || fail "QEMU went with the daemon"
	tester "$1" "$orc" wait "$id" >/dev/null || code=$?
	tester "$1" "$orc" status "$id"
	expect_equal "exit code" 9 $code
	{ head -c 300000 /dev/zero; seq 0 39; } | cmp - "$T/tester/$1/jobs/$id/stdout"
	expect_equal stderr "as $1" "$(cat "$T/tester/$1/jobs/$id/stderr")"
	expect_equal artifact made "$(cat "$T/tester/$1/jobs/$id/artifacts/made")"
	expect_match "$id: taken up in" "$T/tester/$1/daemon.log"
	wait_until 60 nothing_of_tester "$1"
	tester "$1" "$orc" stop
}

tester_state() {
	tester "$1" "$orc" status -o json "$2" | jq -r .state
}

tester_job_began() {
	[[ $(tester_state "$@") =~ ^(running|finished)$ ]]
}

nothing_of_tester() {
	! tester "$1" virsh -q -c "qemu:///$1" list --all --name | grep -q '^orchestrator-' &&
		[[ -z $(ls "$T/tester/$1/run/vm") ]] && ! pgrep -f "$T/tester/$1/run/vm/" &&
		! compgen -G "$T/tester/$1/jobs/*/vm.json"
}

user_of_the_system_libvirt() {
	ordinary_user system
}

user_of_his_own_libvirt() {
	ordinary_user session
}

start_libvirtd() {
	# The log goes where show_all() finds it.
	LIBVIRT_LOG_OUTPUTS="3:file:$T/libvirtd.log" libvirtd -d -p "$T/libvirtd.pid"
}

libvirtd_killed_and_back() {
	[[ $OUTER_VM ]] || not_verified "only in the outer VM is libvirtd ours to kill"
	local id next pid daemon
	id=$(orc submit --image minimal -- sh -c 'i=0
		while [ $i -lt 30 ]; do echo $i; i=$((i+1)); sleep 1; done; exit 6')
	wait_until 400 job_began "$id"
	daemon=$(cat "$T/root/lock")
	pid=$(vm_of "$id" .pid)
	kill -KILL "$(cat "$T/libvirtd.pid")"
	wait_until 30 test ! -e "/proc/$(cat "$T/libvirtd.pid")"
	[[ -e /proc/$pid/cmdline ]] || fail "QEMU went with libvirtd"
	# It waits for libvirtd.
	next=$(orc submit --image minimal -- sh -c 'exit 5')
	sleep 5
	start_libvirtd
	expect_exit 5 orc wait "$next"
	expect_exit 6 orc wait "$id"
	seq 0 29 | diff - "$T/root/jobs/$id/stdout"
	wait_until 60 none_of_ours
	wait_until 30 test ! -e "/proc/$pid/cmdline"
	expect_equal "the daemon" "$daemon" "$(cat "$T/root/lock")"
	orc stop
	[[ -z $(ls "$T/root/run/vm") ]]
}

images_stay_ours() {
	[[ $OUTER_VM ]] || not_verified "shown in the outer VM only"
	ls -l "$IMAGES/minimal"
	expect_equal "owners of the image" root "$(stat -c %U "$IMAGES"/minimal/* | sort -u)"
}

outsider() {
	as outsider env ORCHESTRATOR_STATE_DIR=/home/outsider/o "$@"
}

access_denied() {
	[[ $OUTER_VM ]] || not_verified "needs a user of its own, which is made in the outer VM only"
	expect_exit 125 outsider ORCHESTRATOR_LIBVIRT_URI=$system "$orc" run --image minimal -- true
	cat "$T/err"
	expect_match 'group libvirt' "$T/err"
	outsider "$orc" stop
}

vhost_vsock_not_permitted() {
	[[ $OUTER_VM ]] || not_verified "needs a user of its own, which is made in the outer VM only"
	expect_exit 125 outsider "$orc" run --image minimal -- true
	cat "$T/err"
	expect_match 'no permission for /dev/vhost-vsock: be in the group kvm' "$T/err"
	outsider "$orc" stop
}

vhost_vsock_absent() {
	[[ $OUTER_VM ]] || not_verified "only in the outer VM is the device ours to remove"
	rm /dev/vhost-vsock
	expect_exit 125 orc run --image minimal -- true
	cat "$T/err"
	expect_match '/dev/vhost-vsock is not there: .*modprobe vhost_vsock' "$T/err"
	orc stop
}

libvirtd_absent() {
	[[ $OUTER_VM ]] || not_verified "only in the outer VM is libvirtd ours to stop"
	local pid
	pid=$(cat "$T/libvirtd.pid")
	kill "$pid"
	wait_until 30 test ! -e "/proc/$pid"
	expect_exit 125 orc run --image minimal -- true
	cat "$T/err"
	expect_match 'qemu:///system: .*libvirt' "$T/err"
	expect_match 'libvirtd' "$T/err"
	orc stop
}

# --- all of it ------------------------------------------------------------------------------------

finish() {
	printf 'kernel-vsock: %d passed, %d failed' "$passed" "$failed"
	((skipped)) && printf ', %d skipped' "$skipped"
	printf '\n'
	((failed == 0))
	exit
}

if [[ $OUTER_VM ]]; then
	start_services
elif [[ $(id -u) != 0 ]] || ! virsh -q -c $system list >/dev/null 2>&1; then
	echo "NOT VERIFIED all of it: needs root and a libvirtd that answers on $system"
	skipped=1
	finish
fi
# What every daemon here has.
settings=(ORCHESTRATOR_IMAGE_DIR="$IMAGES" ORCHESTRATOR_VSOCK=kernel ORCHESTRATOR_BOOT_TIMEOUT=15m
	ORCHESTRATOR_KVM_PROBE_TIMEOUT=2m ORCHESTRATOR_DEFAULT_MEMORY=192M ORCHESTRATOR_IDLE_TIMEOUT=1h)
export "${settings[@]}" HOME="$T/home" XDG_CONFIG_HOME="$T/home/config"
mkdir -m 711 "$T/root"

run_test "libvirtd, the device and the installed program are there" the_host_is_ready
pids+=("$(cat "$T/holder")")
run_test "two VMs at once, each with a CID of its own; output is streamed" two_vms_at_once
run_test "a CID that another process has is passed over" a_taken_cid_is_passed_over
run_test "no CID left is told as such" no_cid_is_left
run_test "virsh shows our domains" virsh_shows_our_domains
run_test "foreign domains are not listed" foreign_domains_are_not_listed
run_test "hello: inputs, artifacts, exit code" hello_ends_with_its_code
run_test "a job cannot open vsock sockets" a_job_cannot_open_vsock
run_test "an unprivileged user gets not a byte from the worker" nobody_cannot_talk_to_the_worker
run_test "without the secret there is only Hello" without_the_secret_only_hello
run_test "the worker refuses other CIDs than the host's" the_worker_refuses_other_cids
run_test "QEMU killed" qemu_killed
run_test "a sweep spares foreign domains" a_sweep_spares_foreign_domains
run_test "libvirtd is killed under a job, and comes back" libvirtd_killed_and_back
run_test "an ordinary user with qemu:///system" user_of_the_system_libvirt
run_test "an ordinary user with qemu:///session" user_of_his_own_libvirt
run_test "no domain took the image for its own" images_stay_ours
run_test "access to libvirt denied" access_denied
run_test "/dev/vhost-vsock not permitted" vhost_vsock_not_permitted
run_test "/dev/vhost-vsock absent" vhost_vsock_absent
run_test "libvirtd absent" libvirtd_absent
finish
