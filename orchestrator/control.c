#include "orchestrator/control.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "common/log.h"
#include "common/sock.h"
#include "orchestrator/control_api.h"
#include "orchestrator/control_private.h"

#define BACKLOG	 64
#define GRACE_MS 2000 /* for calls to see the end of what they wait for */

struct control {
	struct daemon *daemon;	   /* borrowed */
	struct rpc_server *server; /* owned */
	char *path;
	int listen_fd;
	uv_poll_t poll;
	unsigned connections;
	uv_work_t ending;
	void (*ended)(void *arg);
	void *ended_arg;
};

static const struct rpc_service services[] = {
	{&control_submit, control_handle_submit},
	{&control_submit_many, control_handle_submit_many},
	{&control_get_job, control_handle_get_job},
	{&control_list_jobs, control_handle_list_jobs},
	{&control_logs, control_handle_logs},
	{&control_wait, control_handle_wait},
	{&control_cancel, control_handle_cancel},
	{&control_retry, control_handle_retry},
	{&control_result, control_handle_result},
	{&control_list_vms, control_handle_list_vms},
	{&control_list_pools, control_handle_list_pools},
	{&control_info, control_handle_info},
	{&control_gc, control_handle_gc},
	{&control_stop, control_handle_stop},
};

/* --- seats ----------------------------------------------------------------------------------- */

/* Of the 320 threads that rpc_limits_control gives. */
static struct {
	const unsigned most;
	const char *what;
	atomic_uint taken;
} seats[] = {
	[SEATS_WATCHING] = {208, "follow a job or wait for one", 0},
	[SEATS_MOVING] = {80, "submit jobs or fetch results", 0},
};

int control_sit(enum control_seats which, struct error **err)
{
	if (atomic_fetch_add(&seats[which].taken, 1) < seats[which].most)
		return 0;
	atomic_fetch_sub(&seats[which].taken, 1);
	return error_set(err, ERR_LIMIT,
		"%u clients %s already, which is the most; try again when some have ended",
		seats[which].most, seats[which].what);
}

void control_rise(enum control_seats which)
{
	atomic_fetch_sub(&seats[which].taken, 1);
}

/* --- connections ----------------------------------------------------------------------------- */

static void connection_ended(void *arg)
{
	struct control *control = arg;

	control->connections--;
	daemon_check_idle(control->daemon);
}

/* What the server keeps with each connection. */
struct connection {
	struct control *control;
	uid_t uid;
};

static void on_close(void *arg)
{
	struct connection *connection = arg;

	loop_post(connection->control->daemon->loop, connection_ended, connection->control);
	free(connection);
}

uid_t control_caller(struct rpc_call *call)
{
	const struct connection *connection = rpc_call_conn(call);

	return connection->uid;
}

/* The socket's mode keeps others out already; this also holds where its directory was made wide. */
static int check_peer(int fd, uid_t *ret_uid, struct error **err)
{
	uid_t uid;
	pid_t pid;

	if (sock_peer_uid(fd, &uid, &pid, err) < 0)
		return -1;
	*ret_uid = uid;
	if (uid != geteuid() && uid != 0)
		return error_set(err, ERR_DENIED, "uid %u (pid %d) is not this daemon's user",
			(unsigned)uid, (int)pid);
	return 0;
}

static int let_in(struct control *control, int fd, struct error **err)
{
	_cleanup_close_ int owned = fd;
	uid_t uid;

	if (check_peer(fd, &uid, err) < 0)
		return -1;
	struct connection *connection = xmalloc(sizeof(*connection));
	*connection = (struct connection){control, uid};
	control->connections++;
	if (rpc_server_add(control->server, steal_fd(owned), connection, on_close, err) < 0) {
		control->connections--;
		free(connection);
		return -1;
	}
	daemon_check_idle(control->daemon);
	return 0;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	struct control *control = poll->data;
	_cleanup_error_ struct error *err = NULL;

	(void)events;
	if (status < 0)
		return;
	int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			log_warn("control", "no connection: %s", strerror(errno));
		return;
	}
	if (let_in(control, fd, &err) < 0)
		log_warn("control", "connection refused: %s", err->text);
}

unsigned control_connections(const struct control *control)
{
	return control->connections;
}

/* --- coming and going ------------------------------------------------------------------------ */

static int listen_on(struct control *control, struct error **err)
{
	struct endpoint ep = {.kind = ENDPOINT_UNIX};

	if (strlen(control->path) >= sizeof(ep.path))
		return error_set(err, ERR_INVALID,
			"the control socket's path is longer than %zu characters: %s; set "
			"runtime_dir "
			"to a shorter one",
			sizeof(ep.path) - 1, control->path);
	strcpy(ep.path, control->path);
	control->listen_fd = sock_listen(&ep, BACKLOG, 0600, err);
	if (control->listen_fd < 0)
		return -1;
	if (fd_set_nonblock(control->listen_fd, true) < 0)
		return error_errno(err, errno, "%s", control->path);
	return 0;
}

struct control *control_new(struct daemon *daemon, struct error **err)
{
	struct control *control = xcalloc(1, sizeof(*control));

	control->daemon = daemon;
	control->path = config_control_socket(daemon->config);
	control->listen_fd = -1;
	control->server =
		rpc_server_new(services, ARRAY_SIZE(services), daemon, &rpc_limits_control, err);
	if (control->server) {
		rpc_server_set_quick(control->server, &control_submit, control_submit_plain);
		rpc_server_set_quick(control->server, &control_get_job, control_get_job_quick);
		rpc_server_set_quick(control->server, &control_info, control_info_quick);
	}
	if (!control->server || listen_on(control, err) < 0) {
		control_free(control);
		return NULL;
	}
	uv_poll_init(loop_uv(daemon->loop), &control->poll, control->listen_fd);
	control->poll.data = control;
	uv_poll_start(&control->poll, UV_READABLE, on_readable);
	return control;
}

void control_close(struct control *control)
{
	if (control->listen_fd < 0)
		return;
	if (control->poll.data)
		uv_close((uv_handle_t *)&control->poll, NULL);
	unlink(control->path);
	close_fd(&control->listen_fd);
}

static void end_calls(uv_work_t *work)
{
	struct control *control = work->data;

	rpc_server_free(control->server, GRACE_MS);
}

static void calls_ended(uv_work_t *work, int status)
{
	struct control *control = work->data;

	(void)status;
	control->server = NULL;
	control->ended(control->ended_arg);
}

void control_end(struct control *control, void (*done)(void *arg), void *arg)
{
	/* Its handlers wait for the loop, so the loop cannot wait for them. */
	control->ended = done;
	control->ended_arg = arg;
	control->ending.data = control;
	uv_queue_work(loop_uv(control->daemon->loop), &control->ending, end_calls, calls_ended);
}

void control_free(struct control *control)
{
	if (!control)
		return;
	control_close(control);
	if (control->server)
		rpc_server_free(control->server, 0);
	free(control->path);
	free(control);
}
