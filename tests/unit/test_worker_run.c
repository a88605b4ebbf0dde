/* Jobs by the worker's RPC: their streams, their end, and who takes them up. */
#include "tests/unit/service_fixture.h"

#include <errno.h>
#include <fcntl.h>

#include "guest-worker/output.h"

static void a_job_streams_and_ends(void **state)
{
	/* Once with our half of the stream open, once with it closed. */
	for (int closed = 0; closed < 2; closed++) {
		struct rpc_peer *peer = dial(open_worker);
		struct rpc_call *call =
			run(peer, "echo out; echo err >&2; head -c 200 /dev/zero; exit 3");
		struct seen seen = {0};

		(void)state;
		if (closed)
			assert_int_equal(rpc_close_send(call, NULL), 0);
		while (see(call, &seen))
			;
		rpc_close(call);
		assert_true(seen.started && seen.exited);
		assert_int_equal(seen.reason, WORKER__V1__RUN_EXIT__REASON__EXITED);
		assert_int_equal(seen.code, 3);
		assert_int_equal(seen.out_size, 100);
		assert_memory_equal(seen.out, "out\n", 4);
		assert_string_equal(seen.err, "err\n");
		assert_int_equal(seen.stdout_bytes, 204);
		rpc_peer_free(peer);
	}
}

static void a_running_job_is_stopped_on_order(void **state)
{
	struct rpc_peer *peer = dial(open_worker);
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunStop stop = WORKER__V1__RUN_STOP__INIT;
	struct rpc_call *call =
		run(peer, "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done");
	struct seen seen = {0};

	(void)state;
	while (!seen.out_size)
		assert_true(see(call, &seen));
	request.part_case = WORKER__V1__RUN_REQUEST__PART_STOP;
	request.stop = &stop;
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
	while (see(call, &seen))
		;
	rpc_close(call);
	assert_int_equal(seen.reason, WORKER__V1__RUN_EXIT__REASON__STOPPED);
	assert_string_equal(seen.out, "up\nbye\n");
	rpc_peer_free(peer);
}

/* The job holds a FIFO open that we see closed when it is gone. */
static void a_lost_host_takes_its_job_along(void **state)
{
	_cleanup_free_ char *fifo = str_printf("%s/fifo", dir);
	_cleanup_free_ char *script =
		str_printf("trap '' TERM; exec 5>%s; echo up; sleep 1000", fifo);

	(void)state;
	for (int closed = 0; closed < 2; closed++) {
		struct rpc_peer *peer = dial(open_worker), *other = dial(open_worker);
		struct seen seen = {0};

		assert_int_equal(mkfifo(fifo, 0666), 0);
		assert_int_equal(chmod(fifo, 0666), 0);
		_cleanup_close_ int fd = open(fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		assert_true(fd >= 0);
		struct rpc_call *call = run(peer, script);
		if (closed)
			assert_int_equal(rpc_close_send(call, NULL), 0);
		while (!seen.out_size)
			assert_true(see(call, &seen));
		assert_int_equal(executions(other), 1);
		rpc_close(call);
		rpc_peer_free(peer);
		struct pollfd hangup = {.fd = fd};
		assert_int_equal(poll(&hangup, 1, PATIENCE_MS), 1);
		for (int i = 0; executions(other) > 0; i++) {
			assert_true(i < PATIENCE_MS / 10);
			sleep_ms(10);
		}
		rpc_peer_free(other);
		assert_int_equal(unlink(fifo), 0);
	}
}

static struct rpc_call *run_start(struct rpc_peer *peer, const char *id, const char *script,
	uint64_t detached_ms, bool together)
{
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunStart start = WORKER__V1__RUN_START__INIT;
	_cleanup_free_ char *copy = xstrdup(script), *name = xstrdup(id);
	struct rpc_call *call = rpc_open(peer, &worker_run, PATIENCE_MS, NULL);

	start.id = name;
	start.script = copy;
	start.has_detached_ms = detached_ms > 0;
	start.detached_ms = detached_ms;
	start.has_together = together;
	start.together = together;
	request.part_case = WORKER__V1__RUN_REQUEST__PART_START;
	request.start = &start;
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
	return call;
}

/* A run that outlives its stream for detached_ms. */
static struct rpc_call *run_detachable(
	struct rpc_peer *peer, const char *id, const char *script, uint64_t detached_ms)
{
	return run_start(peer, id, script, detached_ms, false);
}

static struct rpc_call *attach_start(
	struct rpc_peer *peer, const char *id, uint64_t out, uint64_t err, bool together)
{
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunAttach part = WORKER__V1__RUN_ATTACH__INIT;
	_cleanup_free_ char *name = xstrdup(id);
	struct rpc_call *call = rpc_open(peer, &worker_run, PATIENCE_MS, NULL);

	part.id = name;
	part.stdout_offset = out;
	part.stderr_offset = err;
	part.has_together = together;
	part.together = together;
	request.part_case = WORKER__V1__RUN_REQUEST__PART_ATTACH;
	request.attach = &part;
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
	return call;
}

static struct rpc_call *attach(struct rpc_peer *peer, const char *id, uint64_t out, uint64_t err)
{
	return attach_start(peer, id, out, err, false);
}

static void ack(struct rpc_call *call, uint64_t out, uint64_t err)
{
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunAck part = WORKER__V1__RUN_ACK__INIT;

	part.stdout_offset = out;
	part.stderr_offset = err;
	request.part_case = WORKER__V1__RUN_REQUEST__PART_ACK;
	request.ack = &part;
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
}

static int attach_code(struct rpc_peer *peer, const char *id, uint64_t out, uint64_t err)
{
	_cleanup_error_ struct error *failed = NULL;
	ProtobufCMessage *message = NULL;
	struct rpc_call *call = attach(peer, id, out, err);
	int r = rpc_recv(call, PATIENCE_MS, &message, &failed);

	if (message)
		rpc_message_free(message);
	rpc_close(call);
	return r < 0 ? (int)failed->code : 0;
}

static void a_lost_stream_is_taken_up_where_it_was_lost(void **state)
{
	_cleanup_free_ char *go = str_printf("%s/go", dir);
	_cleanup_free_ char *script = str_printf("echo one; echo bad >&2; "
						 "while ! test -e %s; do sleep 0.02; done; "
						 "echo two; exit 5",
		go);
	struct rpc_peer *peer = dial(open_worker), *other = dial(open_worker);
	struct seen first = {0}, second = {0}, third = {0};
	struct rpc_call *call = run_detachable(peer, "lost", script, PATIENCE_MS);

	(void)state;
	while (first.out_size < 4 || first.err_size < 4)
		assert_true(see(call, &first));
	ack(call, 2, 0);
	rpc_close(call);
	rpc_peer_free(peer);

	/* The file has one byte more than was acknowledged. */
	call = attach(other, "lost", 3, 4);
	while (!second.out_size)
		assert_true(see(call, &second));
	assert_true(second.started);
	assert_string_equal(second.out, "\n");
	/* Another that comes while it is followed takes it over. */
	peer = dial(open_worker);
	struct rpc_call *next = attach(peer, "lost", 4, 4);
	_cleanup_error_ struct error *err = NULL;
	ProtobufCMessage *message = NULL;
	assert_int_equal(rpc_recv(call, PATIENCE_MS, &message, &err), -1);
	assert_int_equal(err->code, ERR_ABORTED);
	rpc_close(call);
	assert_int_equal(close(open(go, O_CREAT | O_WRONLY | O_CLOEXEC, 0666)), 0);
	while (see(next, &third))
		;
	rpc_close(next);
	assert_string_equal(third.out, "two\n");
	assert_int_equal(third.code, 5);
	assert_int_equal(third.stdout_bytes, 8);
	/* The exit was sent, but did it arrive? It can be had again. */
	struct seen again = {0};
	next = attach(peer, "lost", 8, 4);
	while (see(next, &again))
		;
	rpc_close(next);
	assert_true(again.exited);
	assert_int_equal(again.code, 5);
	assert_int_equal(again.out_size, 0);
	assert_int_equal(attach_code(peer, "lost", 3, 4), ERR_RANGE);
	assert_int_equal(attach_code(peer, "lost", 9, 4), ERR_RANGE);
	rpc_peer_free(peer);
	rpc_peer_free(other);
	unlink(go);
}

static void what_nobody_takes_up_is_given_up(void **state)
{
	struct rpc_peer *peer = dial(open_worker), *other = dial(open_worker);
	struct seen seen = {0};
	struct rpc_call *call = run_detachable(peer, "left", "echo up; sleep 1000", 100);

	(void)state;
	while (!seen.out_size)
		assert_true(see(call, &seen));
	rpc_close(call);
	rpc_peer_free(peer);
	sleep_ms(500);
	assert_int_equal(attach_code(other, "left", 0, 0), ERR_NOT_FOUND);
	rpc_peer_free(other);
}

/* Ten times what the worker holds, of which nothing gets lost, and no more is held than that. */
static void what_is_not_acknowledged_stops_the_job(void **state)
{
	struct rpc_peer *peer = dial(open_worker);
	struct rpc_call *call =
		run_detachable(peer, "much", "head -c 10485760 /dev/zero", PATIENCE_MS);
	uint64_t size = 0, acked = 0;
	bool starved = false, exited = false;

	(void)state;
	while (!exited) {
		_cleanup_error_ struct error *err = NULL;
		ProtobufCMessage *message = NULL;
		if (rpc_recv(call, 500, &message, &err) < 0) {
			assert_int_equal(err->code, ERR_TIMEOUT);
			if (size == acked)
				continue;
			assert_int_equal(size - acked, OUTPUT_RING_HOLD);
			starved = true;
			ack(call, size, 0);
			acked = size;
			continue;
		}
		const Worker__V1__RunReply *reply = (const Worker__V1__RunReply *)message;
		if (reply->has_out)
			size += reply->out.len;
		exited = reply->exit != NULL;
		rpc_message_free(message);
	}
	rpc_close(call);
	rpc_peer_free(peer);
	assert_true(starved);
	assert_int_equal(size, 10 * MIB);
}

/* What a program that is over has said and done takes one message, if the host wants that; else as
 * many as it has parts. */
static void replies_come_together_if_wanted(void **state)
{
	(void)state;
	for (int together = 0; together < 2; together++) {
		const char *id = together ? "together" : "one by one";
		struct rpc_peer *peer = dial(open_worker);
		struct seen seen = {0};
		struct rpc_call *call =
			run_start(peer, id, "echo a; echo b >&2; exit 3", PATIENCE_MS, together);

		while (see(call, &seen))
			;
		rpc_close(call);
		assert_true(together || seen.replies == 4);
		for (int again = 0; again < 2; again++) {
			seen = (struct seen){0};
			call = attach_start(peer, id, 0, 0, together);
			while (see(call, &seen))
				;
			rpc_close(call);
			assert_true(seen.started && seen.exited);
			assert_int_equal(seen.replies, together ? 1 : 4);
			assert_int_equal(seen.code, 3);
			assert_int_equal(seen.out_size, 2);
			assert_int_equal(seen.err_size, 2);
			assert_memory_equal(seen.out, "a\n", 2);
			assert_memory_equal(seen.err, "b\n", 2);
		}
		rpc_peer_free(peer);
	}
}

static int first_message_code(struct rpc_peer *peer, const Worker__V1__RunRequest *request)
{
	_cleanup_error_ struct error *err = NULL;
	ProtobufCMessage *message = NULL;
	struct rpc_call *call = rpc_open(peer, &worker_run, PATIENCE_MS, NULL);

	assert_int_equal(rpc_send(call, &request->base, NULL), 0);
	assert_int_equal(rpc_recv(call, -1, &message, &err), -1);
	rpc_close(call);
	return (int)err->code;
}

static void a_run_begins_with_its_start(void **state)
{
	struct rpc_peer *peer = dial(open_worker);
	Worker__V1__RunRequest request = WORKER__V1__RUN_REQUEST__INIT;
	Worker__V1__RunStop stop = WORKER__V1__RUN_STOP__INIT;
	Worker__V1__RunAttach attach = WORKER__V1__RUN_ATTACH__INIT;
	char id[] = "x";

	(void)state;
	assert_int_equal(first_message_code(peer, &request), ERR_INVALID);
	request.part_case = WORKER__V1__RUN_REQUEST__PART_STOP;
	request.stop = &stop;
	assert_int_equal(first_message_code(peer, &request), ERR_INVALID);
	attach.id = id;
	request.part_case = WORKER__V1__RUN_REQUEST__PART_ATTACH;
	request.attach = &attach;
	assert_int_equal(first_message_code(peer, &request), ERR_NOT_FOUND);
	rpc_peer_free(peer);
}

static int run_all(const char *name)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_job_streams_and_ends),
		cmocka_unit_test(a_running_job_is_stopped_on_order),
		cmocka_unit_test(a_lost_host_takes_its_job_along),
		cmocka_unit_test(a_lost_stream_is_taken_up_where_it_was_lost),
		cmocka_unit_test(what_nobody_takes_up_is_given_up),
		cmocka_unit_test(what_is_not_acknowledged_stops_the_job),
		cmocka_unit_test(replies_come_together_if_wanted),
		cmocka_unit_test(a_run_begins_with_its_start),
	};
	return cmocka_run_group_tests_name(name, tests, setup, teardown);
}

int main(void)
{
	return run_with_and_without_rights(run_all, "worker run");
}
