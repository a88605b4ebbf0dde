#include "guest-worker/bench.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "common/bench.h"
#include "common/log.h"
#include "common/sock.h"
#include "common/util.h"
#include "guest-worker/listener.h"
#include "guest-worker/service_internal.h"

#define BACKLOG	    8
#define MAX_RAW	    8 /* raw connections at once, each with a thread */
#define MESSAGE_MS  30000
#define RAW_WAIT_MS 120000 /* a raw connection that is silent for so long is closed */
#define PAUSE_MS    100

/* Wanted or not. ---------------------------------------------------------------------------------
 */

bool bench_in_cmdline(const char *cmdline)
{
	const size_t n = strlen(BENCH_WORD);

	for (const char *p = cmdline; (p = strstr(p, BENCH_WORD)); p += n)
		if ((p == cmdline || p[-1] == ' ') && (!p[n] || p[n] == ' ' || p[n] == '\n'))
			return true;
	return false;
}

bool bench_wanted(void)
{
	_cleanup_free_ char *cmdline = read_file("/proc/cmdline", 64 * KIB, NULL, NULL);

	return cmdline && bench_in_cmdline(cmdline);
}

/* The network. -----------------------------------------------------------------------------------
 */

static struct sockaddr_in address_of(const char *text, uint32_t port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

	inet_pton(AF_INET, text, &address.sin_addr);
	return address;
}

static int set_address(
	int fd, struct ifreq *request, unsigned long what, const char *text, struct error **err)
{
	struct sockaddr_in address = address_of(text, 0);

	memcpy(&request->ifr_addr, &address, sizeof(address));
	if (ioctl(fd, what, request) < 0)
		return error_errno(err, errno, "%s: address %s", request->ifr_name, text);
	return 0;
}

static int bring_up(const char *name, struct error **err)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {0};

	if (fd < 0)
		return error_errno(err, errno, "the guest's kernel has no IPv4");
	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (set_address(fd, &request, SIOCSIFADDR, BENCH_GUEST_ADDRESS, err) < 0 ||
		set_address(fd, &request, SIOCSIFNETMASK, BENCH_GUEST_MASK, err) < 0)
		return -1;
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		return error_errno(err, errno, "bringing up %s", name);
	return 0;
}

static int bring_network_up(struct error **err)
{
	struct if_nameindex *all = if_nameindex();
	int r = -1;

	for (struct if_nameindex *i = all; i && i->if_index && r < 0; i++)
		if (!str_eq(i->if_name, "lo") && !str_eq(i->if_name, "sit0")) {
			r = bring_up(i->if_name, err);
			if_freenameindex(all);
			return r;
		}
	if (all)
		if_freenameindex(all);
	return error_set(err, ERR_UNSUPPORTED,
		"no network interface: the guest's kernel has no driver for virtio-net");
}

/* The raw service. -------------------------------------------------------------------------------
 */

static atomic_uint raw_running;

static int read_all(int fd, void *buf, size_t n)
{
	char *p = buf;

	while (n) {
		ssize_t got = recv(fd, p, n, 0);
		if (got <= 0)
			return -1;
		p += got;
		n -= (size_t)got;
	}
	return 0;
}

static void echo(int fd, char *buf)
{
	ssize_t n;

	while ((n = recv(fd, buf, BENCH_RAW_CHUNK, 0)) > 0)
		if (write_all(fd, buf, (size_t)n) < 0)
			return;
}

static int sink(int fd, char *buf, uint64_t count)
{
	while (count) {
		ssize_t n = recv(fd, buf, (size_t)MIN(count, BENCH_RAW_CHUNK), 0);
		if (n <= 0)
			return -1;
		count -= (uint64_t)n;
	}
	return write_all(fd, "", 1);
}

static int source(int fd, const char *buf, uint64_t count)
{
	while (count) {
		size_t n = (size_t)MIN(count, BENCH_RAW_CHUNK);
		if (write_all(fd, buf, n) < 0)
			return -1;
		count -= n;
	}
	return 0;
}

static void serve_raw(int fd)
{
	_cleanup_free_ char *buf = xcalloc(1, BENCH_RAW_CHUNK);
	uint8_t request[BENCH_RAW_REQUEST];
	uint64_t count;
	int r = 0;

	while (r == 0 && read_all(fd, request, sizeof(request)) == 0) {
		memcpy(&count, request + 1, sizeof(count));
		count = le64toh(count);
		switch (request[0]) {
		case 'E':
			echo(fd, buf);
			return;
		case 'S':
			r = sink(fd, buf, count);
			break;
		case 'R':
			r = source(fd, buf, count);
			break;
		default:
			return;
		}
	}
}

static void *raw_thread(void *arg)
{
	int fd = (int)(intptr_t)arg;

	serve_raw(fd);
	close(fd);
	atomic_fetch_sub(&raw_running, 1);
	return NULL;
}

static void start_raw(int fd)
{
	const struct timeval limit = {.tv_sec = RAW_WAIT_MS / 1000};
	pthread_t thread;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (atomic_fetch_add(&raw_running, 1) < MAX_RAW &&
		pthread_create(&thread, NULL, raw_thread, (void *)(intptr_t)fd) == 0) {
		pthread_detach(thread);
		return;
	}
	atomic_fetch_sub(&raw_running, 1);
	close(fd);
}

/* Listening. -------------------------------------------------------------------------------------
 */

enum { RPC_TCP, RAW_TCP, RAW_VSOCK, LISTENERS };

struct bench {
	struct worker *worker; /* borrowed */
	int fds[LISTENERS];
};

/* On the interface's own address: what is in the guest cannot come by loopback. */
static int listen_tcp(uint32_t port, struct error **err)
{
	struct sockaddr_in address = address_of(BENCH_GUEST_ADDRESS, port);
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
		bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
		listen(fd, BACKLOG) < 0)
		return error_errno(err, errno, "listening on TCP port %u", port);
	return steal_fd(fd);
}

/* As with vsock: the host, and nobody else. */
static int check_tcp_peer(int fd, struct error **err)
{
	const struct sockaddr_in host = address_of(BENCH_HOST_ADDRESS, 0);
	struct sockaddr_in peer = {0};
	socklen_t len = sizeof(peer);
	int one = 1;

	if (getpeername(fd, (struct sockaddr *)&peer, &len) < 0 || peer.sin_family != AF_INET ||
		peer.sin_addr.s_addr != host.sin_addr.s_addr)
		return error_set(err, ERR_DENIED, "a TCP connection that is not the host's");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return 0;
}

static void accept_one(const struct bench *bench, int which)
{
	_cleanup_error_ struct error *err = NULL;
	_cleanup_close_ int fd = accept4(bench->fds[which], NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0) {
		sleep_ms(PAUSE_MS);
		return;
	}
	if ((which == RAW_VSOCK ? listener_check_peer(fd, true, false, &err)
				: check_tcp_peer(fd, &err)) < 0)
		log_warn("bench", "%s was closed", err->text);
	else if (which != RPC_TCP)
		start_raw(steal_fd(fd));
	else if (worker_serve(bench->worker, steal_fd(fd), &err) < 0)
		log_warn("bench", "a connection was closed: %s", err->text);
}

static void *accept_thread(void *arg)
{
	const struct bench *bench = arg;

	for (;;) {
		struct pollfd fds[LISTENERS];

		for (int i = 0; i < LISTENERS; i++)
			fds[i] = (struct pollfd){.fd = bench->fds[i], .events = POLLIN};
		if (poll(fds, LISTENERS, -1) < 0)
			continue;
		for (int i = 0; i < LISTENERS; i++)
			if (fds[i].revents)
				accept_one(bench, i);
	}
	return NULL;
}

int bench_start(struct worker *worker, struct error **err)
{
	static struct bench bench;
	const struct endpoint vsock = {
		.kind = ENDPOINT_VSOCK, .cid = UINT32_MAX, .port = BENCH_RAW_PORT};
	pthread_t thread;

	bench.worker = worker;
	if (bring_network_up(err) < 0 || (bench.fds[RPC_TCP] = listen_tcp(WORKER_PORT, err)) < 0 ||
		(bench.fds[RAW_TCP] = listen_tcp(BENCH_RAW_PORT, err)) < 0 ||
		(bench.fds[RAW_VSOCK] = sock_listen(&vsock, BACKLOG, 0, err)) < 0)
		return -1;
	int r = pthread_create(&thread, NULL, accept_thread, &bench);
	if (r)
		return error_errno(err, r, "a thread for the benchmark");
	pthread_detach(thread);
	return 0;
}

/* The call. --------------------------------------------------------------------------------------
 */

static int send_stream(struct rpc_call *call, uint64_t bytes, uint32_t size, struct error **err)
{
	Worker__V1__BenchReply reply = WORKER__V1__BENCH_REPLY__INIT;

	if (!size || size > BENCH_PAYLOAD_MAX)
		return error_set(err, ERR_INVALID, "message_bytes is not within 1 and %llu",
			(unsigned long long)BENCH_PAYLOAD_MAX);
	_cleanup_free_ uint8_t *payload = xcalloc(1, size);
	reply.has_payload = true;
	while (bytes) {
		reply.payload = (ProtobufCBinaryData){(size_t)MIN(bytes, (uint64_t)size), payload};
		if (rpc_send(call, &reply.base, err) < 0)
			return -1;
		bytes -= reply.payload.len;
	}
	return 0;
}

static int count_stream(struct rpc_call *call, uint64_t received, struct error **err)
{
	Worker__V1__BenchReply reply = WORKER__V1__BENCH_REPLY__INIT;
	ProtobufCMessage *message = NULL;
	int r;

	while ((r = rpc_recv(call, MESSAGE_MS, &message, err)) > 0) {
		received += ((const Worker__V1__BenchRequest *)message)->payload.len;
		rpc_message_free(message);
	}
	if (r < 0)
		return -1;
	reply.has_received_bytes = true;
	reply.received_bytes = received;
	return rpc_send(call, &reply.base, err);
}

int worker_handle_bench(struct rpc_call *call, void *server_arg, struct error **err)
{
	const struct worker *worker = server_arg;

	if (worker_require_proof(call, err) < 0)
		return -1;
	if (!worker->bench)
		return error_set(err, ERR_UNSUPPORTED, "this VM was not made for a benchmark");
	ProtobufCMessage *message = worker_request(call, err);
	if (!message)
		return -1;
	const Worker__V1__BenchRequest *request = (const Worker__V1__BenchRequest *)message;
	bool sends = request->has_send_bytes;
	uint64_t bytes = request->send_bytes, received = request->payload.len;
	uint32_t size = request->message_bytes;
	rpc_message_free(message);
	return sends ? send_stream(call, bytes, size, err) : count_stream(call, received, err);
}
