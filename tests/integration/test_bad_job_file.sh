# shellcheck shell=bash
# A job file that is wrong in five places: all are told at once, each with line and column.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cat >job.yaml <<'YAML'
name: Not A Name
image: debian
comand: [true]
run: echo hello
timeout: 5 minutes
resources:
  memory: lots
inputs:
  - {src: a, dest: relative/path}
YAML
expect_exit 2 orc submit job.yaml
for place in 1:7 3:1 5:10 7:11; do
	expect_match "job.yaml:$place: " "$T/err"
done
expect_match 'job.yaml:9:[0-9]+: .*absolute' "$T/err"
expect_match 'command' "$T/err" # the nearest known key
expect_exit 2 orc validate job.yaml
expect_equal "places told" 5 "$(grep -c 'job.yaml:[0-9]*:[0-9]*: ' "$T/err")"
no_daemon || fail "a daemon was started for a file that was refused"

printf 'image: debian\nrun: "true"\n' >good.yaml
need_image debian
expect_exit 0 orc validate good.yaml
printf 'image: &a debian\nrun: *a\n' >alias.yaml
expect_exit 2 orc validate alias.yaml
head -c 70000 /dev/zero | tr '\0' '#' >long.yaml
expect_exit 2 orc validate long.yaml
expect_exit 2 orc submit no-such-file.yaml
expect_exit 2 orc run "$PWD"
expect_match 'Is a directory' "$T/err"
expect_exit 2 orc run ls
expect_match "goes behind --, as in 'orchestrator run -- ls'" "$T/err"
expect_exit 2 orc run no-such-file.yaml
expect_match 'no-such-file.yaml' "$T/err"
# No stdin at all: not what a library has opened in its place.
code=0
"$ORC" run - <&- 2>"$T/err" || code=$?
expect_equal "exit code without stdin" 2 "$code"
expect_match 'stdin: Bad file descriptor' "$T/err"
