/* The process-wide side of gRPC: its start and end, its log, and what our limits mean in its terms.
 */
#include "common/rpc.h"

#include <errno.h>
#include <fcntl.h>
#include <grpc/support/log.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/rpc_internal.h"
#include "common/util.h"

/* gRPC logs what peers send; a peer must not be able to fill the log. */
#define LOG_LINES_PER_PERIOD 10
#define LOG_PERIOD_USEC	     (UINT64_C(60) * 1000 * 1000)
#define LOG_LINE_MAX	     512

const struct rpc_limits rpc_limits_guest = {
	.message = LIMIT_GUEST_MESSAGE,
	.unpacked = LIMIT_GUEST_UNPACKED,
	.window = 256 * KIB,
	.metadata = 16 * KIB,
	.calls = 8,
	/* Patient: a guest under emulation may be starved by its own job for seconds. */
	.keepalive_ms = 10000,
	.dead_ms = 20000,
};

/* No keepalive: a killed peer closes its socket, and one stopped with Ctrl-Z is not dead. */
const struct rpc_limits rpc_limits_control = {
	.message = LIMIT_CONTROL_MESSAGE,
	.unpacked = 4 * LIMIT_CONTROL_MESSAGE,
	.window = 256 * KIB,
	.metadata = 16 * KIB,
	.calls = 320, /* each `wait` and `logs -f` holds one: see the seats of control.c */
};

static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned init_count;

static void log_grpc(gpr_log_func_args *args)
{
	static atomic_uint_fast64_t period;
	static atomic_uint lines;
	bool error = args->severity == GPR_LOG_SEVERITY_ERROR;
	uint64_t now = now_mono_usec() / LOG_PERIOD_USEC + 1;

	if (atomic_exchange(&period, now) != now)
		atomic_store(&lines, 0);
	if (error && atomic_fetch_add(&lines, 1) >= LOG_LINES_PER_PERIOD)
		error = false;
	log_write(error ? LOG_LEVEL_WARN : LOG_LEVEL_DEBUG, "grpc", "%.*s", LOG_LINE_MAX,
		args->message);
}

int rpc_thread_start(pthread_t *ret, size_t stack_size, void *(*run)(void *), void *arg)
{
	sigset_t all, before;
	pthread_attr_t attr;

	sigfillset(&all);
	pthread_attr_init(&attr);
	if (stack_size)
		pthread_attr_setstacksize(&attr, stack_size);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = pthread_create(ret, &attr, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return r;
}

void rpc_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

static void start(void)
{
	sigset_t all, before;

	gpr_set_log_function(log_grpc);
	/* gRPC's own threads inherit the mask. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	grpc_init();
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	rpc_poll_start();
}

static void stop(void)
{
	rpc_poll_stop();
	/* Not grpc_shutdown(): that one may leave a thread that still frees memory at exit. */
	grpc_shutdown_blocking();
}

void rpc_init(void)
{
	pthread_mutex_lock(&init_lock);
	if (init_count++ == 0)
		start();
	pthread_mutex_unlock(&init_lock);
}

void rpc_quit(void)
{
	pthread_mutex_lock(&init_lock);
	if (--init_count == 0)
		stop();
	pthread_mutex_unlock(&init_lock);
}

static void add_int(grpc_channel_args *list, const char *key, size_t value)
{
	/* The key is const in all but its type. */
	list->args[list->num_args++] = (grpc_arg){
		.type = GRPC_ARG_INTEGER,
		.key = (char *)(uintptr_t)key,
		.value.integer = value > INT32_MAX ? INT32_MAX : (int)value,
	};
}

static void add_string(grpc_channel_args *list, const char *key, const char *value)
{
	list->args[list->num_args++] = (grpc_arg){
		.type = GRPC_ARG_STRING,
		.key = (char *)(uintptr_t)key,
		.value.string = (char *)(uintptr_t)value,
	};
}

void rpc_channel_args(
	const struct rpc_limits *limits, enum rpc_side side, grpc_arg *args, grpc_channel_args *ret)
{
	*ret = (grpc_channel_args){.args = args};
	add_int(ret, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, limits->message);
	add_int(ret, GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, limits->message);
	/* The size limit would be checked after inflating: compressed messages are handed to us as
	 * they are, and refused. */
	add_int(ret, GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0);
	add_int(ret, GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
	/* A fixed window; probing would let a fast peer make it grow. */
	add_int(ret, GRPC_ARG_HTTP2_BDP_PROBE, 0);
	add_int(ret, GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, limits->window);
	add_int(ret, GRPC_ARG_MAX_METADATA_SIZE, limits->metadata);
	add_int(ret, GRPC_ARG_ENABLE_CHANNELZ, 0);
	if (limits->keepalive_ms) {
		add_int(ret, GRPC_ARG_KEEPALIVE_TIME_MS, (size_t)limits->keepalive_ms);
		add_int(ret, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, (size_t)limits->dead_ms);
		add_int(ret, GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
		add_int(ret, GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
		/* Less than the other side's keepalive time, or its pings look like a flood. */
		add_int(ret, GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
			(size_t)limits->keepalive_ms / 2);
		/* Nor do they where this side's clock is slow, or it was stopped and finds many
		 * at once: the limit is for strangers, and a lost connection is a lost job. */
		add_int(ret, GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
	}
	if (side == RPC_SERVER) {
		add_int(ret, GRPC_ARG_MAX_CONCURRENT_STREAMS, limits->calls);
	} else {
		add_string(ret, GRPC_ARG_DEFAULT_AUTHORITY, "orchestrator");
		add_int(ret, GRPC_ARG_ENABLE_RETRIES, 0);
	}
}

int rpc_prepare_fd(int fd, struct error **err)
{
	int type, listening, flags = fcntl(fd, F_GETFD);
	socklen_t len = sizeof(type);

	if (flags < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
		getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
		return error_errno(err, errno, "socket for RPC");
	if (type != SOCK_STREAM || listening)
		return error_set(err, ERR_INTERNAL, "socket for RPC: not a connected stream");
	/* gRPC does not do this everywhere, and a blocking fd would hang its poller. */
	if (fcntl(fd, F_SETFD, flags | FD_CLOEXEC) < 0 || fd_set_nonblock(fd, true) < 0)
		return error_errno(err, errno, "socket for RPC");
	return 0;
}
