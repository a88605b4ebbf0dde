/* The vsock device with a real QEMU and a real guest: test_vsock_device.sh runs this.
 * usage: vsock_device VSOCK-DEVICE GUEST-DIR */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "common/util.h"
#include "tests/bench/vsock_guest.h"
#include "tests/integration/vsock_vm.h"

#define BOOT_MS	    120000
#define PATIENCE_MS 30000 /* for anything that should be quick; the guest is emulated */

static const char *current;
static bool sanitized; /* a device built with SAN=1 needs more memory */

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "FAILED %s: line %d: %s (errno %d)\n", current, __LINE__,  \
				#condition, errno);                                                \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* Read until the end or until the buffer is full; -1: it took too long. */
static ssize_t read_end(int fd, char *buf, size_t size)
{
	size_t have = 0;
	ssize_t n;

	for (;;) {
		struct pollfd p = {fd, POLLIN, 0};
		if (poll(&p, 1, PATIENCE_MS) <= 0)
			return -1;
		n = read(fd, buf + have, size - have);
		if (n <= 0 || (have += (size_t)n) == size)
			return (ssize_t)have;
	}
}

static void expect(int fd, const char *text)
{
	char buf[128] = "";

	CHECK(read_end(fd, buf, strlen(text)) == (ssize_t)strlen(text));
	CHECK(str_eq(buf, text));
}

static bool ended(int fd)
{
	char c;

	return read_end(fd, &c, 1) == 0;
}

static void say(int fd, const char *text)
{
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static void echo_works(struct vsock_vm *vm)
{
	_cleanup_close_ int fd = vsock_vm_dial(vm, GUEST_ECHO);

	CHECK(fd >= 0);
	say(fd, "are you there");
	expect(fd, "are you there");
}

static void nobody_listens(struct vsock_vm *vm)
{
	uint64_t start = now_mono_usec();
	_cleanup_close_ int fd = vsock_vm_dial(vm, GUEST_NOBODY);

	CHECK(fd < 0);
	/* By the guest's RST, not by a timeout of ours. */
	CHECK(now_mono_usec() - start < 1500000);
}

static void guest_dials(struct vsock_vm *vm)
{
	_cleanup_close_ int listener = vsock_vm_listen(vm, 3000);
	_cleanup_close_ int control = vsock_vm_dial(vm, GUEST_CONTROL);

	CHECK(control >= 0);
	say(control, "dial 3000\n");
	_cleanup_close_ int fd = vsock_accept(listener, PATIENCE_MS);
	CHECK(fd >= 0);
	expect(fd, "from guest\n");
	CHECK(ended(fd));
	expect(control, "ok\n");
	say(control, "dial 3001\n"); /* nobody there: ECONNRESET */
	expect(control, "error 104\n");
}

static void host_half_closes(struct vsock_vm *vm)
{
	_cleanup_close_ int fd = vsock_vm_dial(vm, GUEST_SINK);
	_cleanup_free_ char *data = xcalloc(1, 3000000);

	CHECK(fd >= 0);
	CHECK(write_all(fd, data, 3000000) == 0);
	shutdown(fd, SHUT_WR);
	expect(fd, "3000000\n"); /* the guest's answer comes after our end */
	CHECK(ended(fd));
}

static void guest_half_closes(struct vsock_vm *vm)
{
	_cleanup_close_ int result = vsock_vm_listen(vm, GUEST_RESULT);
	_cleanup_close_ int fd = vsock_vm_dial(vm, GUEST_HALF);

	CHECK(fd >= 0);
	expect(fd, "hello");
	CHECK(ended(fd));
	say(fd, "the guest still reads");
	close_fd(&fd);
	_cleanup_close_ int count = vsock_accept(result, PATIENCE_MS);
	CHECK(count >= 0);
	expect(count, "21\n");
}

static void bytes_are_unharmed(struct vsock_vm *vm)
{
	enum { BYTES = 20000000 };
	_cleanup_close_ int fd = vsock_vm_dial(vm, GUEST_SOURCE);
	_cleanup_free_ unsigned char *buf = xmalloc(BYTES);
	const uint64_t n = BYTES;

	CHECK(fd >= 0);
	CHECK(write(fd, &n, sizeof(n)) == sizeof(n));
	CHECK(read_end(fd, (char *)buf, BYTES) == BYTES);
	/* The guest repeats a block of whole periods, so the pattern never breaks. */
	for (size_t i = 0; i < BYTES; i++)
		if (buf[i] != i % 251)
			CHECK(!"pattern");
	CHECK(ended(fd));
}

static void a_slow_reader_stalls_nobody(struct vsock_vm *vm)
{
	enum { BYTES = 4000000 };
	_cleanup_close_ int listener = vsock_vm_listen(vm, 3000);
	_cleanup_close_ int control = vsock_vm_dial(vm, GUEST_CONTROL);
	_cleanup_free_ char *buf = xmalloc(BYTES);

	say(control, "flood 3000 4000000\n");
	_cleanup_close_ int flood = vsock_accept(listener, PATIENCE_MS);
	CHECK(flood >= 0);
	/* It is full soon, and nobody reads it; others do not notice. */
	for (unsigned i = 0; i < 20; i++)
		echo_works(vm);
	CHECK(sanitized || rss_kib(vm->device, "RssAnon") < 4096);
	CHECK(read_end(flood, buf, BYTES) == BYTES);
	expect(control, "ok\n");
}

static void hundred_at_once(struct vsock_vm *vm)
{
	enum { N = 100 };
	int fds[N];
	char text[32];

	for (unsigned i = 0; i < N; i++) {
		fds[i] = vsock_vm_dial(vm, GUEST_ECHO);
		CHECK(fds[i] >= 0);
	}
	for (unsigned i = 0; i < N; i++) {
		snprintf(text, sizeof(text), "number %u", i);
		say(fds[i], text);
	}
	for (unsigned i = N; i-- > 0;) {
		snprintf(text, sizeof(text), "number %u", i);
		expect(fds[i], text);
		close(fds[i]);
	}
}

static void host_peer_is_killed(struct vsock_vm *vm)
{
	_cleanup_close_ int result = vsock_vm_listen(vm, GUEST_RESULT);
	int fd = vsock_vm_dial(vm, GUEST_HALF), said[2];
	char c;

	CHECK(fd >= 0 && pipe(said) == 0);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		say(fd, "last words");
		say(said[1], "x");
		for (;;)
			pause();
	}
	close(fd);
	CHECK(read(said[0], &c, 1) == 1);
	close(said[0]);
	close(said[1]);
	kill(pid, SIGKILL);
	CHECK(wait_pid(pid, PATIENCE_MS) != -1);
	_cleanup_close_ int count = vsock_accept(result, PATIENCE_MS);
	CHECK(count >= 0);
	expect(count, "10\n");
}

static void guest_reboots(struct vsock_vm *vm)
{
	_cleanup_close_ int open = vsock_vm_dial(vm, GUEST_ECHO);
	_cleanup_close_ int control = vsock_vm_dial(vm, GUEST_CONTROL);

	CHECK(open >= 0 && control >= 0);
	say(control, "reboot\n");
	CHECK(vsock_vm_wait_ready(vm, BOOT_MS) == 0);
	CHECK(ended(open));
	CHECK(ended(control));
	echo_works(vm);
}

/* One command; waits for its answer among QEMU's events. */
static void qmp(int fd, const char *command)
{
	char text[4096];
	size_t n = 0;

	CHECK(dprintf(fd, "{\"execute\": \"%s\"}\n", command) > 0);
	do {
		CHECK(n < sizeof(text) - 1 && read_end(fd, text + n, 1) == 1);
		text[++n] = 0;
		if (text[n - 1] == '\n' && !strstr(text, "\"return\""))
			n = 0;
	} while (n == 0 || text[n - 1] != '\n');
}

/* A paused VM takes its rings from the device and gives them back: connections live on. */
static void survives_a_pause(struct vsock_vm *vm)
{
	_cleanup_close_ int fd = vsock_vm_dial(vm, GUEST_ECHO);
	_cleanup_close_ int monitor = vsock_vm_unix(vsock_vm_path(vm, "qmp"));

	CHECK(fd >= 0 && monitor >= 0);
	qmp(monitor, "qmp_capabilities");
	qmp(monitor, "stop");
	say(fd, "while it sleeps");
	_cleanup_close_ int refused = vsock_vm_dial(vm, GUEST_ECHO);
	CHECK(refused < 0);
	qmp(monitor, "cont");
	expect(fd, "while it sleeps");
}

static void device_ends_with_qemu(struct vsock_vm *vm)
{
	_cleanup_close_ int fd = vsock_vm_dial(vm, GUEST_ECHO);

	CHECK(fd >= 0);
	CHECK(access(vsock_vm_path(vm, "vhost"), F_OK) < 0); /* since QEMU has connected */
	kill(vm->qemu, SIGKILL);
	CHECK(wait_pid(vm->qemu, PATIENCE_MS) != -1);
	vm->qemu = 0;
	int status = wait_pid(vm->device, PATIENCE_MS);
	vm->device = 0;
	CHECK(status == 0);
	CHECK(access(vsock_vm_path(vm, "vsock"), F_OK) < 0);
	CHECK(ended(fd));
	_cleanup_free_ char *log = read_file(vsock_vm_path(vm, "device.log"), 65536, NULL, NULL);
	CHECK(log && str_eq(log, ""));
}

static void early_connections_are_refused(struct vsock_vm *vm)
{
	/* The device is there, the guest's driver is not. */
	_cleanup_close_ int fd = vsock_vm_ask(vm, GUEST_ECHO);
	char c;
	ssize_t n = fd < 0 ? 0 : read(fd, &c, 1);

	CHECK(n == 0 || errno == ECONNRESET);
}

int main(int argc, char **argv)
{
#define TEST(f)                                                                                    \
	{                                                                                          \
#f, f                                                                              \
	}
	static const struct {
		const char *name;
		void (*run)(struct vsock_vm *vm);
	} tests[] = {
		TEST(echo_works),
		TEST(nobody_listens),
		TEST(guest_dials),
		TEST(host_half_closes),
		TEST(guest_half_closes),
		TEST(bytes_are_unharmed),
		TEST(a_slow_reader_stalls_nobody),
		TEST(hundred_at_once),
		TEST(host_peer_is_killed),
		TEST(survives_a_pause),
		TEST(guest_reboots),
		TEST(device_ends_with_qemu),
	};
	struct vsock_vm vm;

	if (argc != 3) {
		fputs("usage: vsock_device VSOCK-DEVICE GUEST-DIR\n", stderr);
		return 2;
	}
	sanitized = strstr(argv[1], "/san/");
	vsock_vm_start(&vm, argv[1], argv[2]);
	current = "early_connections_are_refused";
	early_connections_are_refused(&vm);
	current = "boot";
	CHECK(vsock_vm_wait_ready(&vm, BOOT_MS) == 0);
	for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
		current = tests[i].name;
		tests[i].run(&vm);
		printf("ok %s\n", current);
		fflush(stdout);
	}
	vsock_vm_stop(&vm);
	return 0;
}
