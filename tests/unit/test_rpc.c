/* Calls between ends that keep to the rules. */
#include "tests/unit/rpc_fixture.h"

#include <dirent.h>

#include "common/sock.h"

static void unary_calls_reach_the_handler_and_come_back(void **state)
{
	struct fixture f;
	int64_t sum = 0;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	struct rpc_peer *peer = fixture_connect(&f);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(add(peer, 5, i, &sum, NULL), 0);
		assert_int_equal(sum, 5 + i);
	}
	fixture_stop(&f);
	assert_int_equal(f.ev.entered, 100);
}

/* Who dialled does not matter: the side that accepted may be the caller. */
static void the_side_that_accepted_may_call(void **state)
{
	struct endpoint ep = {.kind = ENDPOINT_UNIX};
	struct fixture f;
	int64_t sum = 0;

	(void)state;
	snprintf(ep.path, sizeof(ep.path), "/tmp/test_rpc.%d", (int)getpid());
	int listener = sock_listen(&ep, 1, 0600, NULL);
	assert_true(listener >= 0);
	int dialled = sock_connect(&ep, PATIENCE_MS, NULL);
	int accepted = sock_accept(listener, PATIENCE_MS, NULL);
	close(listener);
	unlink(ep.path);
	assert_true(dialled >= 0 && accepted >= 0);
	fixture_start(&f, rpc_limits_control);
	assert_int_equal(rpc_server_add(f.server, dialled, &f.ev, count_close, NULL), 0);
	struct rpc_peer *peer = rpc_peer_new(accepted, "worker", &f.limits, NULL);
	assert_non_null(peer);
	assert_int_equal(add(peer, 5, 7, &sum, NULL), 0);
	assert_int_equal(sum, 12);
	rpc_peer_free(peer);
	fixture_stop(&f);
}

static void empty_messages_travel(void **state)
{
	struct fixture f;
	Worker__V1__PingRequest q = WORKER__V1__PING_REQUEST__INIT;
	ProtobufCMessage *reply = NULL;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	struct rpc_peer *peer = fixture_connect(&f);
	assert_int_equal(rpc_unary(peer, &worker_ping, &q.base, PATIENCE_MS, &reply, NULL), 0);
	rpc_message_free(reply);
	fixture_stop(&f);
}

static void a_stream_of_replies_comes_whole_and_in_order(void **state)
{
	struct fixture f;
	ProtobufCMessage *message;
	struct error *err = NULL;
	uint32_t n = 0, number;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	struct rpc_call *call = open_get(fixture_connect(&f), 300, 20000);
	int r;
	while ((r = rpc_recv(call, PATIENCE_MS, &message, &err)) == 1) {
		const Worker__V1__GetReply *reply = (Worker__V1__GetReply *)(void *)message;
		assert_int_equal(reply->n_records, 1);
		const Job__V1__FileRecord *record = reply->records[0];
		assert_int_equal(record->chunk.len, 20000);
		memcpy(&number, record->chunk.data, sizeof(number));
		assert_int_equal(number, n++);
		rpc_message_free(message);
	}
	assert_int_equal(r, 0);
	assert_int_equal(n, 300);
	/* The end stays the end. */
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, &err), 0);
	assert_true(rpc_call_cancelled(call));
	rpc_close(call);
	fixture_stop(&f);
}

static void a_stream_of_requests_gets_its_one_reply(void **state)
{
	struct fixture f;
	ProtobufCMessage *message;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	struct rpc_call *call = rpc_open(fixture_connect(&f), &worker_put, PATIENCE_MS, NULL);
	for (int i = 0; i < 300; i++)
		assert_int_equal(send_chunk(call, NULL, 20000, NULL), 0);
	assert_int_equal(rpc_close_send(call, NULL), 0);
	assert_int_equal(rpc_close_send(call, NULL), 0);
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, NULL), 1);
	Worker__V1__PutReply *reply = (Worker__V1__PutReply *)(void *)message;
	assert_int_equal(reply->files, 300);
	assert_int_equal(reply->bytes, 300 * 20000);
	rpc_message_free(message);
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, NULL), 0);
	struct error *err = NULL;
	assert_int_equal(send_chunk(call, NULL, 1, &err), -1);
	expect_error(&err, ERR_STATE, "was closed");
	rpc_close(call);
	fixture_stop(&f);
	assert_int_equal(f.ev.complete, 1);
}

static void two_streams_run_side_by_side(void **state)
{
	struct fixture f;
	ProtobufCMessage *message;
	char text[32];

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	struct rpc_call *call = rpc_open(fixture_connect(&f), &worker_run, PATIENCE_MS, NULL);
	for (int i = 0; i < 100; i++) {
		snprintf(text, sizeof(text), "line %d", i);
		assert_int_equal(send_input(call, text, NULL), 0);
		assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, NULL), 1);
		Worker__V1__RunReply *reply = (Worker__V1__RunReply *)(void *)message;
		assert_int_equal(reply->out.len, strlen(text));
		assert_memory_equal(reply->out.data, text, strlen(text));
		rpc_message_free(message);
	}
	assert_int_equal(rpc_close_send(call, NULL), 0);
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, NULL), 0);
	rpc_close(call);
	fixture_stop(&f);
}

static void *send_many(void *arg)
{
	for (intptr_t i = 0; i < 2000; i++)
		if (send_input(arg, "x", NULL) < 0)
			return (void *)i;
	return rpc_close_send(arg, NULL) < 0 ? NULL : (void *)2000;
}

static void one_thread_may_send_while_another_receives(void **state)
{
	struct fixture f;
	ProtobufCMessage *message;
	pthread_t thread;
	void *sent;
	int n = 0;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	struct rpc_call *call = rpc_open(fixture_connect(&f), &worker_run, PATIENCE_MS, NULL);
	assert_int_equal(pthread_create(&thread, NULL, send_many, call), 0);
	for (; rpc_recv(call, PATIENCE_MS, &message, NULL) == 1; n++)
		rpc_message_free(message);
	pthread_join(thread, &sent);
	assert_int_equal((intptr_t)sent, 2000);
	assert_int_equal(n, 2000);
	rpc_close(call);
	fixture_stop(&f);
}

static void waiting_in_vain_loses_nothing(void **state)
{
	struct fixture f;
	struct error *err = NULL;
	ProtobufCMessage *message;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	struct rpc_call *call = rpc_open(fixture_connect(&f), &worker_run, -1, NULL);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(rpc_recv(call, 20, &message, &err), -1);
		expect_error(&err, ERR_TIMEOUT, "nothing came");
		assert_false(rpc_call_cancelled(call));
	}
	assert_int_equal(send_input(call, "late", NULL), 0);
	/* Let it arrive while nobody waits for it. */
	assert_int_equal(events_wait(&f.ev, &f.ev.messages, 1), 1);
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, NULL), 1);
	rpc_message_free(message);
	assert_int_equal(rpc_recv(call, 0, &message, &err), -1);
	expect_error(&err, ERR_TIMEOUT, "nothing came");
	rpc_close(call);
	fixture_stop(&f);
}

static void a_handlers_code_and_text_reach_the_caller(void **state)
{
	struct fixture f;
	struct error *err = NULL;
	int64_t sum;

	(void)state;
	fixture_start(&f, rpc_limits_control);
	struct rpc_peer *peer = fixture_connect(&f);
	for (int code = 1; code <= 16; code++) {
		assert_int_equal(add(peer, -code, 0, &sum, &err), -1);
		assert_int_equal(err->code, code);
		assert_string_equal(err->text, "first: no\nsecond: \xc3\xbc \\x1b[0m");
		error_free(steal_ptr(err));
	}
	/* A code that gRPC does not know. */
	assert_int_equal(add(peer, -99, 0, &sum, &err), -1);
	expect_error(&err, ERR_UNKNOWN, "first: no");
	assert_int_equal(add(peer, 1, 1000, &sum, &err), -1);
	expect_error(&err, ERR_INTERNAL, "no reply was made");
	fixture_stop(&f);
}

static int handle_long_text(struct rpc_call *call, void *arg, struct error **err)
{
	char text[20001];

	(void)call;
	(void)arg;
	for (size_t i = 0; i < sizeof(text) - 1; i++)
		text[i] = i % 50 == 49 ? '\n' : (i & 1) ? '\xbc' : '\xc3';
	text[sizeof(text) - 1] = 0;
	return error_set(err, ERR_INVALID, "%s", text);
}

static int handle_silent_failure(struct rpc_call *call, void *arg, struct error **err)
{
	(void)call;
	(void)arg;
	(void)err;
	return -1;
}

static void long_texts_are_cut_and_missing_ones_made(void **state)
{
	static const struct rpc_service services[] = {
		{&worker_addition, handle_long_text}, {&worker_info, handle_silent_failure}};
	struct fixture f;
	struct error *err = NULL;
	Worker__V1__InfoRequest q = WORKER__V1__INFO_REQUEST__INIT;
	ProtobufCMessage *reply;
	int64_t sum;

	(void)state;
	fixture_start_with(&f, services, ARRAY_SIZE(services), rpc_limits_control);
	struct rpc_peer *peer = fixture_connect(&f);
	assert_int_equal(add(peer, 1, 1, &sum, &err), -1);
	assert_int_equal(err->code, ERR_INVALID);
	assert_in_range(strlen(err->text), 4000, 4 * 4096);
	assert_non_null(strchr(err->text, '\n'));
	error_free(steal_ptr(err));
	assert_int_equal(rpc_unary(peer, &worker_info, &q.base, PATIENCE_MS, &reply, &err), -1);
	expect_error(&err, ERR_UNKNOWN, "without saying why");
	assert_int_equal(ping(peer, "x", 1, PATIENCE_MS, &reply, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "no such method");
	fixture_stop(&f);
}

static void a_deadline_ends_the_call_at_both_ends(void **state)
{
	struct fixture f;
	struct error *err = NULL;
	ProtobufCMessage *reply;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	struct rpc_peer *peer = fixture_connect(&f);
	uint64_t begin = now_mono_usec();
	assert_int_equal(ping(peer, "hold", 4, 200, &reply, &err), -1);
	assert_in_range(now_mono_usec() - begin, 190000, 5000000);
	expect_error(&err, ERR_TIMEOUT, "worker: no answer in time");
	assert_int_equal(events_wait(&f.ev, &f.ev.cancelled, 1), 1);

	struct rpc_call *call = rpc_open(peer, &worker_run, 200, NULL);
	assert_int_equal(rpc_recv(call, -1, &reply, &err), -1);
	expect_error(&err, ERR_TIMEOUT, "no answer in time");
	assert_true(rpc_call_cancelled(call));
	assert_int_equal(events_wait(&f.ev, &f.ev.broken, 1), 1);
	rpc_close(call);
	fixture_stop(&f);
}

struct canceller {
	struct fixture *f;
	struct rpc_call *call;
	const int *event; /* cancel when this settled */
};

static void *cancel_later(void *arg)
{
	struct canceller *c = arg;

	events_settle(&c->f->ev, c->event);
	rpc_cancel(c->call);
	return NULL;
}

static void another_thread_cancels_a_blocked_receive(void **state)
{
	struct fixture f;
	struct error *err = NULL;
	ProtobufCMessage *message;
	pthread_t thread;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	struct rpc_call *call = rpc_open(fixture_connect(&f), &worker_run, -1, NULL);
	struct canceller c = {&f, call, &f.ev.entered};
	assert_int_equal(pthread_create(&thread, NULL, cancel_later, &c), 0);
	assert_int_equal(rpc_recv(call, -1, &message, &err), -1);
	expect_error(&err, ERR_CANCELLED, "cancelled");
	pthread_join(thread, NULL);
	assert_int_equal(rpc_recv(call, -1, &message, &err), -1);
	expect_error(&err, ERR_CANCELLED, "cancelled");
	assert_int_equal(send_input(call, "x", &err), -1);
	expect_error(&err, ERR_CANCELLED, "cancelled");
	assert_int_equal(rpc_close_send(call, &err), -1);
	expect_error(&err, ERR_CANCELLED, "cancelled");
	assert_int_equal(events_wait(&f.ev, &f.ev.broken, 1), 1);
	rpc_close(call);
	fixture_stop(&f);
}

static void another_thread_cancels_a_blocked_send(void **state)
{
	struct fixture f;
	struct error *err = NULL;
	pthread_t thread;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	struct rpc_call *call = rpc_open(fixture_connect(&f), &worker_put, -1, NULL);
	struct canceller c = {&f, call, &f.ev.entered};
	assert_int_equal(pthread_create(&thread, NULL, cancel_later, &c), 0);
	while (send_chunk(call, "slow", 100000, &err) == 0)
		;
	expect_error(&err, ERR_CANCELLED, "cancelled");
	pthread_join(thread, NULL);
	rpc_close(call);
	fixture_stop(&f);
	assert_int_equal(f.ev.complete, 0);
}

static void a_slow_reader_holds_the_handlers_stream(void **state)
{
	enum { SIZE = 50000, N = 400 };
	struct fixture f;
	ProtobufCMessage *message;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	struct rpc_call *call = open_get(fixture_connect(&f), N, SIZE);
	assert_true(events_wait(&f.ev, &f.ev.messages, 1) >= 1);
	int blocked_at = events_settle(&f.ev, &f.ev.messages);
	/* The window, one message in each hand, and what the two ends of the socket hold. */
	assert_in_range((uint64_t)blocked_at * SIZE, 0, 2 * f.limits.window + 512 * KIB);
	int n = 0;
	for (; rpc_recv(call, PATIENCE_MS, &message, NULL) == 1; n++)
		rpc_message_free(message);
	assert_int_equal(n, N);
	rpc_close(call);
	fixture_stop(&f);
}

struct uploader {
	struct rpc_call *call;
	int n, size;
	struct events sent;
};

static void *upload_all(void *arg)
{
	struct uploader *u = arg;

	for (int i = 0; i < u->n && send_chunk(u->call, "slow", (size_t)u->size, NULL) == 0; i++)
		events_add(&u->sent, &u->sent.messages, 1);
	rpc_close_send(u->call, NULL);
	return NULL;
}

static void a_slow_handler_holds_the_callers_stream(void **state)
{
	struct uploader u = {.n = 400,
		.size = 50000,
		.sent = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER}};
	struct fixture f;
	ProtobufCMessage *message;
	pthread_t thread;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	u.call = rpc_open(fixture_connect(&f), &worker_put, -1, NULL);
	assert_int_equal(pthread_create(&thread, NULL, upload_all, &u), 0);
	assert_true(events_wait(&u.sent, &u.sent.messages, 1) >= 1);
	int blocked_at = events_settle(&u.sent, &u.sent.messages);
	assert_in_range(blocked_at * u.size, 0, 2 * f.limits.window + 512 * KIB);
	events_add(&f.ev, &f.ev.open, 1);
	assert_int_equal(rpc_recv(u.call, PATIENCE_MS, &message, NULL), 1);
	assert_int_equal(((Worker__V1__PutReply *)(void *)message)->files, u.n);
	rpc_message_free(message);
	pthread_join(thread, NULL);
	rpc_close(u.call);
	fixture_stop(&f);
}

static void a_handler_may_refuse_an_upload_midway(void **state)
{
	struct fixture f;
	struct error *err = NULL;
	ProtobufCMessage *message;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	struct rpc_call *call = rpc_open(fixture_connect(&f), &worker_put, -1, NULL);
	while (send_chunk(call, "refused", 100000, &err) == 0)
		;
	expect_error(&err, ERR_LIMIT, "disk full");
	assert_int_equal(rpc_recv(call, -1, &message, &err), -1);
	expect_error(&err, ERR_LIMIT, "disk full");
	rpc_close(call);
	fixture_stop(&f);
}

static void *hold(void *arg)
{
	ProtobufCMessage *reply = NULL;

	if (ping(arg, "hold", 4, PATIENCE_MS, &reply, NULL) < 0)
		return NULL;
	rpc_message_free(reply);
	return arg;
}

static void more_calls_than_the_pool_wait_their_turn(void **state)
{
	enum { POOL = 3, CONNS = 4, PER_CONN = 3 };
	struct rpc_limits limits = rpc_limits_guest;
	struct fixture f;
	struct rpc_peer *peers[CONNS];
	pthread_t threads[CONNS * PER_CONN];

	(void)state;
	limits.calls = POOL;
	fixture_start(&f, limits);
	for (int i = 0; i < CONNS; i++)
		peers[i] = fixture_connect(&f);
	for (int i = 0; i < CONNS * PER_CONN; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, hold, peers[i % CONNS]), 0);
	assert_int_equal(events_wait(&f.ev, &f.ev.entered, POOL), POOL);
	assert_int_equal(events_settle(&f.ev, &f.ev.entered), POOL);
	events_add(&f.ev, &f.ev.open, 1);
	for (int i = 0; i < CONNS * PER_CONN; i++) {
		void *ok;
		pthread_join(threads[i], &ok);
		assert_non_null(ok);
	}
	fixture_stop(&f);
	assert_int_equal(f.ev.entered, CONNS * PER_CONN);
	assert_int_equal(f.ev.most, POOL);
}

static int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void a_thousand_connections_leave_nothing_behind(void **state)
{
	struct fixture f;
	struct error *err = NULL;
	int64_t sum;
	int before = 0;

	(void)state;
	fixture_start(&f, rpc_limits_guest);
	for (int i = 0; i < 1000; i++) {
		struct rpc_peer *peer = rpc_peer_new(fixture_dial(&f), "worker", &f.limits, &err);
		assert_non_null(peer);
		if (i % 4 == 0)
			assert_int_equal(add(peer, 1, 2, &sum, NULL), 0);
		rpc_peer_free(peer);
		if (i == 9) {
			assert_int_equal(events_wait(&f.ev, &f.ev.closed, 10), 10);
			before = count_fds();
		}
	}
	assert_int_equal(events_wait(&f.ev, &f.ev.closed, 1000), 1000);
	/* gRPC closes them on threads of its own; what leaks stays for ever. */
	for (int i = 0; i < 2000 && count_fds() > before + 2; i++)
		sleep_ms(10);
	assert_true(count_fds() <= before + 2);
	fixture_stop(&f);
	assert_int_equal(f.ev.closed, 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unary_calls_reach_the_handler_and_come_back),
		cmocka_unit_test(the_side_that_accepted_may_call),
		cmocka_unit_test(empty_messages_travel),
		cmocka_unit_test(a_stream_of_replies_comes_whole_and_in_order),
		cmocka_unit_test(a_stream_of_requests_gets_its_one_reply),
		cmocka_unit_test(two_streams_run_side_by_side),
		cmocka_unit_test(one_thread_may_send_while_another_receives),
		cmocka_unit_test(waiting_in_vain_loses_nothing),
		cmocka_unit_test(a_handlers_code_and_text_reach_the_caller),
		cmocka_unit_test(long_texts_are_cut_and_missing_ones_made),
		cmocka_unit_test(a_deadline_ends_the_call_at_both_ends),
		cmocka_unit_test(another_thread_cancels_a_blocked_receive),
		cmocka_unit_test(another_thread_cancels_a_blocked_send),
		cmocka_unit_test(a_slow_reader_holds_the_handlers_stream),
		cmocka_unit_test(a_slow_handler_holds_the_callers_stream),
		cmocka_unit_test(a_handler_may_refuse_an_upload_midway),
		cmocka_unit_test(more_calls_than_the_pool_wait_their_turn),
		cmocka_unit_test(a_thousand_connections_leave_nothing_behind),
	};

	return cmocka_run_group_tests(tests, fixture_init, fixture_quit);
}
