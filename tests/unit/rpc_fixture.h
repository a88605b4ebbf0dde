/* A server of the worker's methods over socketpairs, for the tests of common/rpc. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "common/rpc.h"
#include "common/util.h"
#include "common/worker_api.h"
#include "worker.pb-c.h"

#define PATIENCE_MS 20000
#define CONNS_MAX   8
/* A failed test leaves threads behind that may keep the program from ending. */
#define GIVE_UP_S 240

/* Of a connection that is found dead soon; a live peer on a busy machine may be silent for a while.
 */
#define KEEPALIVE_MS 200
#define DEAD_MS	     2000

static inline struct rpc_limits keepalive_limits(void)
{
	struct rpc_limits limits = rpc_limits_guest;

	limits.keepalive_ms = KEEPALIVE_MS;
	limits.dead_ms = DEAD_MS;
	return limits;
}

/* Numbers that threads change and the test waits for. */
struct events {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int entered;   /* handlers begun */
	int left;      /* handlers ended */
	int most;      /* that ran at once */
	int open;      /* handlers that hold may go on */
	int closed;    /* on_close called */
	int messages;  /* sent or received by a streaming handler */
	int complete;  /* uploads that ended properly */
	int broken;    /* uploads that did not */
	int cancelled; /* handlers that saw the caller leave */
	int last_code; /* of a handler's failed rpc_recv or rpc_send */
	char last_text[256];
};

struct fixture {
	struct rpc_limits limits; /* of the server and of the peers */
	struct rpc_server *server;
	struct rpc_peer *peers[CONNS_MAX];
	int n_peers;
	struct events ev;
};

static inline void events_add(struct events *ev, int *which, int n)
{
	pthread_mutex_lock(&ev->lock);
	*which += n;
	if (ev->entered - ev->left > ev->most)
		ev->most = ev->entered - ev->left;
	pthread_cond_broadcast(&ev->changed);
	pthread_mutex_unlock(&ev->lock);
}

static inline int events_get(struct events *ev, const int *which)
{
	pthread_mutex_lock(&ev->lock);
	int v = *which;
	pthread_mutex_unlock(&ev->lock);
	return v;
}

/* Wait until *which is at least n; what it is when it is, or after ms. */
static inline int events_wait_ms(struct events *ev, const int *which, int n, int ms)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += ms / 1000;
	ts.tv_nsec += ms % 1000 * 1000000L;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_sec++;
		ts.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&ev->lock);
	while (*which < n && pthread_cond_timedwait(&ev->changed, &ev->lock, &ts) == 0)
		;
	int v = *which;
	pthread_mutex_unlock(&ev->lock);
	return v;
}

static inline int events_wait(struct events *ev, const int *which, int n)
{
	return events_wait_ms(ev, which, n, PATIENCE_MS);
}

/* The value once it has not changed for a while: how far a blocked sender got. */
static inline int events_settle(struct events *ev, const int *which)
{
	for (int last = -1, v;; last = v) {
		v = events_wait_ms(ev, which, events_get(ev, which) + 1, 300);
		if (v == last)
			return v;
	}
}

static inline void note_failure(struct events *ev, const struct error *err)
{
	pthread_mutex_lock(&ev->lock);
	ev->last_code = (int)err->code;
	snprintf(ev->last_text, sizeof(ev->last_text), "%s", err->text);
	pthread_mutex_unlock(&ev->lock);
}

static inline void count_close(void *conn)
{
	struct events *ev = conn;

	events_add(ev, &ev->closed, 1);
}

/* c = a + b. When a is -1 .. -16 it fails with code -a instead; when b is 1000, without a reply. */
static inline int handle_addition(struct rpc_call *call, void *arg, struct error **err)
{
	struct fixture *f = arg;
	Worker__V1__AdditionReply reply = WORKER__V1__ADDITION_REPLY__INIT;
	ProtobufCMessage *message;

	events_add(&f->ev, &f->ev.entered, 1);
	int r = rpc_recv(call, PATIENCE_MS, &message, err);
	if (r == 1) {
		Worker__V1__AdditionRequest *q = (Worker__V1__AdditionRequest *)(void *)message;
		reply.c = q->a + q->b;
		if (q->a < 0)
			r = error_set(
				err, (enum err_code) - q->a, "first: no\nsecond: \xc3\xbc \x1b[0m");
		else if (q->b != 1000)
			r = rpc_send(call, &reply.base, err);
		rpc_message_free(message);
	} else if (r < 0) {
		note_failure(&f->ev, *err);
	}
	events_add(&f->ev, &f->ev.left, 1);
	return r < 0 ? -1 : 0;
}

/* Echo; the payload "hold" waits until the test opens, or the caller leaves. */
static inline int handle_ping(struct rpc_call *call, void *arg, struct error **err)
{
	struct fixture *f = arg;
	Worker__V1__PingReply reply = WORKER__V1__PING_REPLY__INIT;
	ProtobufCMessage *message;
	int r = rpc_recv(call, PATIENCE_MS, &message, err);

	events_add(&f->ev, &f->ev.entered, 1);
	if (r == 1) {
		Worker__V1__PingRequest *q = (Worker__V1__PingRequest *)(void *)message;
		bool hold = q->payload.len == 4 && memcmp(q->payload.data, "hold", 4) == 0;
		while (hold && !events_get(&f->ev, &f->ev.open)) {
			if (rpc_call_cancelled(call)) {
				events_add(&f->ev, &f->ev.cancelled, 1);
				break;
			}
			events_wait_ms(&f->ev, &f->ev.open, 1, 5);
		}
		reply.has_payload = q->has_payload;
		reply.payload = q->payload;
		r = rpc_send(call, &reply.base, err);
		rpc_message_free(message);
	} else if (r < 0) {
		note_failure(&f->ev, *err);
	}
	events_add(&f->ev, &f->ev.left, 1);
	return r < 0 ? -1 : 0;
}

/* The end of a handler of a stream: how it ended is counted. */
static inline int leave_stream(struct fixture *f, int r, struct error **err)
{
	if (r < 0)
		note_failure(&f->ev, *err);
	events_add(&f->ev, r < 0 ? &f->ev.broken : &f->ev.complete, 1);
	events_add(&f->ev, &f->ev.left, 1);
	return r;
}

/* Echo of what comes as input, until the caller ends its stream. */
static inline int handle_run(struct rpc_call *call, void *arg, struct error **err)
{
	struct fixture *f = arg;
	Worker__V1__RunReply reply = WORKER__V1__RUN_REPLY__INIT;
	ProtobufCMessage *message;
	int r;

	events_add(&f->ev, &f->ev.entered, 1);
	while ((r = rpc_recv(call, -1, &message, err)) == 1) {
		Worker__V1__RunRequest *q = (Worker__V1__RunRequest *)(void *)message;
		events_add(&f->ev, &f->ev.messages, 1);
		if (q->part_case == WORKER__V1__RUN_REQUEST__PART_INPUT) {
			reply.part_case = WORKER__V1__RUN_REPLY__PART_OUT;
			reply.out = q->input->data;
			r = rpc_send(call, &reply.base, err);
		}
		rpc_message_free(message);
		if (r < 0)
			break;
	}
	return leave_stream(f, r, err);
}

/* Counts chunks. Reads only once the test opened, if the first request names the user "slow". */
static inline int handle_put(struct rpc_call *call, void *arg, struct error **err)
{
	struct fixture *f = arg;
	Worker__V1__PutReply reply = WORKER__V1__PUT_REPLY__INIT;
	ProtobufCMessage *message;
	int r;

	events_add(&f->ev, &f->ev.entered, 1);
	while ((r = rpc_recv(call, -1, &message, err)) == 1) {
		Worker__V1__PutRequest *q = (Worker__V1__PutRequest *)(void *)message;
		if (str_eq(q->user, "slow"))
			while (!events_get(&f->ev, &f->ev.open) && !rpc_call_cancelled(call))
				events_wait_ms(&f->ev, &f->ev.open, 1, 5);
		bool refused = str_eq(q->user, "refused");
		reply.files++;
		for (size_t i = 0; i < q->n_records; i++)
			reply.bytes += q->records[i]->chunk.len;
		rpc_message_free(message);
		events_add(&f->ev, &f->ev.messages, 1);
		if (refused) {
			r = error_set(err, ERR_LIMIT, "disk full");
			break;
		}
	}
	if (r == 0)
		r = rpc_send(call, &reply.base, err);
	return leave_stream(f, r, err);
}

/* max_files messages with a record of max_bytes each, numbered in their first bytes. */
static inline int handle_get(struct rpc_call *call, void *arg, struct error **err)
{
	struct fixture *f = arg;
	ProtobufCMessage *message;
	int r = rpc_recv(call, PATIENCE_MS, &message, err);

	events_add(&f->ev, &f->ev.entered, 1);
	if (r == 1) {
		Worker__V1__GetRequest *q = (Worker__V1__GetRequest *)(void *)message;
		Worker__V1__GetReply reply = WORKER__V1__GET_REPLY__INIT;
		Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT, *records[] = {&record};
		reply.records = records;
		reply.n_records = 1;
		_cleanup_free_ uint8_t *data = xcalloc(1, q->max_bytes + sizeof(uint32_t));
		record.part_case = JOB__V1__FILE_RECORD__PART_CHUNK;
		record.chunk = (ProtobufCBinaryData){q->max_bytes, data};
		for (uint32_t i = 0; i < q->max_files && r >= 0; i++) {
			memcpy(data, &i, sizeof(i));
			r = rpc_send(call, &reply.base, err);
			if (r == 0)
				events_add(&f->ev, &f->ev.messages, 1);
		}
		rpc_message_free(message);
	}
	if (r < 0) {
		note_failure(&f->ev, *err);
		events_add(&f->ev, &f->ev.cancelled, rpc_call_cancelled(call));
	}
	events_add(&f->ev, &f->ev.left, 1);
	return r < 0 ? -1 : 0;
}

static const struct rpc_service fixture_services[] = {
	{&worker_addition, handle_addition},
	{&worker_ping, handle_ping},
	{&worker_run, handle_run},
	{&worker_put, handle_put},
	{&worker_get, handle_get},
};

static inline void fixture_start_with(
	struct fixture *f, const struct rpc_service *services, size_t n, struct rpc_limits limits)
{
	memset(f, 0, sizeof(*f));
	pthread_mutex_init(&f->ev.lock, NULL);
	pthread_cond_init(&f->ev.changed, NULL);
	f->limits = limits;
	f->server = rpc_server_new(services, n, f, &f->limits, NULL);
	assert_non_null(f->server);
}

static inline void fixture_start(struct fixture *f, struct rpc_limits limits)
{
	fixture_start_with(f, fixture_services, ARRAY_SIZE(fixture_services), limits);
}

/* A new connection's far end. */
static inline int fixture_dial(struct fixture *f)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(rpc_server_add(f->server, pair[0], &f->ev, count_close, NULL), 0);
	return pair[1];
}

static inline struct rpc_peer *fixture_connect(struct fixture *f)
{
	struct rpc_peer *peer = rpc_peer_new(fixture_dial(f), "worker", &f->limits, NULL);

	assert_non_null(peer);
	f->peers[f->n_peers++] = peer;
	return peer;
}

static inline void fixture_stop(struct fixture *f)
{
	events_add(&f->ev, &f->ev.open, 1);
	for (int i = 0; i < f->n_peers; i++)
		rpc_peer_free(f->peers[i]);
	rpc_server_free(f->server, 0);
	pthread_cond_destroy(&f->ev.changed);
	pthread_mutex_destroy(&f->ev.lock);
}

static inline void expect_error(struct error **err, enum err_code code, const char *part)
{
	assert_non_null(*err);
	if ((*err)->code != code || !strstr((*err)->text, part))
		fail_msg("%s \"%s\" is not %s \"%s\"", err_code_name((*err)->code), (*err)->text,
			err_code_name(code), part);
	error_free(*err);
	*err = NULL;
}

static inline int add(struct rpc_peer *peer, int64_t a, int64_t b, int64_t *ret, struct error **err)
{
	Worker__V1__AdditionRequest q = WORKER__V1__ADDITION_REQUEST__INIT;
	ProtobufCMessage *reply;

	q.a = a;
	q.b = b;
	if (rpc_unary(peer, &worker_addition, &q.base, PATIENCE_MS, &reply, err) < 0)
		return -1;
	*ret = ((Worker__V1__AdditionReply *)(void *)reply)->c;
	rpc_message_free(reply);
	return 0;
}

static inline int ping(struct rpc_peer *peer, const char *payload, size_t n, int timeout_ms,
	ProtobufCMessage **ret, struct error **err)
{
	Worker__V1__PingRequest q = WORKER__V1__PING_REQUEST__INIT;

	q.has_payload = 1;
	q.payload = (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)payload};
	return rpc_unary(peer, &worker_ping, &q.base, timeout_ms, ret, err);
}

static inline struct rpc_call *open_get(struct rpc_peer *peer, uint32_t n, size_t size)
{
	struct rpc_call *call = rpc_open(peer, &worker_get, -1, NULL);
	Worker__V1__GetRequest q = WORKER__V1__GET_REQUEST__INIT;

	assert_non_null(call);
	q.has_max_files = q.has_max_bytes = 1;
	q.max_files = n;
	q.max_bytes = size;
	assert_int_equal(rpc_send(call, &q.base, NULL), 0);
	return call;
}

static inline int send_chunk(
	struct rpc_call *call, const char *user, size_t size, struct error **err)
{
	Worker__V1__PutRequest q = WORKER__V1__PUT_REQUEST__INIT;
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT, *records[] = {&record};
	_cleanup_free_ uint8_t *data = xcalloc(1, size);

	record.part_case = JOB__V1__FILE_RECORD__PART_CHUNK;
	record.chunk = (ProtobufCBinaryData){size, data};
	q.records = records;
	q.n_records = 1;
	q.user = (char *)(uintptr_t)user;
	return rpc_send(call, &q.base, err);
}

static inline int send_input(struct rpc_call *call, const char *text, struct error **err)
{
	Worker__V1__RunStdin input = WORKER__V1__RUN_STDIN__INIT;
	Worker__V1__RunRequest q = WORKER__V1__RUN_REQUEST__INIT;

	input.has_data = 1;
	input.data = (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
	q.part_case = WORKER__V1__RUN_REQUEST__PART_INPUT;
	q.input = &input;
	return rpc_send(call, &q.base, err);
}

static inline int fixture_init(void **state)
{
	(void)state;
	alarm(GIVE_UP_S);
	rpc_init();
	rpc_init(); /* nests */
	return 0;
}

static inline int fixture_quit(void **state)
{
	(void)state;
	rpc_quit();
	rpc_quit();
	return 0;
}
