/* PID 1 of the guest that the vsock device is tested and measured with. Static, no libraries.
 *
 * It loads the modules named in /modules (if any), listens, then dials the host's port READY, and
 * from then on serves each connection in a thread:
 *
 *   ECHO     sends back what comes, until the host ends its side
 *   SINK     reads until the host ends its side, then says how much it was: "N\n"
 *   SOURCE   reads 8 bytes, a number (little-endian), and sends so many bytes: byte i is i mod 251
 *   HALF     sends "hello", ends its side, then reads on and dials RESULT to say how much: "N\n"
 *   CONTROL  takes lines:  dial PORT     connect to the host's port: "ok" or "error ERRNO",
 *                                        and if ok send "from guest\n" there and close
 *                          flood PORT N  N bytes to the host's port, then close: "ok"
 *                          reboot, poweroff
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

#include "tests/bench/vsock_guest.h"

#define BUFFER (256 * 1024)

static int connect_host(unsigned port)
{
	struct sockaddr_vm addr = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd;
	int saved = errno;
	if (fd >= 0)
		close(fd);
	errno = saved;
	return -1;
}

static int send_all(int fd, const void *buf, size_t n)
{
	const char *p = buf;

	while (n) {
		ssize_t w = send(fd, p, n, MSG_NOSIGNAL);
		if (w <= 0)
			return -1;
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

static uint64_t read_to_end(int fd)
{
	char *buf = malloc(BUFFER);
	uint64_t total = 0;
	ssize_t n;

	while ((n = read(fd, buf, BUFFER)) > 0)
		total += (uint64_t)n;
	free(buf);
	return total;
}

static void say_count(int fd, uint64_t n)
{
	char line[32];

	send_all(fd, line, (size_t)snprintf(line, sizeof(line), "%llu\n", (unsigned long long)n));
}

static void serve_echo(int fd)
{
	char *buf = malloc(BUFFER);
	ssize_t n;

	while ((n = read(fd, buf, BUFFER)) > 0 && send_all(fd, buf, (size_t)n) == 0)
		;
	free(buf);
}

static void send_pattern(int fd, uint64_t left)
{
	/* A multiple of the pattern's length, so that each block is alike. */
	size_t size = BUFFER / 251 * 251;
	char *buf = malloc(size);

	for (size_t i = 0; i < size; i++)
		buf[i] = (char)(i % 251);
	while (left) {
		size_t n = left < size ? (size_t)left : size;
		if (send_all(fd, buf, n) < 0)
			break;
		left -= n;
	}
	free(buf);
}

static void serve_source(int fd)
{
	uint64_t n;

	if (recv(fd, &n, sizeof(n), MSG_WAITALL) == sizeof(n))
		send_pattern(fd, n);
}

static void serve_half(int fd)
{
	send_all(fd, "hello", 5);
	shutdown(fd, SHUT_WR);
	uint64_t n = read_to_end(fd);
	int result = connect_host(GUEST_RESULT);
	if (result < 0)
		return;
	say_count(result, n);
	close(result);
}

static void command(int fd, const char *line)
{
	unsigned port;
	unsigned long long n;
	char answer[64];

	if (sscanf(line, "flood %u %llu", &port, &n) == 2) {
		int host = connect_host(port);
		send_pattern(host, n);
		close(host);
		snprintf(answer, sizeof(answer), "ok\n");
	} else if (sscanf(line, "dial %u", &port) == 1) {
		int host = connect_host(port);
		snprintf(answer, sizeof(answer), host < 0 ? "error %d\n" : "ok\n", errno);
		if (host >= 0) {
			send_all(host, "from guest\n", 11);
			close(host);
		}
	} else if (!strncmp(line, "reboot", 6)) {
		reboot(RB_AUTOBOOT);
		return;
	} else if (!strncmp(line, "poweroff", 8)) {
		reboot(RB_POWER_OFF);
		return;
	} else {
		snprintf(answer, sizeof(answer), "what?\n");
	}
	send_all(fd, answer, strlen(answer));
}

static void serve_control(int fd)
{
	FILE *in = fdopen(dup(fd), "r");
	char line[128];

	while (fgets(line, sizeof(line), in))
		command(fd, line);
	fclose(in);
}

static const struct {
	unsigned port;
	void (*serve)(int fd);
} services[] = {
	{GUEST_ECHO, serve_echo},
	{GUEST_SINK, NULL},
	{GUEST_SOURCE, serve_source},
	{GUEST_HALF, serve_half},
	{GUEST_CONTROL, serve_control},
};

struct served {
	int fd;
	void (*serve)(int fd);
};

static void *serve_one(void *arg)
{
	struct served s = *(struct served *)arg;

	free(arg);
	if (s.serve)
		s.serve(s.fd);
	else
		say_count(s.fd, read_to_end(s.fd));
	close(s.fd);
	return NULL;
}

static void detach(void *(*run)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 64 * 1024);
	if (pthread_create(&thread, &attr, run, arg) != 0)
		perror("thread");
}

static void *accept_loop(void *arg)
{
	struct served listener = *(struct served *)arg;

	for (;;) {
		int fd = accept(listener.fd, NULL, NULL);
		if (fd < 0)
			continue;
		struct served *s = malloc(sizeof(*s));
		*s = (struct served){fd, listener.serve};
		detach(serve_one, s);
	}
	return NULL;
}

static void load_modules(void)
{
	FILE *list = fopen("/modules", "r");
	char path[256];

	while (list && fgets(path, sizeof(path), list)) {
		path[strcspn(path, "\n")] = 0;
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
			perror(path);
		if (fd >= 0)
			close(fd);
	}
	if (list)
		fclose(list);
}

static void listen_all(void)
{
	for (size_t i = 0; i < sizeof(services) / sizeof(services[0]); i++) {
		struct sockaddr_vm addr = {.svm_family = AF_VSOCK,
			.svm_cid = VMADDR_CID_ANY,
			.svm_port = services[i].port};
		struct served *s = malloc(sizeof(*s));
		*s = (struct served){socket(AF_VSOCK, SOCK_STREAM, 0), services[i].serve};
		if (bind(s->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
			listen(s->fd, 1024) < 0)
			perror("listen");
		detach(accept_loop, s);
	}
}

int main(void)
{
	mkdir("/dev", 0755);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	int console = open("/dev/console", O_RDWR);
	if (console >= 0) {
		dup2(console, 1);
		dup2(console, 2);
	}
	load_modules();
	listen_all();
	int ready;
	while ((ready = connect_host(GUEST_READY)) < 0)
		usleep(20000);
	close(ready);
	for (;;)
		pause();
}
