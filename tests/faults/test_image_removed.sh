# shellcheck shell=bash
# A file of an image is removed, or its manifest broken, after a job with it was accepted and before
# its VM is made: told by the file's name. And all of it is removed under a VM that runs, which is no
# fault for that VM.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image "$IMAGE"
export ORCHESTRATOR_MAX_VMS=1

prepare() {
	rm -rf "$T/images/mine"
	derive_image mine
}

before_boot() {
	local holder file
	prepare
	start_job
	holder=$id
	id=$(orc submit --image mine --memory 128M -- true)
	case $1 in
	manifest) echo '{"format": 1, "name": 7' >"$T/images/mine/manifest.json" ;;
	*)
		file=$(image_file "$IMAGE" "$1")
		rm "$T/images/mine/$file"
		;;
	esac
	expect_exit 0 orc cancel "$holder"
	if [[ $1 == manifest ]]; then
		ended_as infra 'image "mine" is broken .*manifest\.json'
	else
		ended_as infra "image \"mine\" is broken .*its $1 is missing: there is no $T/images/mine/$file"
	fi
}

# It is there again for the second attempt.
for_one_attempt() {
	local holder file
	prepare
	start_job
	holder=$id
	cat >job.yaml <<-YAML
		image: mine
		resources: {memory: 128M}
		retry: {max_attempts: 2, on: [infra], backoff: 3s}
		command: [echo, again]
	YAML
	id=$(orc submit job.yaml)
	file=$T/images/mine/$(image_file "$IMAGE" root)
	mv "$file" "$T/away"
	expect_exit 0 orc cancel "$holder"
	wait_until 60 second_is_due
	mv "$T/away" "$file"
	expect_exit 0 orc wait --timeout 60s "$id"
	expect_equal attempt 2 "$(field "$id" .attempt)"
	expect_equal "the first" infra "$(field "$id" '.earlier_attempts[0].outcome')"
	expect_match 'its root is missing' <(field "$id" '.earlier_attempts[0].error')
}

second_is_due() {
	[[ $(field "$id" '.earlier_attempts | length') == 1 ]]
}

while_running() {
	local running
	prepare
	running=$(orc submit --image mine --memory 128M --output /tmp/out -- \
		sh -c 'echo begun; sleep 3; cat /etc/passwd >/tmp/out && ls / >/dev/null; exit 4')
	wait_until 60 grep -qs begun "$(job_dir "$running")/stdout"
	rm -r "$T/images/mine"
	expect_exit 4 orc wait --timeout 60s "$running"
	[[ -s $(job_dir "$running")/artifacts/out ]] || fail "its output did not come"
	expect_exit 125 orc submit --image mine --memory 128M -- true
	expect_match 'no image "mine"' "$T/err"
}

copy_image "$IMAGE" # for the next jobs
for part in kernel initramfs root manifest; do
	repeat before_boot "$part"
done
repeat for_one_attempt
repeat while_running
