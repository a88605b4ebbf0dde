/* Theory of operation: several commands may find no daemon at the same moment. Each takes the start
 * lock (RUNTIME_DIR/start.lock) before it looks again and starts one; the next holder of the lock
 * then finds the daemon that the one before it started. A daemon that was started by other means at
 * that moment, or that is leaving, makes ours fail on the state directory's lock: then we wait
 * until it listens or is gone.
 *
 * The daemon is forked before anything of gRPC is initialised, with no signal blocked or ignored,
 * and tells on a pipe when it listens. */
#include "orchestrator/cli/connect.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/sock.h"
#include "common/util.h"
#include "orchestrator/cli/connect_start.h"
#include "orchestrator/control_api.h"

#define DIAL_MS 5000

/* The fd of a connection, -1 with ERR_UNAVAILABLE when nobody listens there. */
static int dial(const struct config *config, struct error **err)
{
	_cleanup_free_ char *path = config_control_socket(config);
	struct endpoint ep = {.kind = ENDPOINT_UNIX};

	if (strlen(path) >= sizeof(ep.path))
		return error_set(err, ERR_INVALID,
			"the control socket's path is longer than %zu bytes, set runtime_dir to a "
			"shorter one: %s",
			sizeof(ep.path) - 1, path);
	strcpy(ep.path, path);
	/* Never ask a stranger to run our jobs: in a directory that others may write to, anybody
	 * can listen. */
	struct stat st;
	if (stat(path, &st) < 0 && errno == ENOENT)
		return error_set(err, ERR_UNAVAILABLE, "no daemon listens on %s", path);
	_cleanup_error_ struct error *why = NULL;
	int fd = sock_connect(&ep, DIAL_MS, &why);
	if (fd < 0) {
		error_move(err, steal_ptr(why));
		return -1;
	}
	uid_t uid;
	if (sock_peer_uid(fd, &uid, NULL, err) < 0) {
		close_fd(&fd);
		return -1;
	}
	if (uid != geteuid() && uid != 0) {
		close_fd(&fd);
		return error_set(err, ERR_DENIED, "the daemon on %s belongs to user %u, not to you",
			path, (unsigned)uid);
	}
	return fd;
}

static bool nobody_there(const struct error *err)
{
	return err && (err->code == ERR_UNAVAILABLE || err->code == ERR_NOT_FOUND);
}

/* Wait for the start lock until the deadline. */
static int take_start_lock(const struct config *config, uint64_t deadline, struct error **err)
{
	_cleanup_free_ char *path = str_printf("%s/start.lock", config->runtime_dir);

	if (make_dirs(config->runtime_dir, config_dir_mode(), err) < 0)
		return error_wrap(err, "making the runtime directory");
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return error_errno(err, errno, "%s", path);
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return error_errno(err, errno, "locking %s", path);
		if (now_mono_usec() >= deadline)
			return error_set(err, ERR_TIMEOUT,
				"another command has been starting the daemon for %d s (%s)",
				CONNECT_START_MS / 1000, path);
		sleep_ms(20); /* flock has no deadline of its own */
	}
	return steal_fd(fd);
}

bool connect_is_locked(const struct config *config)
{
	_cleanup_free_ char *path = str_printf("%s/lock", config->state_dir);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

	return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

static int start_and_dial(const struct cli *cli, struct error **err)
{
	uint64_t deadline = now_mono_usec() + CONNECT_START_MS * UINT64_C(1000);
	_cleanup_close_ int lock = take_start_lock(cli->config, deadline, err);

	if (lock < 0)
		return -1;
	for (;;) {
		_cleanup_error_ struct error *why = NULL, *failure = NULL;
		int fd = dial(cli->config, &why);

		if (fd >= 0)
			return fd;
		if (!nobody_there(why))
			return error_move(err, steal_ptr(why));
		if (cli->verbose)
			cli_note(cli, "starting the daemon");
		if (connect_start_daemon(cli, deadline, &failure) == 0) {
			fd = dial(cli->config, err);
			return fd < 0 ? error_wrap(err, "the daemon was ready, but") : fd;
		}
		/* Asked only now: the question takes the lock for a moment when it is free. */
		while (connect_is_locked(cli->config) && now_mono_usec() < deadline) {
			sleep_ms(50); /* flock has no deadline of its own */
			fd = dial(cli->config, NULL);
			if (fd >= 0)
				return fd;
			error_free(steal_ptr(failure));
		}
		if (failure || now_mono_usec() >= deadline) {
			if (failure)
				error_move(err, steal_ptr(failure));
			else
				error_set(err, ERR_TIMEOUT,
					"another daemon has %s and does not answer",
					cli->config->state_dir);
			return error_wrap(err, "starting the daemon");
		}
	}
}

static bool same_directory(const char *a, const char *b)
{
	struct stat sa, sb;

	if (str_eq(a, b))
		return true;
	return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
	       sa.st_ino == sb.st_ino;
}

/* Is it the daemon we mean? */
static int check_daemon(
	const struct cli *cli, const Control__V1__InfoReply *info, struct error **err)
{
	if (!str_eq(info->version, ORCHESTRATOR_VERSION))
		return error_set(err, ERR_UNSUPPORTED,
			"the daemon (process %u) is version %s, this command "
			"is " ORCHESTRATOR_VERSION
			": stop it with 'orchestrator stop', the next command starts the new one",
			info->pid, info->version);
	if (!same_directory(info->state_dir, cli->config->state_dir))
		return error_set(err, ERR_STATE,
			"the daemon on %s serves the state directory %s, not %s: use --state-dir, "
			"or set "
			"runtime_dir as well",
			cli->config->runtime_dir, info->state_dir, cli->config->state_dir);
	return 0;
}

static int greet(const struct cli *cli, int fd, struct rpc_peer **ret_peer,
	Control__V1__InfoReply **ret_info, struct error **err)
{
	Control__V1__InfoRequest request = CONTROL__V1__INFO_REQUEST__INIT;
	_cleanup_message_ Control__V1__InfoReply *info = NULL;

	rpc_init();
	struct rpc_peer *peer = rpc_peer_new(fd, "the daemon", &rpc_limits_control, err);
	if (!peer) {
		rpc_quit();
		return -1;
	}
	/* `stop` must reach a daemon of another version. */
	if (connect_call(peer, &control_info, &request, CONNECT_CALL_MS, &info, err) < 0 ||
		(!str_eq(cli->command->name, "stop") && check_daemon(cli, info, err) < 0)) {
		connect_close(peer);
		return -1;
	}
	*ret_peer = peer;
	if (ret_info)
		*ret_info = steal_ptr(info);
	return 0;
}

/* Is one to be started, where none listens? Whoever leaves in order takes the socket's name away,
 * whoever dies leaves it. */
static bool may_start(const struct cli *cli, enum connect_mode mode)
{
	_cleanup_free_ char *path = config_control_socket(cli->config);

	return mode == CONNECT_START || (mode == CONNECT_AGAIN && access(path, F_OK) == 0);
}

int connect_daemon(const struct cli *cli, enum connect_mode mode, struct rpc_peer **ret_peer,
	Control__V1__InfoReply **ret_info, struct error **err)
{
	*ret_peer = NULL;
	/* Twice: a daemon that leaves because it was idle may take our connection with it. */
	for (int try = 0;; try++) {
		_cleanup_error_ struct error *why = NULL;
		int fd = dial(cli->config, &why);

		if (fd < 0 && nobody_there(why)) {
			if (!may_start(cli, mode))
				return 0;
			error_free(steal_ptr(why));
			fd = start_and_dial(cli, &why);
		}
		if (fd >= 0 && greet(cli, fd, ret_peer, ret_info, &why) == 0)
			return 0;
		if (fd < 0 || try > 0 || !nobody_there(why))
			return error_move(err, steal_ptr(why));
	}
}

void connect_close(struct rpc_peer *peer)
{
	if (!peer)
		return;
	rpc_peer_free(peer);
	rpc_quit();
}

int connect_call(struct rpc_peer *peer, const struct rpc_method *method, const void *request,
	int timeout_ms, void *ret_reply, struct error **err)
{
	return rpc_unary(peer, method, request, timeout_ms, ret_reply, err);
}

int connect_list(struct rpc_peer *peer, const struct rpc_method *method,
	const ProtobufCMessage *request, int reply_ms, json_t *(*view)(const ProtobufCMessage *),
	json_t *rows, struct error **err)
{
	struct rpc_call *call = rpc_open(peer, method, -1, err);
	ProtobufCMessage *message;
	int r = -1;

	if (!call)
		return -1;
	if (rpc_send(call, request, err) == 0 && rpc_close_send(call, err) == 0) {
		while ((r = rpc_recv(call, reply_ms, &message, err)) > 0) {
			json_array_append_new(rows, view(message));
			rpc_message_free(message);
		}
	}
	rpc_close(call);
	return r;
}
