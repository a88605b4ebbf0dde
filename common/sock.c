#include "common/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include <linux/vm_sockets.h>

#include "common/util.h"

/* How long another process may hold the directory while it replaces a stale socket. */
#define LISTEN_LOCK_MS 5000

/* The kernel keeps ports up to 1023 for processes with CAP_NET_BIND_SERVICE. The upper half: there
 * is no service of AF_VSOCK to collide with, and enough of them to choose at random. */
#define PRIVILEGED_FIRST 512u
#define PRIVILEGED_LAST	 1023u

char *endpoint_format(const struct endpoint *ep)
{
	switch (ep->kind) {
	case ENDPOINT_UNIX:
		return str_printf("unix:%s", ep->path);
	case ENDPOINT_HYBRID:
		return str_printf("hybrid:%s:%u", ep->path, ep->port);
	case ENDPOINT_VSOCK:
		break;
	}
	if (ep->cid == VMADDR_CID_ANY)
		return str_printf("vsock:any:%u", ep->port);
	return str_printf("vsock:%u:%u", ep->cid, ep->port);
}

/* Milliseconds until the deadline, rounded up so that a wait never ends just before it. */
static int ms_until(uint64_t deadline_usec)
{
	uint64_t now = now_mono_usec();

	return now >= deadline_usec ? 0 : (int)((deadline_usec - now + 999) / 1000);
}

/* How long to wait. */
struct patience {
	uint64_t deadline_usec;
	int cancel_fd; /* nor longer than until this is readable; -1: none */
};

/* 1: ready, 0: the deadline passed, -1 with errno. */
static int wait_ready(int fd, short events, const struct patience *patience)
{
	for (;;) {
		struct pollfd p[] = {{.fd = fd, .events = events},
			{.fd = patience->cancel_fd, .events = POLLIN}};
		int r = poll(p, ARRAY_SIZE(p), ms_until(patience->deadline_usec));
		if (r > 0 && p[1].revents) {
			errno = ECANCELED;
			return -1;
		}
		if (r >= 0)
			return r;
		if (errno != EINTR)
			return -1;
	}
}

static int set_send_timeout(int fd, int ms)
{
	struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

static int unix_address(const char *path, struct sockaddr_un *ret, struct error **err)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(ret->sun_path))
		return error_set(err, ERR_INVALID, "%s: longer than %zu bytes", path,
			sizeof(ret->sun_path) - 1);
	memcpy(ret->sun_path, path, strlen(path));
	return 0;
}

/* A full backlog makes a non-blocking connect() fail at once instead of giving something to poll,
 * so the connect() is a blocking one with a timeout. */
static int connect_unix(const char *path, uint64_t deadline_usec, struct error **err)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un sa;
	int r;

	if (fd < 0)
		return error_errno(err, errno, "socket");
	if (unix_address(path, &sa, err) < 0)
		return -1;
	do {
		int left = ms_until(deadline_usec);
		if (left == 0)
			return error_set(err, ERR_TIMEOUT, "%s: no answer in time", path);
		if (set_send_timeout(fd, left) < 0)
			return error_errno(err, errno, "%s", path);
		r = connect(fd, (const struct sockaddr *)&sa, sizeof(sa));
	} while (r < 0 && (errno == EINTR || errno == EAGAIN));
	if (r < 0)
		return error_errno(err, errno, "%s", path);
	set_send_timeout(fd, 0);
	return steal_fd(fd);
}

/* Without the right to, or where all are taken, the kernel chooses a port as usual, and the worker
 * refuses it where it was told to. At random: the other end remembers a port for seconds. */
static int bind_privileged(int fd)
{
	uint32_t start, n = PRIVILEGED_LAST - PRIVILEGED_FIRST + 1;

	random_bytes(&start, sizeof(start));
	for (uint32_t i = 0; i < n; i++) {
		struct sockaddr_vm sa = {
			.svm_family = AF_VSOCK,
			.svm_cid = VMADDR_CID_ANY,
			.svm_port = PRIVILEGED_FIRST + (start % n + i) % n,
		};
		if (bind(fd, (const struct sockaddr *)&sa, sizeof(sa)) == 0)
			return 0;
		if (errno != EADDRINUSE)
			return -1;
	}
	return -1;
}

bool sock_vsock_privileged(void)
{
	_cleanup_close_ int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && bind_privileged(fd) == 0;
}

static int connect_vsock(
	const struct endpoint *ep, const struct patience *patience, struct error **err)
{
	_cleanup_free_ char *name = endpoint_format(ep);
	_cleanup_close_ int fd = -1;
	struct sockaddr_vm sa = {
		.svm_family = AF_VSOCK,
		.svm_cid = ep->cid,
		.svm_port = ep->port,
	};
	int left = ms_until(patience->deadline_usec), error = 0;
	struct timeval tv = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};
	socklen_t len = sizeof(error);

	if (ep->cid == VMADDR_CID_ANY)
		return error_set(err, ERR_INVALID, "%s: to connect needs a CID", name);
	fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_errno(err, errno, "%s", name);
	if (ep->cid > VMADDR_CID_HOST)
		bind_privileged(fd);
	/* The kernel's own default is two seconds, less than a booting guest may need. */
	setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &tv, sizeof(tv));
	if (connect(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0) {
		if (errno != EINPROGRESS && errno != EINTR)
			return error_errno(err, errno, "%s", name);
		int r = wait_ready(fd, POLLOUT, patience);
		if (r == 0)
			return error_set(err, ERR_TIMEOUT, "%s: no answer in time", name);
		if (r < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
			return error_errno(err, errno, "%s", name);
		if (error)
			return error_errno(err, error, "%s", name);
	}
	if (fd_set_nonblock(fd, false) < 0)
		return error_errno(err, errno, "%s", name);
	return steal_fd(fd);
}

/* Read the device's answer byte by byte: what follows its newline is the guest's. */
static int read_line(
	int fd, char *buf, size_t size, const struct patience *patience, struct error **err)
{
	for (size_t n = 0; n < size;) {
		int ready = wait_ready(fd, POLLIN, patience);
		if (ready < 0)
			return error_errno(err, errno, "poll");
		if (ready == 0)
			return error_set(err, ERR_TIMEOUT, "no answer in time");
		ssize_t r = recv(fd, buf + n, 1, MSG_DONTWAIT);
		if (r < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (r < 0)
			return error_errno(err, errno, "read");
		if (r == 0)
			return error_set(err, ERR_UNAVAILABLE, "nobody listens there in the guest");
		if (buf[n] == '\n') {
			buf[n] = 0;
			return 0;
		}
		n++;
	}
	return error_set(err, ERR_INTERNAL, "the vsock device's answer is too long");
}

static int connect_hybrid(
	const struct endpoint *ep, const struct patience *patience, struct error **err)
{
	_cleanup_close_ int fd = connect_unix(ep->path, patience->deadline_usec, err);
	char line[32];
	uint64_t host_port;
	int n;

	if (fd < 0)
		return -1;
	n = snprintf(line, sizeof(line), "CONNECT %u\n", ep->port);
	if (send(fd, line, (size_t)n, MSG_NOSIGNAL) != n)
		return error_errno(err, errno, "%s", ep->path);
	if (read_line(fd, line, sizeof(line), patience, err) < 0)
		return error_wrap(err, "%s, port %u", ep->path, ep->port);
	if (!str_starts(line, "OK ") || parse_number(line + 3, 0, UINT32_MAX - 1, &host_port) < 0) {
		_cleanup_free_ char *shown = str_escape(line, strlen(line), false);
		return error_set(err, ERR_INTERNAL, "%s, port %u: the vsock device said \"%s\"",
			ep->path, ep->port, shown);
	}
	return steal_fd(fd);
}

int sock_connect_until(
	const struct endpoint *ep, int deadline_ms, int cancel_fd, struct error **err)
{
	const struct patience patience = {
		.deadline_usec = now_mono_usec() + (uint64_t)MAX(deadline_ms, 0) * 1000,
		.cancel_fd = cancel_fd,
	};

	switch (ep->kind) {
	case ENDPOINT_UNIX:
		return connect_unix(ep->path, patience.deadline_usec, err);
	case ENDPOINT_VSOCK:
		return connect_vsock(ep, &patience, err);
	case ENDPOINT_HYBRID:
		return connect_hybrid(ep, &patience, err);
	}
	return error_set(err, ERR_INTERNAL, "no such kind of address");
}

int sock_connect(const struct endpoint *ep, int deadline_ms, struct error **err)
{
	return sock_connect_until(ep, deadline_ms, -1, err);
}

/* Two processes that find the same stale socket must not each remove the other's new one. The
 * directory itself is the lock, so that no lock file stays behind. */
static int lock_directory_of(const char *path, struct error **err)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *dir =
		slash ? xstrndup(path, slash == path ? 1 : (size_t)(slash - path)) : xstrdup(".");
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	uint64_t deadline = now_mono_usec() + LISTEN_LOCK_MS * 1000;

	if (fd < 0)
		return error_errno(err, errno, "%s", dir);
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return error_errno(err, errno, "%s", dir);
		if (now_mono_usec() > deadline)
			return error_set(err, ERR_TIMEOUT, "%s: locked by another process", dir);
		sleep_ms(10);
	}
	return steal_fd(fd);
}

/* Remove the socket at path if nobody listens there. The directory is locked. */
static int remove_stale(const char *path, const struct sockaddr_un *sa, struct error **err)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : error_errno(err, errno, "%s", path);
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, ERR_EXISTS, "%s: is there, and is no socket", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_errno(err, errno, "socket");
	/* EAGAIN is a full backlog: somebody lives there. */
	if (connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) == 0 || errno == EAGAIN)
		return error_set(err, ERR_EXISTS, "%s: another process listens there", path);
	if (errno != ECONNREFUSED)
		return error_errno(err, errno, "%s", path);
	if (unlink(path) < 0)
		return error_errno(err, errno, "%s", path);
	return 0;
}

static int listen_unix(const char *path, int backlog, mode_t mode, struct error **err)
{
	_cleanup_close_ int fd = -1, lock = -1;
	struct sockaddr_un sa;

	if (unix_address(path, &sa, err) < 0)
		return -1;
	lock = lock_directory_of(path, err);
	if (lock < 0 || remove_stale(path, &sa, err) < 0)
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_errno(err, errno, "socket");
	/* The mode of the unbound socket is that of the file to come, less the umask; the chmod
	 * gives back what the umask took. Nobody can connect before the listen. */
	if (fchmod(fd, mode) < 0 || bind(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0)
		return error_errno(err, errno, "%s", sa.sun_path);
	if (chmod(path, mode) < 0 || listen(fd, backlog) < 0) {
		error_errno(err, errno, "%s", sa.sun_path);
		unlink(path);
		return -1;
	}
	return steal_fd(fd);
}

static int listen_vsock(const struct endpoint *ep, int backlog, struct error **err)
{
	_cleanup_free_ char *name = endpoint_format(ep);
	_cleanup_close_ int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_vm sa = {
		.svm_family = AF_VSOCK,
		.svm_cid = ep->cid,
		.svm_port = ep->port,
	};

	if (fd < 0 || bind(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0 ||
		listen(fd, backlog) < 0)
		return error_errno(err, errno, "%s", name);
	return steal_fd(fd);
}

int sock_listen(const struct endpoint *ep, int backlog, mode_t mode, struct error **err)
{
	_cleanup_free_ char *path = NULL;

	switch (ep->kind) {
	case ENDPOINT_UNIX:
		return listen_unix(ep->path, backlog, mode, err);
	case ENDPOINT_VSOCK:
		return listen_vsock(ep, backlog, err);
	case ENDPOINT_HYBRID:
		path = str_printf("%s_%u", ep->path, ep->port);
		return listen_unix(path, backlog, mode, err);
	}
	return error_set(err, ERR_INTERNAL, "no such kind of address");
}

int sock_accept(int listen_fd, int timeout_ms, struct error **err)
{
	uint64_t deadline = now_mono_usec() + (uint64_t)MAX(timeout_ms, 0) * 1000;

	for (;;) {
		struct pollfd p = {.fd = listen_fd, .events = POLLIN};
		int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			return fd;
		/* ECONNABORTED: the one who knocked has left; wait for the next. */
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			return error_errno(err, errno, "accept");
		int r = poll(&p, 1, timeout_ms < 0 ? -1 : ms_until(deadline));
		if (r < 0 && errno != EINTR)
			return error_errno(err, errno, "poll");
		if (r == 0)
			return error_set(err, ERR_TIMEOUT, "nobody connected in time");
	}
}

int sock_peer_uid(int fd, uid_t *ret_uid, pid_t *ret_pid, struct error **err)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return error_errno(err, errno, "SO_PEERCRED");
	/* Other families answer too, with nobody. */
	if (cred.pid == 0)
		return error_set(err, ERR_UNSUPPORTED, "the socket's peer has no process here");
	*ret_uid = cred.uid;
	if (ret_pid)
		*ret_pid = cred.pid;
	return 0;
}

int sock_peer_cid(int fd, uint32_t *ret_cid, uint32_t *ret_port, struct error **err)
{
	struct sockaddr_storage ss;
	struct sockaddr_vm vm;
	socklen_t len = sizeof(ss);

	if (getpeername(fd, (struct sockaddr *)&ss, &len) < 0)
		return error_errno(err, errno, "getpeername");
	if (ss.ss_family != AF_VSOCK || len < sizeof(vm))
		return error_set(err, ERR_UNSUPPORTED, "not a vsock connection");
	memcpy(&vm, &ss, sizeof(vm));
	*ret_cid = vm.svm_cid;
	if (ret_port)
		*ret_port = vm.svm_port;
	return 0;
}
