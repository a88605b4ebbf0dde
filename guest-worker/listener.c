#include "guest-worker/listener.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/sock.h"
#include "common/util.h"

#define BACKLOG		 4
#define ANNOUNCE_WAIT_MS 1000
/* After a failure to accept that is not the peer's: no descriptors, no memory. */
#define PAUSE_MS 100

struct listener {
	struct worker *worker; /* borrowed */
	int fd;
	int stop; /* eventfd */
	bool vsock;
	bool privileged; /* from ports below 1024 only */
	bool running;
	char *unix_path; /* owned; removed at the end */
	pthread_t thread;
};

bool listener_cid_allowed(uint32_t cid)
{
	return cid == WORKER_CID_HOST;
}

bool listener_port_is_privileged(uint32_t port)
{
	return port < 1024;
}

int listener_check_peer(int fd, bool vsock, bool privileged, struct error **err)
{
	uint32_t cid, port;
	uid_t uid;
	pid_t pid;

	if (vsock) {
		if (sock_peer_cid(fd, &cid, &port, err) < 0)
			return error_set(err, ERR_DENIED, "a connection without a peer's CID");
		if (!listener_cid_allowed(cid))
			return error_set(err, ERR_DENIED,
				"a connection from CID %u, which is not the host", cid);
		if (privileged && !listener_port_is_privileged(port))
			return error_set(err, ERR_DENIED,
				"a connection from port %u, which any user of the host may have",
				port);
		return 0;
	}
	if (sock_peer_uid(fd, &uid, &pid, err) < 0)
		return error_set(err, ERR_DENIED, "a connection without a peer's uid");
	if (uid != 0 && uid != geteuid())
		return error_set(err, ERR_DENIED, "a connection from uid %u", uid);
	return 0;
}

static void accept_one(struct listener *listener)
{
	_cleanup_error_ struct error *err = NULL;
	int fd = sock_accept(listener->fd, 0, &err);

	if (fd < 0) {
		if (err->code != ERR_TIMEOUT) {
			log_warn("listener", "%s", err->text);
			sleep_ms(PAUSE_MS);
		}
		return;
	}
	if (listener_check_peer(fd, listener->vsock, listener->privileged, &err) < 0) {
		close(fd);
		log_warn("listener", "%s was closed", err->text);
		return;
	}
	if (worker_serve(listener->worker, fd, &err) < 0)
		log_warn("listener", "a connection was closed: %s", err->text);
}

static void *accept_thread(void *arg)
{
	struct listener *listener = arg;

	for (;;) {
		struct pollfd fds[2] = {
			{.fd = listener->fd, .events = POLLIN},
			{.fd = listener->stop, .events = POLLIN},
		};
		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents)
			return NULL;
		if (fds[0].revents)
			accept_one(listener);
	}
}

struct listener *listener_new(struct worker *worker, uint32_t port, const char *unix_path,
	bool privileged, struct error **err)
{
	struct endpoint endpoint = {.kind = ENDPOINT_VSOCK, .cid = UINT32_MAX, .port = port};
	struct listener *listener = xcalloc(1, sizeof(*listener));

	listener->worker = worker;
	listener->fd = -1;
	listener->vsock = !unix_path;
	listener->privileged = privileged;
	listener->stop = eventfd(0, EFD_CLOEXEC);
	if (unix_path) {
		endpoint.kind = ENDPOINT_UNIX;
		if (strlen(unix_path) >= sizeof(endpoint.path)) {
			error_set(err, ERR_INVALID, "%s: too long for a socket", unix_path);
			listener_free(listener);
			return NULL;
		}
		strcpy(endpoint.path, unix_path);
	}
	listener->fd = sock_listen(&endpoint, BACKLOG, 0600, err);
	if (listener->fd < 0) {
		listener_free(listener);
		return NULL;
	}
	listener->unix_path = xstrdup(unix_path);
	return listener;
}

int listener_start(struct listener *listener, struct error **err)
{
	int r = pthread_create(&listener->thread, NULL, accept_thread, listener);

	if (r)
		return error_errno(err, r, "a thread to accept connections");
	listener->running = true;
	return 0;
}

void listener_free(struct listener *listener)
{
	uint64_t one = 1;

	if (!listener)
		return;
	if (listener->running && write(listener->stop, &one, sizeof(one)) == sizeof(one))
		pthread_join(listener->thread, NULL);
	if (listener->unix_path)
		unlink(listener->unix_path);
	free(listener->unix_path);
	close_fd(&listener->fd);
	close_fd(&listener->stop);
	free(listener);
}

void listener_announce(uint32_t port, const char *boot_id)
{
	const struct endpoint host = {.kind = ENDPOINT_VSOCK, .cid = WORKER_CID_HOST, .port = port};
	const struct timeval limit = {.tv_sec = ANNOUNCE_WAIT_MS / 1000};
	_cleanup_error_ struct error *err = NULL;
	_cleanup_close_ int fd = sock_connect(&host, ANNOUNCE_WAIT_MS, &err);
	char line[64];

	if (fd < 0) {
		log_debug("listener", "announcing to the host: %s", err->text);
		return;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	int n = snprintf(line, sizeof(line), "ready %.40s\n", boot_id);
	if (write_all(fd, line, (size_t)n) < 0)
		log_debug("listener", "announcing to the host failed");
}
