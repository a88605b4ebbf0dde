# shellcheck shell=bash
# A domain that libvirt does not start: its own words reach the user.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

# A kernel of the right size that is none.
file=$(image_file "$IMAGE" kernel)
copy_image "$IMAGE" "$file"
scribble "$T/images/$IMAGE/$file"
expect_exit 125 orc run --image "$IMAGE" -- true
expect_match 'libvirt: .*\(libvirt error [0-9]+\)' "$T/err"
expect_match 'infra|boot_failed' <(field "$(last_job)" .outcome)
expect_exit 0 orc list vms -o name
expect_equal "VMs left" 0 "$(wc -l <"$T/out")"
