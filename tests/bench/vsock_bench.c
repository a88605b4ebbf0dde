/* Measures the vsock device against a real guest: see bench-vsock-device.
 * usage: vsock_bench VSOCK-DEVICE GUEST-DIR [ROUND-TRIPS [MIB [RUNS]]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#include "common/util.h"
#include "tests/bench/vsock_guest.h"
#include "tests/integration/vsock_vm.h"

#define CHUNK (256 * 1024)

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double quantile(double *v, unsigned n, double q)
{
	qsort(v, n, sizeof(*v), compare);
	return v[(unsigned)(q * (n - 1) + 0.5)];
}

static void give_up(const char *what)
{
	fprintf(stderr, "vsock_bench: %s\n", what);
	exit(1);
}

static int dial(const struct vsock_vm *vm, unsigned port)
{
	int fd = vsock_vm_dial(vm, port);

	if (fd < 0)
		give_up("the guest refuses a connection");
	return fd;
}

/* One byte there and back, n times, in microseconds. */
static void round_trips(const struct vsock_vm *vm, unsigned n, double *ret)
{
	int fd = dial(vm, GUEST_ECHO);
	char c = 'x';

	for (unsigned i = 0; i < n; i++) {
		uint64_t start = now_mono_usec();
		if (write(fd, &c, 1) != 1 || read(fd, &c, 1) != 1)
			give_up("an echo is missing");
		ret[i] = (double)(now_mono_usec() - start);
	}
	close(fd);
}

static double mib_per_second(uint64_t bytes, uint64_t start)
{
	return (double)bytes / (double)MIB / ((double)(now_mono_usec() - start) / 1e6);
}

static double to_guest(const struct vsock_vm *vm, uint64_t bytes)
{
	int fd = dial(vm, GUEST_SINK);
	_cleanup_free_ char *buf = xcalloc(1, CHUNK);
	char line[32] = "";
	uint64_t start = now_mono_usec();

	for (uint64_t left = bytes; left;) {
		ssize_t n = write(fd, buf, MIN(left, (uint64_t)CHUNK));
		if (n <= 0)
			give_up("writing to the guest");
		left -= (uint64_t)n;
	}
	shutdown(fd, SHUT_WR);
	if (read(fd, line, sizeof(line) - 1) <= 0 || strtoull(line, NULL, 10) != bytes)
		give_up("the guest got another number of bytes");
	double rate = mib_per_second(bytes, start);
	close(fd);
	return rate;
}

static double from_guest(const struct vsock_vm *vm, uint64_t bytes)
{
	int fd = dial(vm, GUEST_SOURCE);
	_cleanup_free_ char *buf = xcalloc(1, CHUNK);
	uint64_t start = now_mono_usec(), got = 0;
	ssize_t n;

	if (write(fd, &bytes, sizeof(bytes)) != sizeof(bytes))
		give_up("asking the guest");
	while ((n = read(fd, buf, CHUNK)) > 0)
		got += (uint64_t)n;
	if (got != bytes)
		give_up("the guest sent another number of bytes");
	double rate = mib_per_second(bytes, start);
	close(fd);
	return rate;
}

static void print_row(const char *name, double *v, unsigned n, const char *unit)
{
	double median = quantile(v, n, 0.5);

	printf("  %-24s %8.0f %-6s (%.0f .. %.0f)\n", name, median, unit, v[0], v[n - 1]);
}

static unsigned argument(int argc, char **argv, int i, unsigned otherwise)
{
	return argc > i ? (unsigned)strtoul(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
	struct vsock_vm vm;
	struct utsname host;
	unsigned trips = argument(argc, argv, 3, 5000);
	uint64_t bytes = argument(argc, argv, 4, 256) * MIB;
	unsigned runs = argument(argc, argv, 5, 5);

	if (argc < 3 || !trips || !bytes || !runs)
		give_up("usage: vsock_bench VSOCK-DEVICE GUEST-DIR [ROUND-TRIPS [MIB [RUNS]]]");
	vsock_vm_start(&vm, argv[1], argv[2]);
	if (vsock_vm_wait_ready(&vm, 120000) < 0)
		give_up("the guest does not start");

	_cleanup_free_ double *rtt = xcalloc(trips, sizeof(double)),
			      *p50 = xcalloc(runs, sizeof(double)),
			      *p99 = xcalloc(runs, sizeof(double)),
			      *in = xcalloc(runs, sizeof(double)),
			      *out = xcalloc(runs, sizeof(double));
	long idle = rss_kib(vm.device, "RssAnon");

	round_trips(&vm, MIN(trips, 500u), rtt); /* to warm up */
	for (unsigned i = 0; i < runs; i++) {
		round_trips(&vm, trips, rtt);
		p50[i] = quantile(rtt, trips, 0.5);
		p99[i] = quantile(rtt, trips, 0.99);
		in[i] = to_guest(&vm, bytes);
		out[i] = from_guest(&vm, bytes);
	}
	uname(&host);
	printf("vsock-device, %ld cores, Linux %s, QEMU tcg, guest of 1 vCPU\n",
		sysconf(_SC_NPROCESSORS_ONLN), host.release);
	printf("%u runs of %u round trips and %llu MiB; median (least and most)\n", runs, trips,
		(unsigned long long)(bytes / MIB));
	print_row("round trip p50", p50, runs, "us");
	print_row("round trip p99", p99, runs, "us");
	print_row("host to guest", in, runs, "MiB/s");
	print_row("guest to host", out, runs, "MiB/s");
	printf("  %-24s %8ld KiB    (idle %ld KiB; %ld KiB of files, %ld KiB of guest memory)\n",
		"private memory", rss_kib(vm.device, "RssAnon"), idle,
		rss_kib(vm.device, "RssFile"), rss_kib(vm.device, "RssShmem"));
	vsock_vm_stop(&vm);
	return 0;
}
