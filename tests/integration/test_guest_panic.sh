# shellcheck shell=bash
# A guest whose kernel panics: told as such, with the kernel's words, at once.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
command -v jq >/dev/null || not_verified "needs jq"

# Without a usable initramfs the kernel finds no root file system.
file=$(image_file "$IMAGE" initramfs)
copy_image "$IMAGE" "$file"
scribble "$T/images/$IMAGE/$file"
export ORCHESTRATOR_BOOT_TIMEOUT=100s
start=$SECONDS
expect_exit 125 orc run --image "$IMAGE" -- true
expect_match 'panick?ed.*: ' "$T/err"
expect_match 'logs --console' "$T/err"
((SECONDS - start < 90)) || fail "it waited for the boot's timeout"
id=$(last_job)
expect_match '^(guest_panic|boot_failed)$' <(field "$id" .outcome)
expect_exit 0 orc logs --console "$id"
expect_match 'Kernel panic' "$T/out"
