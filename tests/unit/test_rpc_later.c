/* Calls that are answered later (rpc_answer), by no thread that was held for them. */
#include "tests/unit/rpc_fixture.h"

#define MANY 64

/* What quick handlers left to be answered. */
static struct {
	pthread_mutex_t lock;
	struct rpc_call *calls[MANY];
	int64_t sums[MANY];
	int n;
} left = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void leave(struct fixture *f, struct rpc_call *call, int64_t sum)
{
	pthread_mutex_lock(&left.lock);
	left.calls[left.n] = call;
	left.sums[left.n++] = sum;
	pthread_mutex_unlock(&left.lock);
	events_add(&f->ev, &f->ev.messages, 1);
}

static void answer_one(struct rpc_call *call, int64_t sum)
{
	Worker__V1__AdditionReply reply = WORKER__V1__ADDITION_REPLY__INIT;
	struct error *err = NULL;

	reply.c = sum;
	if (sum < 0)
		error_set(&err, ERR_LIMIT, "below zero");
	rpc_answer(call, &reply.base, err);
}

/* All that are left; how many. */
static int answer_all(void)
{
	pthread_mutex_lock(&left.lock);
	int n = left.n;
	for (int i = 0; i < n; i++)
		answer_one(left.calls[i], left.sums[i]);
	left.n = 0;
	pthread_mutex_unlock(&left.lock);
	return n;
}

/* Later; but a of 1000 and more is for the pool. */
static int add_later(struct rpc_call *call, void *arg, struct error **err)
{
	struct fixture *f = arg;
	ProtobufCMessage *message;
	int r = rpc_recv(call, PATIENCE_MS, &message, err);

	if (r != 1)
		return r < 0 ? -1 : error_set(err, ERR_INVALID, "no request");
	const Worker__V1__AdditionRequest *q = (Worker__V1__AdditionRequest *)(void *)message;
	if (q->a >= 1000) {
		rpc_unrecv(call, message);
		return RPC_POOL;
	}
	leave(f, call, q->a + q->b);
	rpc_message_free(message);
	return RPC_LATER;
}

/* The end of an upload of one message, or what else comes. */
struct end {
	struct rpc_call *call;
	struct fixture *f;
};

static void read_end(void *arg)
{
	struct end *end = arg;
	struct fixture *f = end->f;
	Worker__V1__PutReply reply = WORKER__V1__PUT_REPLY__INIT;
	ProtobufCMessage *message = NULL;
	struct error *err = NULL;
	int r = rpc_recv(end->call, 0, &message, &err);

	if (r < 0)
		note_failure(&f->ev, err);
	if (r > 0)
		error_set(&err, ERR_INVALID, "one more");
	rpc_message_free(message);
	reply.files = 1;
	rpc_answer(end->call, &reply.base, err);
	events_add(&f->ev, r < 0 ? &f->ev.broken : &f->ev.complete, 1);
	free(end);
}

static int put_one(struct rpc_call *call, void *arg, struct error **err)
{
	struct end *end = xmalloc(sizeof(*end));
	ProtobufCMessage *message;

	*end = (struct end){call, arg};
	if (rpc_recv(call, PATIENCE_MS, &message, err) != 1) {
		free(end);
		return -1;
	}
	rpc_message_free(message);
	events_add(&end->f->ev, &end->f->ev.entered, 1);
	rpc_when_received(call, read_end, end);
	return RPC_LATER;
}

static void start(struct fixture *f, unsigned calls)
{
	struct rpc_limits limits = rpc_limits_guest;

	limits.calls = calls;
	fixture_start(f, limits);
	rpc_server_set_quick(f->server, &worker_addition, add_later);
	rpc_server_set_quick(f->server, &worker_put, put_one);
}

static struct rpc_call *open_addition(struct rpc_peer *peer, int64_t a, int64_t b)
{
	Worker__V1__AdditionRequest q = WORKER__V1__ADDITION_REQUEST__INIT;
	struct rpc_call *call = rpc_open(peer, &worker_addition, PATIENCE_MS, NULL);

	q.a = a;
	q.b = b;
	assert_int_equal(rpc_send(call, &q.base, NULL), 0);
	return call;
}

static void expect_reply(struct rpc_call *call, int64_t sum)
{
	ProtobufCMessage *reply = NULL;
	struct error *err = NULL;

	if (rpc_recv(call, PATIENCE_MS, &reply, &err) != 1)
		fail_msg("%s", err ? err->text : "no reply");
	assert_int_equal(((Worker__V1__AdditionReply *)(void *)reply)->c, sum);
	rpc_message_free(reply);
	rpc_close(call);
}

static void expect_failure(struct rpc_call *call, enum err_code code, const char *text)
{
	ProtobufCMessage *reply = NULL;
	struct error *err = NULL;

	assert_int_equal(rpc_recv(call, PATIENCE_MS, &reply, &err), -1);
	expect_error(&err, code, text);
	rpc_close(call);
}

static void many_wait_without_a_thread(void **state)
{
	struct rpc_call *calls[MANY];
	struct fixture f;

	(void)state;
	start(&f, MANY);
	struct rpc_peer *peer = fixture_connect(&f);
	for (int i = 0; i < MANY; i++)
		calls[i] = open_addition(peer, i, 5);
	assert_int_equal(events_wait(&f.ev, &f.ev.messages, MANY), MANY);
	/* No handler of the pool's has begun. */
	assert_int_equal(events_get(&f.ev, &f.ev.entered), 0);
	assert_int_equal(answer_all(), MANY);
	for (int i = 0; i < MANY; i++)
		expect_reply(calls[i], i + 5);
	fixture_stop(&f);
}

static void an_error_comes_later(void **state)
{
	struct fixture f;

	(void)state;
	start(&f, 8);
	struct rpc_call *call = open_addition(fixture_connect(&f), -7, 5);
	events_wait(&f.ev, &f.ev.messages, 1);
	answer_all();
	expect_failure(call, ERR_LIMIT, "below zero");
	fixture_stop(&f);
}

static void what_a_quick_handler_declines_the_pool_finds_unread(void **state)
{
	struct fixture f;

	(void)state;
	start(&f, 8);
	struct rpc_peer *peer = fixture_connect(&f);
	for (int i = 0; i < 10; i++)
		expect_reply(open_addition(peer, 1000 + i, 5), 1005 + i);
	assert_int_equal(events_get(&f.ev, &f.ev.entered), 10);
	fixture_stop(&f);
}

static void beyond_the_limit_the_pool_is_used(void **state)
{
	struct fixture f;

	(void)state;
	start(&f, 2);
	/* Each connection may have as many streams as the limit. */
	struct rpc_call *first = open_addition(fixture_connect(&f), 1, 1);
	struct rpc_call *second = open_addition(fixture_connect(&f), 2, 2);
	assert_int_equal(events_wait(&f.ev, &f.ev.messages, 2), 2);
	struct rpc_peer *peer = fixture_connect(&f);
	expect_reply(open_addition(peer, 3, 3), 6);
	assert_int_equal(events_get(&f.ev, &f.ev.entered), 1);
	answer_all();
	expect_reply(first, 2);
	expect_reply(second, 4);
	/* And not any longer. A call is over a little after its caller knows. */
	for (int i = 0, n = 2; i < 100 && events_get(&f.ev, &f.ev.messages) == 2; i++, n++) {
		struct rpc_call *call = open_addition(peer, n, 0);
		events_wait_ms(&f.ev, &f.ev.messages, 3, 20);
		answer_all();
		expect_reply(call, n);
	}
	assert_int_equal(events_get(&f.ev, &f.ev.messages), 3);
	fixture_stop(&f);
}

static void the_end_of_a_stream_is_heard(void **state)
{
	ProtobufCMessage *reply = NULL;
	struct fixture f;

	(void)state;
	start(&f, 8);
	struct rpc_peer *peer = fixture_connect(&f);
	for (int i = 0; i < 3; i++) {
		struct rpc_call *call = rpc_open(peer, &worker_put, PATIENCE_MS, NULL);
		assert_int_equal(send_chunk(call, "u", 10, NULL), 0);
		if (i == 1) /* which comes much later than the message */
			assert_int_equal(events_wait(&f.ev, &f.ev.entered, 2), 2);
		assert_int_equal(rpc_close_send(call, NULL), 0);
		assert_int_equal(rpc_recv(call, PATIENCE_MS, &reply, NULL), 1);
		rpc_message_free(reply);
		rpc_close(call);
	}
	assert_int_equal(f.ev.complete, 3);
	struct rpc_call *call = rpc_open(peer, &worker_put, PATIENCE_MS, NULL);
	assert_int_equal(send_chunk(call, "u", 10, NULL), 0);
	assert_int_equal(send_chunk(call, "u", 10, NULL), 0);
	expect_failure(call, ERR_INVALID, "one more");
	fixture_stop(&f);
}

static void a_stream_that_breaks_off_is_heard(void **state)
{
	struct fixture f;

	(void)state;
	start(&f, 8);
	struct rpc_call *call = rpc_open(fixture_connect(&f), &worker_put, -1, NULL);
	assert_int_equal(send_chunk(call, "u", 10, NULL), 0);
	assert_int_equal(events_wait(&f.ev, &f.ev.entered, 1), 1);
	rpc_close(call);
	assert_int_equal(events_wait(&f.ev, &f.ev.broken, 1), 1);
	assert_int_equal(f.ev.last_code, ERR_CANCELLED);
	fixture_stop(&f);
}

/* The connection's end waits for the answer, for the call is somebody's until then. */
static void a_caller_that_went_away_is_answered_all_the_same(void **state)
{
	struct fixture f;

	(void)state;
	start(&f, 8);
	struct rpc_peer *peer = fixture_connect(&f);
	struct rpc_call *call = open_addition(peer, 1, 2);
	assert_int_equal(events_wait(&f.ev, &f.ev.messages, 1), 1);
	rpc_close(call);
	rpc_peer_free(peer);
	f.n_peers = 0;
	assert_int_equal(events_wait_ms(&f.ev, &f.ev.closed, 1, 200), 0);
	assert_int_equal(answer_all(), 1);
	assert_int_equal(events_wait(&f.ev, &f.ev.closed, 1), 1);
	fixture_stop(&f);
}

static void *answer_soon(void *arg)
{
	(void)arg;
	sleep_ms(300);
	answer_all();
	return NULL;
}

static void a_server_that_closes_waits_for_answers(void **state)
{
	struct fixture f;
	pthread_t thread;

	(void)state;
	start(&f, 8);
	struct rpc_peer *peer = fixture_connect(&f);
	struct rpc_call *call = open_addition(peer, 20, 22);
	assert_int_equal(events_wait(&f.ev, &f.ev.messages, 1), 1);
	pthread_create(&thread, NULL, answer_soon, NULL);
	rpc_server_free(f.server, PATIENCE_MS);
	assert_int_equal(f.ev.closed, 1);
	pthread_join(thread, NULL);
	expect_reply(call, 42);
	rpc_peer_free(peer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(many_wait_without_a_thread),
		cmocka_unit_test(an_error_comes_later),
		cmocka_unit_test(what_a_quick_handler_declines_the_pool_finds_unread),
		cmocka_unit_test(beyond_the_limit_the_pool_is_used),
		cmocka_unit_test(the_end_of_a_stream_is_heard),
		cmocka_unit_test(a_stream_that_breaks_off_is_heard),
		cmocka_unit_test(a_caller_that_went_away_is_answered_all_the_same),
		cmocka_unit_test(a_server_that_closes_waits_for_answers),
	};

	return cmocka_run_group_tests(tests, fixture_init, fixture_quit);
}
