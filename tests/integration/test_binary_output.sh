# shellcheck shell=bash
# Binary output comes through as it is, on both streams.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image debian

cat >job.yaml <<'YAML'
image: debian
command:
  - python3
  - -c
  - |
    import sys
    sys.stdout.buffer.write(bytes(range(256)) * 300)
    sys.stderr.buffer.write(bytes(range(255, -1, -1)))
YAML
expect_exit 0 orc run -q job.yaml
for ((i = 0; i < 256; i++)); do printf '%b' "\\x$(printf %02x "$i")"; done >all
for ((i = 0; i < 300; i++)); do cat all; done >expected
cmp expected "$T/out" || fail "stdout is another"
for ((i = 255; i >= 0; i--)); do printf '%b' "\\x$(printf %02x "$i")"; done >expected.err
cmp expected.err "$T/err" || fail "stderr is another"
cmp expected "$(job_dir "$(last_job)")/stdout" || fail "the file is another"
