# shellcheck shell=bash
# A warm pool: a job takes a VM that has booted, and another comes in its place; an idle VM that dies is
# replaced; an image that was built anew is not run from old VMs; the daemon's death and its stop leave
# no idle VM behind, and the job in a warm VM is taken up.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image minimal
copy_image minimal
mkdir -p "$XDG_CONFIG_HOME/orchestrator"
cat >"$XDG_CONFIG_HOME/orchestrator/orchestrator.yaml" <<-YAML
	max_vms: 3
	pool:
	  minimal: {min_idle: 1, max: 2, cpus: 1, memory: 128M}
YAML

idle_vms() {
	orc list vms -o json | jq -r '.[] | select(.state == "idle") | .id'
}
idle_is() {
	[[ $(idle_vms | wc -l) == "$1" ]]
}
another_idle() {
	local id
	id=$(idle_vms) && [[ $id && $id != "$1" ]]
}
submit() {
	orc submit --image minimal --memory 128M "$@"
}

# With it a daemon that starts by itself has a pool too.
expect_exit 0 orc list jobs
wait_until 120 idle_is 1
first=$(idle_vms)
expect_equal "whose it is" true "$(orc list vms -o json | jq '.[0].pooled and .[0].job == ""')"
orc list pools >pools
expect_match '^minimal +well +1 +0 +1 +2 +1 +128M +0 +-' pools

echo "the input" >in
cat >job.yaml <<-YAML
	image: minimal
	inputs: [{src: in, dest: /home/job/in}]
	working_dir: /home/job
	outputs: [out]
	resources: {cpus: 1, memory: 128M}
	run: |
	  echo warm
	  cp in out
	  sleep 12
	  exit 3
YAML
id=$(orc submit job.yaml)
wait_until 60 state_is "$id" running
# libvirt knows whose the domain is.
status=$ORCHESTRATOR_STATE_DIR/libvirt/run/qemu/$first.xml
[[ ! -e $status ]] || wait_until 10 grep -q "job=['\"]${id}['\"]" "$status"
expect_exit 3 orc wait --timeout 90s "$id"
expect_equal "the VM" "$first" "$(field "$id" .vm)"
expect_equal warm true "$(field "$id" .wall.warm)"
expect_equal "a boot" null "$(field "$id" .times_usec.domain_created)"
expect_equal stdout warm "$(cat "$(job_dir "$id")/stdout")"
expect_equal artifact "the input" "$(cat "$(job_dir "$id")/artifacts/out")"
expect_match 'orchestrator-worker: ready' "$(job_dir "$id")/console.log"
expect_equal interfaces false "$(field "$id" .wall.network_interface)"
orc status "$id" >status
expect_match '^Warm VM: +yes' status
wait_until 60 another_idle "$first"
# Of other needs, it boots its own; so it is not faster, but it runs.
id=$(orc submit --image minimal --memory 144M -- true)
expect_exit 0 orc wait --timeout 120s "$id"
expect_equal warm false "$(field "$id" .wall.warm)"

# An idle VM that dies is replaced, and the reason is seen.
wait_until 60 idle_is 1
second=$(idle_vms)
kill -KILL "$(orc list vms -o json | jq -r --arg id "$second" '.[] | select(.id == $id) | .pid')"
pool_says() {
	[[ $(orc list pools -o json | jq -r '.[0].reason') == *"$1"* ]]
}
wait_until 20 pool_says "QEMU ended by signal 9"
wait_until 120 another_idle "$second"

# The daemon dies with a job in a warm VM, and another VM idle.
# shellcheck disable=SC2016 # the guest's shell expands it
id=$(submit --timeout 2m -- sh -c 'i=0; while [ $i -lt 150 ]; do echo $i; i=$((i+1)); sleep 0.1; done')
wait_until 60 grep -q 5 "$(job_dir "$id")/stdout"
expect_equal warm 1 "$(orc list vms -o json | jq '[.[] | select(.pooled and .job != "")] | length')"
wait_until 120 idle_is 1
third=$(idle_vms)
pid=$(orc list vms -o json | jq -r --arg id "$third" '.[] | select(.id == $id) | .pid')
kill -KILL "$(daemon_pid)"
wait_until 30 no_daemon
expect_exit 0 orc wait --timeout 120s "$id"
expect_equal stdout "$(seq 0 149)" "$(cat "$(job_dir "$id")/stdout")"
expect_equal warm true "$(field "$id" .wall.warm)"
expect_equal attempt 1 "$(field "$id" .attempt)"
wait_until 30 test ! -e "/proc/$pid/cmdline"
wait_until 120 another_idle "$third"

# The image is built anew: same files, another command line.
old=$(idle_vms) manifest=$T/images/minimal/manifest.json
digest=$(field "$id" .wall.image_digest)
jq '.kernel.cmdline = "loglevel=3"' "$manifest" >new
new=$({
	printf 'orchestrator image 1\ncmdline loglevel=3\nroot_type %s\n' "$(jq -r .root_type new)"
	for file in kernel initramfs root; do
		jq -r --arg f $file '"\($f) \(.files[$f].size) \(.files[$f].sha256)"' new
	done
} | sha256sum | cut -d' ' -f1)
jq --arg d "sha256:$new" '.digest = $d' new >manifest.new
mv manifest.new "$manifest"
# At once, before the pool has seen it.
id=$(submit -- true)
expect_exit 0 orc wait --timeout 120s "$id"
expect_equal "the image of the job" "sha256:$new" "$(field "$id" .wall.image_digest)"
[[ $digest != "sha256:$new" && $(field "$id" .vm) != "$old" ]] || fail "an old VM was used"
wait_until 120 another_idle "$old"
id=$(submit -- true)
expect_exit 0 orc wait --timeout 120s "$id"
expect_equal "the image of the next" "sha256:$new" "$(field "$id" .wall.image_digest)"

# The stop leaves nothing.
wait_until 120 idle_is 1
pid=$(orc list vms -o json | jq -r '.[0].pid')
expect_exit 0 orc stop
wait_until 10 test ! -e "/proc/$pid/cmdline"
expect_equal "what is left" "" "$(ls "$ORCHESTRATOR_RUNTIME_DIR/vm")"

# Idle VMs are no reason to stay.
export ORCHESTRATOR_IDLE_TIMEOUT=3s
expect_exit 0 orc list jobs
wait_until 60 no_daemon
expect_equal "what is left" "" "$(ls "$ORCHESTRATOR_RUNTIME_DIR/vm")"
