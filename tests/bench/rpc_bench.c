/* rpc_bench [CALLS]: a small unary call (Addition) over a Unix socketpair between two processes, by
 * common/rpc, by the bare C core of gRPC, and the same bytes over the raw socket. The bare core has
 * one thread at each end and no limits, deadlines or cancellation: what the layer costs is what it
 * adds.
 *
 * Each has a caller and a callee of its own, since all that a process has of gRPC shares one epoll
 * set and the threads that wait for it. They take turns, some calls each, so that what else the
 * machine does meets all of them. Those whose answer comes from another thread are compared with
 * the bare core whose answer does, too.
 *
 * The core is called directly here, against the house's rule, because it is what is measured. */
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/rpc.h"
#include "common/sock.h"
#include "common/util.h"
#include "common/worker_api.h"
#include "worker.pb-c.h"

#define CALLS	   5000
#define BLOCK	   50 /* calls of one turn */
#define WARM_UP	   300
#define TIMEOUT_MS 20000
#define RAW_BYTES  16

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "rpc_bench: %s\n", what);
	exit(1);
}

/* Messages, made and read the same way for both. ------------------------------------------------
 */

static grpc_byte_buffer *pack(const ProtobufCMessage *message)
{
	grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));

	protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
	grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
	grpc_slice_unref(slice);
	return buffer;
}

static ProtobufCMessage *unpack(grpc_byte_buffer *buffer, const ProtobufCMessageDescriptor *type)
{
	grpc_byte_buffer_reader reader;

	if (!buffer || !grpc_byte_buffer_reader_init(&reader, buffer))
		die("bare core: no message");
	grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
	ProtobufCMessage *message = protobuf_c_message_unpack(
		type, NULL, GRPC_SLICE_LENGTH(slice), GRPC_SLICE_START_PTR(slice));
	grpc_slice_unref(slice);
	grpc_byte_buffer_reader_destroy(&reader);
	if (!message)
		die("bare core: not a message");
	return message;
}

/* The bare core. --------------------------------------------------------------------------------
 */

static void run_batch(grpc_call *call, grpc_completion_queue *queue, const grpc_op *ops, size_t n)
{
	if (grpc_call_start_batch(call, ops, n, call, NULL) != GRPC_CALL_OK)
		die("bare core: a batch was refused");
	grpc_event ev = grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
	if (ev.type != GRPC_OP_COMPLETE || !ev.success)
		_exit(0); /* the other end is gone */
}

struct core_later {
	grpc_call *call;
	const grpc_op *ops;
	size_t n;
};

static void give(void *what);

static void core_serve_one(grpc_server *server, grpc_completion_queue *queue, bool later)
{
	Worker__V1__AdditionReply reply = WORKER__V1__ADDITION_REPLY__INIT;
	grpc_metadata_array metadata;
	grpc_call_details details;
	grpc_byte_buffer *in = NULL;
	grpc_call *call = NULL;
	int cancelled;

	grpc_metadata_array_init(&metadata);
	grpc_call_details_init(&details);
	grpc_server_request_call(server, &call, &details, &metadata, queue, queue, server);
	grpc_event ev = grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
	if (ev.type != GRPC_OP_COMPLETE || !ev.success)
		_exit(0);
	run_batch(call, queue,
		(grpc_op[]){{.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &in}},
		1);
	ProtobufCMessage *message = unpack(in, &worker__v1__addition_request__descriptor);
	const Worker__V1__AdditionRequest *request = (const Worker__V1__AdditionRequest *)message;
	reply.c = request->a + request->b;
	protobuf_c_message_free_unpacked(message, NULL);
	grpc_byte_buffer *out = pack(&reply.base);
	const grpc_op ops[] = {
		{.op = GRPC_OP_SEND_INITIAL_METADATA},
		{.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = out},
		{.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
			.data.send_status_from_server.status = GRPC_STATUS_OK},
		{.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
			.data.recv_close_on_server.cancelled = &cancelled},
	};
	struct core_later given = {call, ops, ARRAY_SIZE(ops)};
	if (later) {
		give(&given);
		ev = grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
		if (ev.type != GRPC_OP_COMPLETE || !ev.success)
			_exit(0);
	} else {
		run_batch(call, queue, ops, ARRAY_SIZE(ops));
	}
	grpc_byte_buffer_destroy(in);
	grpc_byte_buffer_destroy(out);
	grpc_call_unref(call);
	grpc_call_details_destroy(&details);
	grpc_metadata_array_destroy(&metadata);
}

static void *core_answer_later(void *arg);

static _Noreturn void core_serve(int fd, bool later)
{
	grpc_init();
	grpc_completion_queue *queue = grpc_completion_queue_create_for_next(NULL);
	grpc_server *server = grpc_server_create(NULL, NULL);
	grpc_server_credentials *plain = grpc_insecure_server_credentials_create();

	grpc_server_register_completion_queue(server, queue, NULL);
	grpc_server_start(server);
	grpc_server_add_channel_from_fd(server, fd, plain);
	pthread_t thread;
	if (later && pthread_create(&thread, NULL, core_answer_later, NULL) != 0)
		die("thread");
	for (;;)
		core_serve_one(server, queue, later);
}

static void core_call(grpc_channel *channel, grpc_completion_queue *queue, int64_t a, int64_t b)
{
	Worker__V1__AdditionRequest request = WORKER__V1__ADDITION_REQUEST__INIT;
	grpc_metadata_array head, trailer;
	grpc_byte_buffer *in = NULL;
	grpc_status_code status;
	grpc_slice text;

	request.a = a;
	request.b = b;
	grpc_byte_buffer *out = pack(&request.base);
	grpc_metadata_array_init(&head);
	grpc_metadata_array_init(&trailer);
	grpc_call *call = grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, queue,
		grpc_slice_from_static_string(worker_addition.path), NULL,
		gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
	const grpc_op ops[] = {
		{.op = GRPC_OP_SEND_INITIAL_METADATA},
		{.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = out},
		{.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
		{.op = GRPC_OP_RECV_INITIAL_METADATA,
			.data.recv_initial_metadata.recv_initial_metadata = &head},
		{.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &in},
		{.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
			.data.recv_status_on_client = {.trailing_metadata = &trailer,
				.status = &status,
				.status_details = &text}},
	};
	run_batch(call, queue, ops, ARRAY_SIZE(ops));
	ProtobufCMessage *reply = unpack(in, &worker__v1__addition_reply__descriptor);
	if (status != GRPC_STATUS_OK || ((Worker__V1__AdditionReply *)reply)->c != a + b)
		die("bare core: a wrong sum");
	protobuf_c_message_free_unpacked(reply, NULL);
	grpc_byte_buffer_destroy(in);
	grpc_byte_buffer_destroy(out);
	grpc_slice_unref(text);
	grpc_metadata_array_destroy(&head);
	grpc_metadata_array_destroy(&trailer);
	grpc_call_unref(call);
}

/* The layer. ------------------------------------------------------------------------------------
 */

static int handle_addition(struct rpc_call *call, void *arg, struct error **err)
{
	Worker__V1__AdditionReply reply = WORKER__V1__ADDITION_REPLY__INIT;
	ProtobufCMessage *message = NULL;

	(void)arg;
	if (rpc_recv(call, TIMEOUT_MS, &message, err) != 1)
		return -1;
	const Worker__V1__AdditionRequest *request = (const Worker__V1__AdditionRequest *)message;
	reply.c = request->a + request->b;
	rpc_message_free(message);
	return rpc_send(call, &reply.base, err);
}

static void layer_call(struct rpc_peer *peer, int64_t a, int64_t b)
{
	Worker__V1__AdditionRequest request = WORKER__V1__ADDITION_REQUEST__INIT;
	_cleanup_error_ struct error *err = NULL;
	ProtobufCMessage *reply = NULL;

	request.a = a;
	request.b = b;
	if (rpc_unary(peer, &worker_addition, &request.base, TIMEOUT_MS, &reply, &err) < 0)
		die(err->text);
	if (((Worker__V1__AdditionReply *)reply)->c != a + b)
		die("layer: a wrong sum");
	rpc_message_free(reply);
}

/* Answers that another thread gives, as the daemon's store does. --------------------------------
 */

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	void *waits; /* one call at a time */
} hand_over = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void give(void *what)
{
	pthread_mutex_lock(&hand_over.lock);
	hand_over.waits = what;
	pthread_cond_signal(&hand_over.changed);
	pthread_mutex_unlock(&hand_over.lock);
}

static void *take(void)
{
	pthread_mutex_lock(&hand_over.lock);
	while (!hand_over.waits)
		pthread_cond_wait(&hand_over.changed, &hand_over.lock);
	void *what = steal_ptr(hand_over.waits);
	pthread_mutex_unlock(&hand_over.lock);
	return what;
}

struct later {
	struct rpc_call *call;
	int64_t sum;
};

static void *answer_later(void *arg)
{
	for (;;) {
		struct later *later = take();
		Worker__V1__AdditionReply reply = WORKER__V1__ADDITION_REPLY__INIT;

		reply.c = later->sum;
		rpc_answer(later->call, &reply.base, NULL);
		free(later);
	}
	return arg;
}

static int leave_addition(struct rpc_call *call, void *arg, struct error **err)
{
	struct later *later = xmalloc(sizeof(*later));
	ProtobufCMessage *message = NULL;

	(void)arg;
	if (rpc_recv(call, TIMEOUT_MS, &message, err) != 1) {
		free(later);
		return -1;
	}
	const Worker__V1__AdditionRequest *request = (const Worker__V1__AdditionRequest *)message;
	*later = (struct later){call, request->a + request->b};
	rpc_message_free(message);
	give(later);
	return RPC_LATER;
}

/* The same by a thread of the pool, which waits: what the daemon's handlers did. */
struct waited {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool done;
};

static void *wake_waiting(void *arg)
{
	for (;;) {
		struct waited *waited = take();

		pthread_mutex_lock(&waited->lock);
		waited->done = true;
		pthread_cond_signal(&waited->changed);
		pthread_mutex_unlock(&waited->lock);
	}
	return arg;
}

static int wait_addition(struct rpc_call *call, void *arg, struct error **err)
{
	struct waited waited = {
		.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

	give(&waited);
	pthread_mutex_lock(&waited.lock);
	while (!waited.done)
		pthread_cond_wait(&waited.changed, &waited.lock);
	pthread_mutex_unlock(&waited.lock);
	return handle_addition(call, arg, err);
}

/* And by the bare core: the call's last batch is the other thread's. */
static void *core_answer_later(void *arg)
{
	for (;;) {
		struct core_later *later = take();

		if (grpc_call_start_batch(later->call, later->ops, later->n, later->call, NULL) !=
			GRPC_CALL_OK)
			die("bare core: a batch was refused");
	}
	return arg;
}

/* The raw socket. -------------------------------------------------------------------------------
 */

static _Noreturn void raw_serve(int fd)
{
	char buf[RAW_BYTES];

	while (recv(fd, buf, sizeof(buf), MSG_WAITALL) == RAW_BYTES)
		if (send(fd, buf, sizeof(buf), 0) != RAW_BYTES)
			break;
	_exit(0);
}

static void raw_call(int fd)
{
	char buf[RAW_BYTES] = {0};

	if (send(fd, buf, sizeof(buf), 0) != RAW_BYTES ||
		recv(fd, buf, sizeof(buf), MSG_WAITALL) != RAW_BYTES)
		die("raw socket");
}

/* The processes. --------------------------------------------------------------------------------
 */

/* LAYER is a command's call of a quick method. POOL: its handler runs on a thread of the pool.
 * BUSY: and the caller's process serves calls too, as the daemon does, so its own poller polls.
 * The last three need another thread for their answer, as a submit needs the store's: CORE_LATER
 * and LATER are answered by it, HELD's handler waits for it on a thread of the pool. */
enum subject { RAW, CORE, LAYER, POOL, BUSY, CORE_LATER, LATER, HELD, SUBJECTS };
static const char *const names[SUBJECTS] = {
	"raw socket",
	"bare gRPC core",
	"common/rpc",
	"  by the pool",
	"  and the poller",
	"bare core, later",
	"common/rpc, later",
	"  held by the pool",
};

static const struct rpc_service services[] = {{&worker_addition, handle_addition}};
static const struct rpc_service held[] = {{&worker_addition, wait_addition}};

static _Noreturn void layer_serve(enum subject subject, int fd)
{
	_cleanup_error_ struct error *err = NULL;
	pthread_t thread;

	rpc_init();
	struct rpc_server *server =
		rpc_server_new(subject == HELD ? held : services, 1, NULL, &rpc_limits_guest, &err);
	if (server && subject == LAYER)
		rpc_server_set_quick(server, &worker_addition, NULL);
	if (server && subject == LATER)
		rpc_server_set_quick(server, &worker_addition, leave_addition);
	if ((subject == LATER && pthread_create(&thread, NULL, answer_later, NULL) != 0) ||
		(subject == HELD && pthread_create(&thread, NULL, wake_waiting, NULL) != 0))
		die("thread");
	if (!server || rpc_server_add(server, fd, NULL, NULL, &err) < 0)
		die(err->text);
	for (;;)
		pause();
}

static _Noreturn void serve(enum subject subject, int fd)
{
	switch (subject) {
	case RAW:
		raw_serve(fd);
	case CORE:
	case CORE_LATER:
		if (fd_set_nonblock(fd, true) < 0)
			die("socket");
		core_serve(fd, subject == CORE_LATER);
	default:
		layer_serve(subject, fd);
	}
}

/* What a caller needs; made once. */
struct caller {
	enum subject subject;
	int fd;
	grpc_channel *channel;
	grpc_completion_queue *queue;
	struct rpc_peer *peer;
};

static void caller_init(struct caller *caller, enum subject subject, int fd)
{
	_cleanup_error_ struct error *err = NULL;

	*caller = (struct caller){.subject = subject, .fd = fd};
	if (subject == CORE || subject == CORE_LATER) {
		grpc_channel_credentials *plain = grpc_insecure_credentials_create();
		grpc_init();
		if (fd_set_nonblock(fd, true) < 0)
			die("socket");
		caller->queue = grpc_completion_queue_create_for_next(NULL);
		caller->channel = grpc_channel_create_from_fd("peer", fd, plain, NULL);
	} else if (subject != RAW) {
		rpc_init();
		if (subject == BUSY &&
			!rpc_server_new(services, 1, NULL, &rpc_limits_control, &err))
			die(err->text);
		caller->peer = rpc_peer_new(fd, "bench", &rpc_limits_guest, &err);
		if (!caller->peer)
			die(err->text);
	}
}

static void call_once(struct caller *caller, int i)
{
	switch (caller->subject) {
	case RAW:
		raw_call(caller->fd);
		break;
	case CORE:
	case CORE_LATER:
		core_call(caller->channel, caller->queue, 5, i);
		break;
	default:
		layer_call(caller->peer, 5, i);
	}
}

/* For each count of calls that comes by turns: make them, note their times, say so. */
static _Noreturn void take_turns(enum subject subject, int fd, int turns, uint32_t *times)
{
	struct caller caller;
	int count, total = -WARM_UP;

	caller_init(&caller, subject, fd);
	while (read(turns, &count, sizeof(count)) == sizeof(count)) {
		for (; count > 0; count--, total++) {
			uint64_t began = now_mono_usec();
			call_once(&caller, total);
			if (total >= 0)
				times[total] = (uint32_t)(now_mono_usec() - began);
		}
		if (write(turns, &count, sizeof(count)) != sizeof(count))
			break;
	}
	_exit(0);
}

static void pair_new(int ret[2])
{
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ret) < 0)
		die("socketpair");
}

/* 0 in the child, which goes when this process does. */
static pid_t child_new(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

/* Returns where turns are given. gRPC starts in the children only. */
static int start(enum subject subject, uint32_t *times)
{
	int link[2], turns[2];

	pair_new(link);
	pair_new(turns);
	if (child_new() == 0) {
		close(link[0]);
		serve(subject, link[1]);
	}
	close(link[1]);
	if (child_new() == 0) {
		close(turns[0]);
		take_turns(subject, link[0], turns[1], times);
	}
	close(link[0]);
	close(turns[1]);
	return turns[0];
}

static void give_turn(int turns, int count)
{
	if (write(turns, &count, sizeof(count)) != sizeof(count) ||
		read(turns, &count, sizeof(count)) != sizeof(count))
		die("a caller is gone");
}

static int compare(const void *a, const void *b)
{
	const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void print(uint32_t *times[SUBJECTS], int calls)
{
	printf("%-18s %10s %10s %10s %12s\n", "", "p50 us", "p90 us", "p99 us", "of bare core");
	for (int s = 0; s < SUBJECTS; s++)
		qsort(times[s], (size_t)calls, sizeof(*times[s]), compare);
	for (int s = 0; s < SUBJECTS; s++)
		printf("%-18s %10u %10u %10u %11.2fx\n", names[s], times[s][calls / 2],
			times[s][calls * 9 / 10], times[s][calls * 99 / 100],
			(double)times[s][calls / 2] /
				times[s < CORE_LATER ? CORE : CORE_LATER][calls / 2]);
}

int main(int argc, char **argv)
{
	int calls = argc > 1 ? atoi(argv[1]) : CALLS;
	uint32_t *times[SUBJECTS];
	int turns[SUBJECTS];

	if (calls < 1)
		die("usage: rpc_bench [CALLS]");
	for (int s = 0; s < SUBJECTS; s++) {
		/* The caller writes them, in its process. */
		times[s] = mmap(NULL, (size_t)calls * sizeof(*times[s]), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (times[s] == MAP_FAILED)
			die("mmap");
		turns[s] = start((enum subject)s, times[s]);
	}
	for (int s = 0; s < SUBJECTS; s++)
		give_turn(turns[s], WARM_UP);
	for (int done = 0; done < calls; done += BLOCK)
		for (int s = 0; s < SUBJECTS; s++)
			give_turn(turns[s], MIN(BLOCK, calls - done));
	print(times, calls);
	return 0;
}
