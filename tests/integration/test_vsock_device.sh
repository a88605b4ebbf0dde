# shellcheck shell=bash
# The vsock device by itself, with a QEMU and a guest of its own: connections both ways, half closes,
# a slow reader, a hundred at once, a killed peer, a pause, a reboot, and the end.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

make -s -C "$ROOT" O="$BUILD" vsock-programs
"$ROOT/tests/bench/make-vsock-guest" "$BUILD/vsock-guest"
"$BUILD/bin/tests/vsock_device" "$BUILD/libexec/orchestrator/vsock-device" "$BUILD/vsock-guest"
