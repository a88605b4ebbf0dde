# shellcheck shell=bash
# No QEMU on the host: told as such.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

in_mount_namespace
need_image "$IMAGE"

# Its place is taken by an empty file that cannot be executed.
: >nothing
for program in /usr/bin/qemu-system-x86_64 /usr/bin/kvm /usr/libexec/qemu-kvm; do
	[[ ! -e $program ]] || mount --bind nothing "$(readlink -f "$program")"
done
expect_exit 125 orc run --image "$IMAGE" -- true
expect_match '[Qq][Ee][Mm][Uu]|emulator' "$T/err"
expect_match 'install qemu-system-x86' "$T/err"
orc doctor >"$T/out" 2>&1 || true
expect_match 'qemu-system-x86' "$T/out"
