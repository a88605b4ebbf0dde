/* What a test asks of AF_VSOCK and /dev/vhost-vsock, as small programs: one static binary, so that
 * it runs in any guest too.
 *
 *   vsock_probe hold CID          take this CID from /dev/vhost-vsock, say "held", keep it till
 * killed vsock_probe socket            may this process make an AF_VSOCK socket? vsock_probe dial
 * CID PORT [SOURCE-PORT] connect, and tell what the other side does with it
 *
 * One line on stdout tells the answer; exit 0 means that there is one. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vhost.h>
#include <linux/vm_sockets.h>

/* How long a server that has not closed the connection is taken to have let us in. */
#define OPEN_AFTER_MS 20000

static int hold(const char *cid_text)
{
	uint64_t cid = strtoull(cid_text, NULL, 10);
	int fd = open("/dev/vhost-vsock", O_RDWR | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, VHOST_VSOCK_SET_GUEST_CID, &cid) < 0) {
		printf("refused: %s\n", strerror(errno));
		return 1;
	}
	puts("held");
	fflush(stdout);
	for (;;)
		pause();
}

static int try_socket(void)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	printf("%s\n", fd < 0 ? strerror(errno) : "allowed");
	return 0;
}

/* gRPC's server speaks first, its settings; who is not welcome hears nothing. */
static const char *listen_to(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char byte;

	if (poll(&p, 1, OPEN_AFTER_MS) == 0)
		return "open: connected, and nothing said";
	ssize_t n = recv(fd, &byte, 1, 0);
	if (n < 0)
		return errno == ECONNRESET ? "closed: reset without a byte" : strerror(errno);
	return n == 0 ? "closed: ended without a byte" : "open: the server spoke";
}

static int dial(const char *cid, const char *port, const char *source)
{
	struct sockaddr_vm to = {.svm_family = AF_VSOCK,
		.svm_cid = (uint32_t)strtoul(cid, NULL, 10),
		.svm_port = (uint32_t)strtoul(port, NULL, 10)};
	struct sockaddr_vm from = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (source)
		from.svm_port = (uint32_t)strtoul(source, NULL, 10);
	if (fd < 0)
		printf("no socket: %s\n", strerror(errno));
	else if (source && bind(fd, (const struct sockaddr *)&from, sizeof(from)) < 0)
		printf("no such source port: %s\n", strerror(errno));
	else if (connect(fd, (const struct sockaddr *)&to, sizeof(to)) < 0)
		printf("no connection: %s\n", strerror(errno));
	else
		puts(listen_to(fd));
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "hold") == 0)
		return hold(argv[2]);
	if (argc == 2 && strcmp(argv[1], "socket") == 0)
		return try_socket();
	if ((argc == 4 || argc == 5) && strcmp(argv[1], "dial") == 0)
		return dial(argv[2], argv[3], argv[4]);
	fputs("usage: vsock_probe hold CID | socket | dial CID PORT [SOURCE-PORT]\n", stderr);
	return 2;
}
