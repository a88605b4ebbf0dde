# shellcheck shell=bash
# `orchestrator bench` when what it measures goes away under it: one clear error, and nothing left.
. "$(dirname "${BASH_SOURCE[0]}")/bench.sh"

need_bench_image "$IMAGE"

# Is it measuring? Then it has its connections to the guest, besides those to libvirt's QEMU.
measuring() {
	(($(find "/proc/$1/fd" -lname 'socket:*' | wc -l) >= 8))
}

# die_while_measuring SIGNAL PATTERN: of the process's command line.
die_while_measuring() {
	"$ORC" bench --image "$IMAGE" --rounds 100 >"$T/out" 2>"$T/err" &
	local bench=$! code=0 victim
	wait_until 120 pgrep -f "$2.*$T/"
	wait_until 120 measuring "$bench"
	victim=$(pgrep -f "$2.*$T/" | head -1)
	kill "-$1" "$victim"
	timeout 120 tail --pid="$bench" -f /dev/null || fail "bench did not end"
	wait "$bench" || code=$?
	expect_equal "exit code" 125 "$code"
	expect_equal "lines of error" 1 "$(wc -l <"$T/err")"
	expect_equal "numbers" "" "$(cat "$T/out")"
	nothing_left
}

die_while_measuring KILL qemu
expect_match '^orchestrator: .*QEMU' "$T/err"

# The vsock goes, the VM stays.
if [[ ! -w /dev/vhost-vsock || ${ORCHESTRATOR_VSOCK:-} == user ]]; then
	die_while_measuring KILL vsock-device
	expect_match '^orchestrator: .*(vsock|connection|raw)' "$T/err"
fi
