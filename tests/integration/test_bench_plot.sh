# shellcheck shell=bash
# The benchmark's picture, both kinds; what stood in the file before is replaced.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_bench_image "$IMAGE"
command -v gnuplot >/dev/null || not_verified "no gnuplot"

echo old >bench.svg
expect_exit 0 orc bench --quick --rounds 1 --image "$IMAGE" --plot bench.svg
expect_match '^<\?xml' bench.svg
expect_match '</svg>' bench.svg
expect_match 'gRPC on vsock' bench.svg
expect_exit 0 orc bench --quick --rounds 1 --image "$IMAGE" --plot bench.png
expect_equal "a PNG's first bytes" "89504e470d0a1a0a" "$(head -c 8 bench.png | od -An -tx1 | tr -d ' \n')"
