# shellcheck shell=bash
# Warm VMs give way to jobs that cannot use them; and an image whose VMs do not come up is no boot
# storm, has its reason shown, and holds up nobody.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image minimal
initramfs=$(image_file minimal initramfs)
copy_image minimal
cp -R "$T/images/minimal" "$T/images/broken"
rm -f "$T/images/broken/$initramfs"
cp "$IMAGES/minimal/$initramfs" "$T/images/broken/"
scribble "$T/images/broken/$initramfs"
mkdir -p "$XDG_CONFIG_HOME/orchestrator"
configure() {
	cat >"$XDG_CONFIG_HOME/orchestrator/orchestrator.yaml"
}

idle_is() {
	[[ $(orc list vms -o json | jq '[.[] | select(.state == "idle")] | length') == "$1" ]]
}

configure <<-YAML
	max_vms: 1
	pool: {minimal: {min_idle: 1, max: 1, cpus: 1, memory: 128M}}
YAML
expect_exit 0 orc list jobs
wait_until 120 idle_is 1
id=$(orc submit --image minimal --memory 144M -- echo other)
expect_exit 0 orc wait --timeout 120s "$id"
expect_equal warm false "$(field "$id" .wall.warm)"
expect_equal stdout other "$(cat "$(job_dir "$id")/stdout")"
wait_until 120 idle_is 1
expect_exit 0 orc stop

configure <<-YAML
	max_vms: 2
	pool: {broken: {min_idle: 2, max: 3, cpus: 1, memory: 128M}}
YAML
expect_exit 0 orc list jobs
failures() {
	orc list pools -o json | jq '.[0].failures'
}
some_failures() {
	(($(failures) >= 1))
}
wait_until 120 some_failures
# VMs of this pool from now on, each by its name.
for _ in {1..40}; do
	orc list vms -o name
	sleep 0.25
done | sort -u >seen
((10#$(wc -l <seen) <= 5)) || fail "$(wc -l <seen) VMs in ten seconds"
orc list pools >pools
expect_match '^broken +(backing off|open|trial) +0 .*(panic|ended|not ready)' pools
expect_exit 0 orc run --image minimal --memory 128M -- echo well
expect_equal stdout well "$(cat "$T/out")"
expect_exit 125 orc run --image broken --memory 128M -- echo well
