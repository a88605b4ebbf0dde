# shellcheck shell=bash
# QEMU dies while the outputs come home: how the program ended stays in the record, and that its outputs
# are lost stands beside it; a success without its outputs is none.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image minimal

# lose CODE: a program that exits so, and loses its outputs; $id is the job.
lose() {
	cat >job.yaml <<-YAML
		image: minimal
		working_dir: /home/job
		outputs: [out]
		resources: {memory: 128M, disk: 256M}
		run: |
		  head -c 100000000 /dev/zero >out
		  exit $1
	YAML
	id=$(orc submit job.yaml)
	wait_until 120 state_is "$id" collecting
	kill -KILL "$(orc list vms -o json | jq -r --arg id "$id" '.[] | select(.job == $id) | .pid')"
}

lose 3
expect_exit 3 orc wait --timeout 60s "$id"
expect_equal outcome failed "$(field "$id" .outcome)"
field "$id" .error >error
expect_match '3.*; and its outputs did not come home: .*QEMU ended by signal 9' error

lose 0
expect_exit 125 orc wait --timeout 60s "$id"
expect_equal outcome infra "$(field "$id" .outcome)"
field "$id" .error >error
expect_match 'the program succeeded, but its outputs did not come home: .*QEMU ended by signal 9' error
[[ ! -e $(job_dir "$id")/artifacts ]] || fail "artifacts were published"
