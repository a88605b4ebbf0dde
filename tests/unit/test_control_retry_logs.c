/* The output and the files of jobs of several attempts, of a real daemon whose attempts are fake.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/control_api.h"
#include "orchestrator/job.h"
#include "tests/unit/control_fixture.h"

#define DEADLINE_MS 30000
#define HOUR_MS	    3600000

struct logs {
	char text[8192]; /* "[1]" where an attempt's output begins by a note */
	char end[32];
	unsigned attempt;
};

static void follow(struct fixture *f, const char *id, Control__V1__LogsRequest *request,
	const char *until, struct logs *logs)
{
	struct rpc_call *call = rpc_open(f->peer, &control_logs, DEADLINE_MS, NULL);
	struct error *err = NULL;
	ProtobufCMessage *message;
	int r = 1;

	request->id = (char *)(uintptr_t)id;
	request->has_follow = true;
	assert_int_equal(rpc_send(call, &request->base, NULL), 0);
	while (!(until && strstr(logs->text, until)) &&
		(r = rpc_recv(call, DEADLINE_MS, &message, &err)) == 1) {
		const Control__V1__LogsReply *reply = (Control__V1__LogsReply *)message;

		if (reply->has_data)
			strncat(logs->text, (char *)reply->data.data, reply->data.len);
		if (reply->retried)
			sprintf(logs->text + strlen(logs->text), "[%u]", reply->retried->attempt);
		if (reply->has_attempt)
			logs->attempt = reply->attempt;
		if (reply->ended)
			strcpy(logs->end,
				job_outcome_name((enum job_outcome)reply->ended->outcome));
		rpc_message_free(message);
	}
	if (r < 0)
		fail_msg("logs: %s", err->text);
	rpc_close(call);
}

static void followers_go_on(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *go = fixture_word(f, "wait", "go");
	struct logs first = {0}, live = {0}, late = {0}, all = {0};
	char id[32];

	fixture_retry(f, 3, 50);
	fixture_submit_ok(f, id, "out:abc", go, "end:2:infra", NULL);
	Control__V1__LogsRequest request = CONTROL__V1__LOGS_REQUEST__INIT;
	request.follow = true;
	follow(f, id, &request, "abc\n", &first);
	assert_int_equal(first.attempt, 1);
	fixture_touch(f, "go");
	/* It left while the first ran, and comes back with what it had of that. */
	request.has_attempt = request.has_stdout_offset = true;
	request.attempt = 1;
	request.stdout_offset = 2;
	follow(f, id, &request, NULL, &live);
	assert_string_equal(live.text, "c\n[1]abc\n[2]abc\n");
	assert_string_equal(live.end, "succeeded");
	/* The same when all is over. */
	follow(f, id, &request, NULL, &late);
	assert_string_equal(late.text, live.text);
	assert_string_equal(late.end, "succeeded");
	/* Who does not say shows the last; and each can be had. */
	Control__V1__LogsRequest plain = CONTROL__V1__LOGS_REQUEST__INIT;
	follow(f, id, &plain, NULL, &all);
	assert_string_equal(all.text, "abc\n");
	for (uint32_t i = 1; i <= 3; i++) {
		struct logs one = {0};

		plain.has_attempt = true;
		plain.attempt = i;
		follow(f, id, &plain, NULL, &one);
		assert_string_equal(one.text, "abc\n");
	}
	/* No such attempt. */
	plain.attempt = 4;
	plain.id = id;
	struct rpc_call *call = rpc_open(f->peer, &control_logs, DEADLINE_MS, NULL);
	struct error *err = NULL;
	ProtobufCMessage *message;
	rpc_send(call, &plain.base, NULL);
	assert_int_equal(rpc_recv(call, DEADLINE_MS, &message, &err), -1);
	assert_int_equal(err->code, ERR_NOT_FOUND);
	error_free(err);
	rpc_close(call);
}

/* Attempts that follow each other as fast as they can: each one's output once and whole. */
static void no_output_is_mixed_up(void **state)
{
	struct fixture *f = *state;
	char expected[1024] = "";

	fixture_retry(f, 20, 0);
	for (int i = 1; i < 20; i++)
		sprintf(expected + strlen(expected), "one\ntwo\n[%d]", i);
	strcat(expected, "one\ntwo\n");
	for (int round = 0; round < 5; round++) {
		Control__V1__LogsRequest request = CONTROL__V1__LOGS_REQUEST__INIT;
		struct logs logs = {0};
		char id[32];

		fixture_submit_ok(f, id, "out:one", "out:two", "end:infra", NULL);
		request.follow = request.has_attempt = true;
		request.attempt = 1;
		follow(f, id, &request, NULL, &logs);
		assert_string_equal(logs.text, expected);
		assert_string_equal(logs.end, "infra");
	}
}

static void a_follower_of_a_backoff_sees_its_end(void **state)
{
	struct fixture *f = *state;
	struct logs logs = {0}, ended = {0};
	char id[32];

	fixture_retry(f, 3, HOUR_MS);
	fixture_submit_ok(f, id, "out:x", "end:infra", NULL);
	Control__V1__LogsRequest request = CONTROL__V1__LOGS_REQUEST__INIT;
	request.follow = true;
	follow(f, id, &request, "[1]", &logs);
	assert_string_equal(logs.text, "x\n[1]");
	rpc_message_free(&fixture_cancel(f, id, NULL)->base);
	follow(f, id, &request, NULL, &ended);
	assert_string_equal(ended.text, "x\n");
	assert_string_equal(ended.end, "cancelled");
}

static void results_of_each_attempt_come_as_files(void **state)
{
	struct fixture *f = *state;
	char id[32];

	fixture_retry(f, 2, 1);
	fixture_submit_ok(f, id, "out:x", "artifact:made.txt", "end:1:infra", NULL);
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
	for (uint32_t i = 0; i <= 2; i++) {
		Control__V1__JobRequest request = CONTROL__V1__JOB_REQUEST__INIT;
		struct rpc_call *call = rpc_open(f->peer, &control_result, DEADLINE_MS, NULL);
		ProtobufCMessage *message;
		char names[512] = "", json[8192] = "";

		request.id = id;
		request.has_attempt = i != 0;
		request.attempt = i;
		rpc_send(call, &request.base, NULL);
		while (rpc_recv(call, DEADLINE_MS, &message, NULL) == 1) {
			const Job__V1__FileRecord *record = (Job__V1__FileRecord *)message;

			if (record->part_case == JOB__V1__FILE_RECORD__PART_HEAD)
				sprintf(names + strlen(names), "%s ", record->head->path);
			else if (record->part_case == JOB__V1__FILE_RECORD__PART_CHUNK &&
				 str_eq(names, "result.json "))
				strncat(json, (char *)record->chunk.data, record->chunk.len);
			rpc_message_free(message);
		}
		rpc_close(call);
		assert_string_equal(names, "result.json stdout artifacts artifacts/made.txt ");
		assert_non_null(strstr(json, i == 1 ? "\"attempt\": 1" : "\"attempt\": 2"));
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(followers_go_on),
		TEST(no_output_is_mixed_up),
		TEST(a_follower_of_a_backoff_sees_its_end),
		TEST(results_of_each_attempt_come_as_files),
	};

	fixture_daemon_main(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
