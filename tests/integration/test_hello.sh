# shellcheck shell=bash
# The first example: its streams, its exit code, its record, and the proof that there was no network.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_image debian

expect_exit 0 orc run "$ROOT/examples/hello.yaml"
expect_match '^Hello from a virtual machine of its own\.$' "$T/out"
expect_match '^6 \* 7 = 42$' "$T/out"
expect_match '^network interfaces: (lo)?$' "$T/out"
id=$(last_job)
expect_equal "the file" "$(cat "$T/out")" "$(cat "$(job_dir "$id")/stdout")"
orc status -o json "$id" >record
expect_equal outcome succeeded "$(jq -r .outcome record)"
expect_equal "exit code" 0 "$(jq -r .exit_code record)"
expect_equal "network interface" false "$(jq -r .wall.network_interface record)"
expect_match '^(kvm|tcg)$' <(jq -r .wall.accelerator record)
expect_match '^(kernel|user)$' <(jq -r .wall.vsock_device record)
expect_equal "a stage that is out of order" "" "$(jq -r '[.times_usec | .submitted, .started,
	.domain_created, .kernel_up, .worker_ready, .inputs_sent, .program_started, .first_byte,
	.program_ended, .collected, .recorded] as $t | range(1; $t | length) |
	select($t[.] == null or $t[.] < $t[. - 1])' record)"
expect_exit 0 orc status --timing "$id"
expect_exit 0 orc wait "$id"
jq -e '.outcome == "succeeded"' "$(job_dir "$id")/result.json" >/dev/null || fail "result.json"

# A second run uses the same daemon.
pid=$(daemon_pid)
expect_exit 0 orc run --image "$IMAGE" -- true
expect_equal daemon "$pid" "$(daemon_pid)"
