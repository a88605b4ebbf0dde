# shellcheck shell=bash
# Inputs go in, outputs come home with their digests; what is missing is told.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"

mkdir -p data/sub data/empty
printf 'one\n' >data/sub/file
printf '#!/bin/sh\necho tool ran\n' >data/tool
chmod 755 data/tool
head -c 3000000 /dev/urandom >blob
cat >job.yaml <<YAML
name: files
image: $IMAGE
run: |
  set -e
  /work/data/tool
  cat /work/data/sub/file
  mkdir -p out/deep
  cp /work/blob out/deep/blob
  : >out/empty
  chmod 750 out/deep
  ln -s /etc/passwd out/link
  touch "\$(printf 'out/two\\nlines')"
  echo report >report.txt
working_dir: /tmp
inputs:
  - {src: data, dest: /work/data}
  - {src: blob, dest: /work/blob}
outputs:
  - out
  - /tmp/report.txt
  - {path: /tmp/not-made, optional: true}
YAML
expect_exit 0 orc run job.yaml
expect_equal stdout "tool ran
one" "$(cat "$T/out")"
# What could not come is told, in words that a guest's name cannot break.
expect_match 'left out of the outputs: out/link: is a symbolic link, and 1 more$' "$T/err"
id=$(last_job)
expect_equal "left out" 'out/link: is a symbolic link, and 1 more' "$(field "$id" .left_out)"
expect_exit 0 orc result --output-dir fetched "$id"
cmp blob fetched/artifacts/out/deep/blob || fail "the blob is another"
expect_equal report report "$(cat fetched/artifacts/report.txt)"
[[ -f fetched/artifacts/out/empty && ! -s fetched/artifacts/out/empty ]] || fail "empty file"
[[ ! -e fetched/artifacts/out/link && ! -L fetched/artifacts/out/link ]] || fail "a link came home"
expect_equal digest "$(sha256sum <blob | cut -d' ' -f1)" \
	"$(field "$id" '.artifacts[] | select(.path == "out/deep/blob").sha256')"
# Fetching again does not write over what is there, unless told so.
expect_exit 125 orc result --output-dir fetched "$id"
expect_exit 0 orc result --output-dir fetched --force "$id"

# A required output that was not made is a failure of the job, and named.
expect_exit 125 orc run --image "$IMAGE" --output /tmp/never-made -- true
expect_match '/tmp/never-made' "$T/err"
expect_equal outcome failed "$(field "$(last_job)" .outcome)"
