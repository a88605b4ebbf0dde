# shellcheck shell=bash
# `orchestrator bench`: numbers that make sense, one network interface in its VM and none in a job's,
# nothing left behind, also after Ctrl-C and SIGKILL; and what is wrong is said before a VM is made.
. "$(dirname "${BASH_SOURCE[0]}")/bench.sh"

# Wrong from the start.
expect_exit 2 orc bench --rounds 0
expect_exit 2 orc bench --calls 12x
expect_exit 2 orc bench --stream-time 1
expect_exit 2 orc bench --plot picture.pdf
expect_match '\.svg or \.png' "$T/err"
expect_exit 2 orc bench --csv /nonexistent/x.csv
expect_exit 2 orc bench -o name
expect_exit 2 orc bench something
expect_exit 125 orc bench --quick --image nosuchimage
expect_match 'nosuchimage' "$T/err"
nothing_left
need_bench_image "$IMAGE"
if [[ ! -e /dev/vhost-vsock ]]; then
	expect_exit 125 env ORCHESTRATOR_VSOCK=kernel "$ORC" bench --quick --image "$IMAGE"
	expect_match 'modprobe vhost_vsock' "$T/err"
	nothing_left
fi

expect_exit 0 orc bench --quick --image "$IMAGE" -o json --csv bench.csv
cp "$T/out" bench.json
nothing_left
expect_equal "network interfaces" 1 "$(jq .conditions.network_interfaces bench.json)"
expect_equal "its devices" 1 "$(jq '[.conditions.devices[] | select(test("net"))] | length' bench.json)"
expect_match '^(kvm|tcg)$' <(jq -r .conditions.accelerator bench.json)
expect_match '^(kernel|user)$' <(jq -r .conditions.vsock_device bench.json)
expect_match '^[1-9]' <(jq -r .conditions.qemu bench.json)
expect_equal "calls that were counted" "80 80 80 80" "$(jq -r '[.call[].n] | join(" ")' bench.json)"
expect_equal "times out of order" "" "$(jq -r '.call[], .connect[] | select(.p50 <= 0 or
	.p90 < .p50 or .p99 < .p90 or .["p99.9"] < .p99 or .max < .["p99.9"])' bench.json)"
expect_equal "streams" 28 "$(jq '.stream | length' bench.json)"
expect_equal "streams without a rate" "" "$(jq -r '.stream[] | select(.mib_per_s <= 0 or
	(.rounds_mib_per_s | length) != 2)' bench.json)"
expect_equal "lines of CSV" 145 "$(wc -l <bench.csv)"

# A job that ran before, runs now or comes later has no interface, nor the word.
expect_exit 0 orc run --image "$IMAGE" -- sh -c 'cat /proc/cmdline /proc/net/dev'
expect_no_match 'orchestrator\.bench|eth|ens' "$T/out"
expect_equal "a job's interface" false "$(field "$(last_job)" .wall.network_interface)"

# No gnuplot: the numbers come all the same. The daemon above runs beside it.
mkdir bin
for program in mke2fs qemu-system-x86_64 qemu-img; do
	[[ ! -x $(command -v $program) ]] || ln -s "$(command -v $program)" bin/
done
expect_exit 1 env PATH="$PWD/bin" "$ORC" bench --quick --image "$IMAGE" --plot bench.svg
expect_match 'apt-get install gnuplot-nox' "$T/err"
expect_match '^gRPC call' "$T/out"
[[ ! -e bench.svg ]] || fail "a picture without gnuplot"
# Ctrl-C, while the VM boots and while it measures.
for seconds in 1 5; do
	code=0
	timeout --foreground --preserve-status --signal=INT --kill-after=60 "$seconds" \
		"$ORC" bench --image "$IMAGE" --rounds 50 >"$T/out" 2>"$T/err" || code=$?
	expect_equal "exit code when interrupted" 130 "$code"
	expect_equal "said when interrupted" "" "$(cat "$T/out" "$T/err")"
	nothing_left
done

# Killed: the next one sweeps.
"$ORC" bench --image "$IMAGE" --rounds 50 >"$T/out" 2>"$T/err" &
pid=$!
wait_until 60 sh -c "ls -d '$ORCHESTRATOR_RUNTIME_DIR'/bench/vm/vm-*/vsock.sock ||
	ls -d '$ORCHESTRATOR_RUNTIME_DIR'/bench/vm/vm-*/console.sock"
expect_exit 125 orc bench --quick --image "$IMAGE"
expect_match 'another benchmark runs' "$T/err"
sleep 3
kill -KILL "$pid"
wait "$pid" 2>/dev/null || true
expect_exit 0 orc bench --quick --rounds 1 --image "$IMAGE"
nothing_left
