/* vsock-device: a vsock device for one VM, as a process beside its QEMU.
 *
 * What happens, in order:
 *  1. The two listening sockets are there: inherited, or made here. From now on nobody needs to
 *     wait for this process; who connects early is served when it gets there.
 *  2. The sandbox (sandbox.h) is closed around it, before anything was read from anybody.
 *  3. QEMU connects, once; its socket is removed. Nobody within the time: an error.
 *  4. The device is served until QEMU's connection ends, and then it and its socket are gone:
 *     a QEMU cannot connect again, so this process is of no use to any other.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "common/log.h"
#include "common/util.h"
#include "orchestrator/vsock-device/conn.h"
#include "orchestrator/vsock-device/device.h"
#include "orchestrator/vsock-device/sandbox.h"
#include "orchestrator/vsock.h"

#define DEFAULT_ACCEPT_TIMEOUT_MS 60000
#define OTHER_FDS                                                                                  \
	(VSOCK_DEVICE_FILES / 2) /* besides a connection's one: sockets, epoll, eventfds, memory   \
				  */

struct options {
	const char *socket, *uds, *log;
	uint64_t cid;
	int socket_fd, uds_fd;
	uint64_t accept_timeout_ms;
};

/* One of our sockets in the file system. Kept as directory and name, because the directory may be
 * out of sight when it is removed. */
struct endpoint_file {
	int dir_fd; /* owned */
	char name[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	int fd; /* listening; owned */
};

static void print_usage(FILE *to)
{
	fputs("usage: vsock-device --socket PATH --uds PATH --cid CID [options]\n"
	      "A vhost-user vsock device for one VM. It lives as long as its QEMU.\n"
	      "\n"
	      "  --socket PATH        QEMU connects here (vhost-user)\n"
	      "  --uds PATH           host programs connect here (\"CONNECT port\\n\"); a guest\n"
	      "                       that connects to a host port P is led to PATH_P\n"
	      "  --cid CID            the guest's context id, from 3 on\n"
	      "  --socket-fd N        the socket at --socket, listening already\n"
	      "  --uds-fd N           the socket at --uds, listening already\n"
	      "  --accept-timeout D   give up when QEMU does not connect in time (60s)\n"
	      "  --log FILE|stderr    where errors go (stderr)\n"
	      "  --version, --help\n",
		to);
}

static int bad_value(const char *option, const char *value, struct error **err)
{
	return error_set(err, ERR_INVALID, "--%s: \"%s\" is not one", option, value);
}

static int parse_option(struct options *o, const char *name, const char *value, struct error **err)
{
	uint64_t v;

	if (str_eq(name, "socket")) {
		o->socket = value;
	} else if (str_eq(name, "uds")) {
		o->uds = value;
	} else if (str_eq(name, "log")) {
		o->log = value;
	} else if (str_eq(name, "cid")) {
		/* 0 to 2 are special, the last one is "any". */
		if (parse_number(value, 3, UINT32_MAX - 1, &o->cid) < 0)
			return bad_value(name, value, err);
	} else if (str_eq(name, "accept-timeout")) {
		if (parse_duration(value, &o->accept_timeout_ms) < 0)
			return bad_value(name, value, err);
	} else {
		if (parse_number(value, 3, 65535, &v) < 0)
			return bad_value(name, value, err);
		*(str_eq(name, "socket-fd") ? &o->socket_fd : &o->uds_fd) = (int)v;
	}
	return 0;
}

/* 0: go on; 1: --help or --version was answered. */
static int parse_options(int argc, char **argv, struct options *o, struct error **err)
{
	static const struct option longs[] = {
		{"socket", required_argument, NULL, 'o'},
		{"uds", required_argument, NULL, 'o'},
		{"cid", required_argument, NULL, 'o'},
		{"socket-fd", required_argument, NULL, 'o'},
		{"uds-fd", required_argument, NULL, 'o'},
		{"accept-timeout", required_argument, NULL, 'o'},
		{"log", required_argument, NULL, 'o'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'},
		{NULL, 0, NULL, 0},
	};
	int c, i;

	while ((c = getopt_long(argc, argv, "", longs, &i)) != -1) {
		if (c == 'h')
			print_usage(stdout);
		else if (c == 'v')
			puts("vsock-device " ORCHESTRATOR_VERSION);
		if (c == 'h' || c == 'v')
			return 1;
		if (c != 'o')
			return error_set(err, ERR_INVALID, "see vsock-device --help");
		if (parse_option(o, longs[i].name, optarg, err) < 0)
			return -1;
	}
	if (optind < argc)
		return error_set(err, ERR_INVALID, "unexpected argument \"%s\"", argv[optind]);
	if (!o->socket || !o->uds || !o->cid)
		return error_set(err, ERR_INVALID, "--socket, --uds and --cid are needed");
	if (strlen(o->uds) > DEVICE_PATH_MAX)
		return error_set(err, ERR_INVALID, "--uds: longer than %d bytes", DEVICE_PATH_MAX);
	return 0;
}

static int make_socket(const char *path, struct error **err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(addr.sun_path))
		return error_set(err, ERR_INVALID, "%s: too long for a socket", path);
	memcpy(addr.sun_path, path, strlen(path));
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	mode_t old = umask(0177);
	int r = fd < 0 ? -1 : bind(fd, (const struct sockaddr *)&addr, sizeof(addr));
	umask(old);
	if (r < 0 || listen(fd, 128) < 0)
		return error_errno(err, errno, "%s", path);
	return steal_fd(fd);
}

static int check_listening(int fd, const char *path, struct error **err)
{
	struct sockaddr_un addr;
	socklen_t addr_size = sizeof(addr), size = sizeof(int);
	int listening = 0;

	if (getsockname(fd, (struct sockaddr *)&addr, &addr_size) < 0 ||
		addr.sun_family != AF_UNIX ||
		getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0 || !listening)
		return error_set(
			err, ERR_INVALID, "%s: fd %d is not a listening Unix socket", path, fd);
	return fd;
}

/* The directory of a path; owned by the caller. */
static char *directory_of(const char *path)
{
	_cleanup_free_ char *copy = xstrdup(path);

	return xstrdup(dirname(copy));
}

static int file_open(
	struct endpoint_file *file, const char *path, int inherited, struct error **err)
{
	_cleanup_free_ char *dir = directory_of(path), *copy = xstrdup(path);

	snprintf(file->name, sizeof(file->name), "%s", basename(copy));
	file->fd = inherited >= 0 ? check_listening(inherited, path, err) : make_socket(path, err);
	if (file->fd < 0)
		return -1;
	file->dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (file->dir_fd < 0)
		return error_errno(err, errno, "%s", dir);
	if (fd_set_nonblock(file->fd, true) < 0)
		return error_errno(err, errno, "%s", path);
	return 0;
}

/* Close the socket and take its name away. */
static void file_remove(struct endpoint_file *file)
{
	close_fd(&file->fd);
	if (file->dir_fd >= 0)
		unlinkat(file->dir_fd, file->name, 0);
	close_fd(&file->dir_fd);
}

static int open_log(const char *to, struct error **err)
{
	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_PLAIN);
	if (!to || str_eq(to, "stderr"))
		return 0;
	_cleanup_close_ int fd = open(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || dup2(fd, STDERR_FILENO) < 0)
		return error_errno(err, errno, "%s", to);
	tzset(); /* while its files can be read */
	log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TIMED);
	return 0;
}

static int open_signals(struct error **err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? error_errno(err, errno, "signalfd") : fd;
}

/* QEMU's connection; -1 and no error: a signal says stop. */
static int accept_qemu(int listen_fd, int stop_fd, uint64_t timeout_ms, struct error **err)
{
	uint64_t now = now_mono_usec(), end = now + timeout_ms * 1000;

	for (; now < end; now = now_mono_usec()) {
		struct pollfd fds[] = {{listen_fd, POLLIN, 0}, {stop_fd, POLLIN, 0}};
		int wait = (int)MIN((end - now + 999) / 1000, (uint64_t)60000);
		if (poll(fds, 2, wait) < 0 && errno != EINTR)
			return error_errno(err, errno, "poll");
		if (fds[1].revents)
			return -1;
		int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			return fd;
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			return error_errno(err, errno, "accepting QEMU's connection");
	}
	return error_set(err, ERR_TIMEOUT, "QEMU did not connect");
}

static int serve(const struct options *o, struct endpoint_file *qemu, struct endpoint_file *uds,
	int stop_fd, struct error **err)
{
	_cleanup_free_ char *dir = directory_of(o->uds), *rooted_path = NULL;
	bool rooted;

	if (sandbox_confine(dir, &rooted, err) < 0)
		return -1;
	rooted_path = str_printf("/%s", uds->name);
	unsigned fds = sandbox_limit(CONNS_MAX + OTHER_FDS);
	if (fds <= VSOCK_DEVICE_FILES)
		return error_set(err, ERR_LIMIT, "only %u open files are allowed", fds);
	struct device *device =
		device_new(rooted ? rooted_path : o->uds, uds->fd, o->cid, fds - OTHER_FDS);
	int r = sandbox_seal(err);
	int fd = r < 0 ? -1 : accept_qemu(qemu->fd, stop_fd, o->accept_timeout_ms, err);

	file_remove(qemu);
	if (fd >= 0)
		r = device_run(device, fd, stop_fd, err);
	else if (*err)
		r = -1;
	device_free(device);
	return r;
}

static int run(const struct options *o, struct error **err)
{
	struct endpoint_file qemu = {-1, "", -1}, uds = {-1, "", -1};
	const int keep[] = {o->socket_fd, o->uds_fd};

	sandbox_close_fds(keep, ARRAY_SIZE(keep));
	/* Buffers of connections go back to the system when they are freed. */
	mallopt(M_MMAP_THRESHOLD, 64 * 1024);
	int r = open_log(o->log, err);
	if (r == 0)
		r = file_open(&qemu, o->socket, o->socket_fd, err);
	if (r == 0)
		r = file_open(&uds, o->uds, o->uds_fd, err);
	_cleanup_close_ int stop_fd = r == 0 ? open_signals(err) : -1;
	if (r == 0)
		r = stop_fd < 0 ? -1 : serve(o, &qemu, &uds, stop_fd, err);
	/* A name that could not be bound is not ours to remove. */
	if (qemu.fd >= 0)
		file_remove(&qemu);
	if (uds.fd >= 0)
		file_remove(&uds);
	return r;
}

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>

/* Who looks for leaks at the end must trace us, and we let nobody: the unit tests look for them. */
int __lsan_is_turned_off(void)
{
	return 1;
}
#endif

int main(int argc, char **argv)
{
	_cleanup_error_ struct error *err = NULL;
	struct options o = {
		.socket_fd = -1, .uds_fd = -1, .accept_timeout_ms = DEFAULT_ACCEPT_TIMEOUT_MS};

	int r = parse_options(argc, argv, &o, &err);
	if (r == 1)
		return 0;
	if (r == 0)
		r = run(&o, &err);
	if (r == 0)
		return 0;
	log_error("vsock-device", "%s", err->text);
	return err->code == ERR_INVALID ? 2 : 1;
}
