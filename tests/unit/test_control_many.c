/* SubmitMany, of a real daemon whose attempts are fake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/control_api.h"
#include "tests/unit/control_fixture.h"

#define DEADLINE_MS 30000

struct many {
	Control__V1__SubmitManyRequest request;
	Control__V1__SubmitManyRequest__Job jobs[300], *pointers[300];
	Job__V1__Spec specs[300];
	char *argv[1];
};

/* n jobs of the fake image that wait for ever, numbered from first. */
static void fill_many(struct many *many, size_t n, uint32_t first)
{
	static char image[] = "fake", word[] = "wait:/nonexistent";

	control__v1__submit_many_request__init(&many->request);
	many->argv[0] = word;
	many->request.jobs = many->pointers;
	many->request.n_jobs = n;
	for (size_t i = 0; i < n; i++) {
		many->pointers[i] = &many->jobs[i];
		control__v1__submit_many_request__job__init(&many->jobs[i]);
		job__v1__spec__init(&many->specs[i]);
		many->jobs[i].index = first + (uint32_t)i;
		many->jobs[i].spec = &many->specs[i];
		many->specs[i].image = image;
		many->specs[i].argv = many->argv;
		many->specs[i].n_argv = 1;
	}
}

static Control__V1__SubmitManyReply *take_many(struct rpc_call *call, struct error **err)
{
	ProtobufCMessage *reply = NULL;

	rpc_recv(call, DEADLINE_MS, &reply, err);
	return (Control__V1__SubmitManyReply *)reply;
}

static void many_jobs_come_in_one_call(void **state)
{
	struct fixture *f = *state;
	struct rpc_call *call = rpc_open(f->peer, &control_submit_many, DEADLINE_MS, NULL);
	static struct many many;
	static char nowhere[] = "nowhere", key[] = "k", src[] = "s", dest[] = "/d";
	Job__V1__Input input = JOB__V1__INPUT__INIT, *inputs[] = {&input};
	Control__V1__SubmitManyReply__Result **r;

	fill_many(&many, 7, 100);
	many.specs[1].image = nowhere;
	many.specs[2].n_argv = 0;
	many.jobs[3].key = many.jobs[4].key = key;
	input.src = src;
	input.dest = dest;
	many.specs[5].inputs = inputs;
	many.specs[5].n_inputs = 1;
	assert_int_equal(rpc_send(call, &many.request.base, NULL), 0);
	Control__V1__SubmitManyReply *reply = take_many(call, NULL);
	assert_int_equal(reply->n_results, 7);
	r = reply->results;
	for (uint32_t i = 0; i < 7; i++)
		assert_int_equal(r[i]->index, 100 + i);
	assert_non_null(r[0]->id);
	assert_null(r[1]->id);
	assert_int_equal(r[1]->code, ERR_NOT_FOUND);
	assert_int_equal(r[2]->code, ERR_INVALID);
	assert_string_equal(r[3]->id, r[4]->id);
	assert_non_null(strstr(r[5]->error, "with inputs"));
	/* Committed when they are acknowledged; in the queue in their order. */
	Control__V1__JobInfo *info = fixture_get(f, r[6]->id, NULL);
	assert_non_null(info);
	rpc_message_free(&info->base);
	char first[32];
	strcpy(first, r[0]->id);
	rpc_message_free(&reply->base);

	/* Many messages at once; all are answered, in their order, also after the last is sent. */
	for (uint32_t i = 0; i < 8; i++) {
		fill_many(&many, 150, 1000 + 150 * i);
		assert_int_equal(rpc_send(call, &many.request.base, NULL), 0);
	}
	assert_int_equal(rpc_close_send(call, NULL), 0);
	uint32_t next = 1000;
	while ((reply = take_many(call, NULL))) {
		for (size_t i = 0; i < reply->n_results; i++) {
			assert_int_equal(reply->results[i]->index, next++);
			assert_non_null(reply->results[i]->id);
			assert_true(strcmp(reply->results[i]->id, first) != 0);
		}
		rpc_message_free(&reply->base);
	}
	assert_int_equal(next, 2200);
	rpc_close(call);
}

static void expect_call_refused(struct fixture *f, const struct many *many, enum err_code code)
{
	struct rpc_call *call = rpc_open(f->peer, &control_submit_many, DEADLINE_MS, NULL);
	_cleanup_error_ struct error *err = NULL;

	assert_int_equal(rpc_send(call, &many->request.base, NULL), 0);
	assert_null(take_many(call, &err));
	assert_non_null(err);
	assert_int_equal(err->code, code);
	rpc_close(call);
}

static uint32_t count_queued(struct fixture *f)
{
	Control__V1__InfoRequest request = CONTROL__V1__INFO_REQUEST__INIT;
	ProtobufCMessage *reply = NULL;

	assert_int_equal(
		rpc_unary(f->peer, &control_info, &request.base, DEADLINE_MS, &reply, NULL), 0);
	uint32_t queued = ((Control__V1__InfoReply *)reply)->queued;
	rpc_message_free(reply);
	return queued;
}

static void a_call_of_many_has_its_caps(void **state)
{
	struct fixture *f = *state;
	static struct many many;

	fill_many(&many, 257, 0);
	expect_call_refused(f, &many, ERR_LIMIT);
	fill_many(&many, 0, 0);
	expect_call_refused(f, &many, ERR_INVALID);
	assert_int_equal(count_queued(f), 0);

	/* One who sends and does not listen, and leaves: what came is committed, the daemon well.
	 */
	struct rpc_call *call = rpc_open(f->peer, &control_submit_many, DEADLINE_MS, NULL);
	fill_many(&many, 200, 0);
	for (int i = 0; i < 5; i++)
		assert_int_equal(rpc_send(call, &many.request.base, NULL), 0);
	Control__V1__SubmitManyReply *reply = take_many(call, NULL);
	assert_int_equal(reply->n_results, 200);
	rpc_message_free(&reply->base);
	rpc_close(call);
	assert_true(count_queued(f) >= 198); /* two have a slot */
}

/* Killed in the middle of a stream: what was acknowledged is there, and a message's jobs are there
 * all or not at all. */
static void acknowledged_jobs_survive_a_kill(void **state)
{
	struct fixture *f = *state;
	struct rpc_call *call = rpc_open(f->peer, &control_submit_many, DEADLINE_MS, NULL);
	static struct many many;
	char ids[450][32];
	size_t n = 0;

	for (uint32_t i = 0; i < 6; i++) {
		fill_many(&many, 150, 150 * i);
		assert_int_equal(rpc_send(call, &many.request.base, NULL), 0);
	}
	while (n < ARRAY_SIZE(ids)) {
		Control__V1__SubmitManyReply *reply = take_many(call, NULL);

		for (size_t i = 0; i < reply->n_results; i++)
			strcpy(ids[n++], reply->results[i]->id);
		rpc_message_free(&reply->base);
	}
	rpc_close(call);
	assert_int_equal(fixture_end(f, SIGKILL), 128 + SIGKILL);
	_cleanup_free_ char *ready = fixture_start(f);
	assert_string_equal(ready, "ready");
	for (size_t i = 0; i < n; i++) {
		Control__V1__JobInfo *info = fixture_get(f, ids[i], NULL);

		assert_non_null(info);
		rpc_message_free(&info->base);
	}
	Control__V1__ListJobsRequest request = CONTROL__V1__LIST_JOBS_REQUEST__INIT;
	ProtobufCMessage *message;
	size_t all = 0;
	call = rpc_open(f->peer, &control_list_jobs, DEADLINE_MS, NULL);
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
	for (; rpc_recv(call, DEADLINE_MS, &message, NULL) == 1; all++)
		rpc_message_free(message);
	rpc_close(call);
	assert_true(all >= n && all <= 900);
	assert_int_equal(all % 150, 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(many_jobs_come_in_one_call),
		TEST(a_call_of_many_has_its_caps),
		TEST(acknowledged_jobs_survive_a_kill),
	};

	fixture_daemon_main(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
