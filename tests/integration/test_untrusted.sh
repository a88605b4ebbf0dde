# shellcheck shell=bash
# The second example: hostile attempts are refused, and none succeeds.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image debian

code=0
orc run "$ROOT/examples/untrusted.yaml" >"$T/out" 2>"$T/err" || code=$?
cat "$T/out"
expect_match '^the internet: refused' "$T/out"
expect_match '^the host, by vsock: refused' "$T/out"
expect_match '^root: refused' "$T/out"
expect_match "^the kernel's memory: refused" "$T/out"
expect_match '^network interfaces: (lo)?$' "$T/out"
expect_match '^(0|137)$' <(echo "$code") # its last attempt is to fill the memory
