/* Logs and Result, of a real daemon whose attempts are fake. */
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

struct logs {
	char out[4096], err[4096], states[128], end[32];
	size_t total;
};

static void take_reply(struct logs *logs, const Control__V1__LogsReply *reply)
{
	if (reply->has_data) {
		char *to = reply->stream == CONTROL__V1__LOGS_REPLY__STREAM__STDERR ? logs->err
										    : logs->out;
		size_t at = strlen(to);

		logs->total += reply->data.len;
		memcpy(to + at, reply->data.data, MIN(reply->data.len, 4095 - at));
	}
	if (reply->has_state)
		sprintf(logs->states + strlen(logs->states), "%d", reply->state);
	if (reply->ended)
		strcpy(logs->end, job_outcome_name((enum job_outcome)reply->ended->outcome));
}

static struct rpc_call *open_logs(struct fixture *f, const char *id, bool follow)
{
	Control__V1__LogsRequest request = CONTROL__V1__LOGS_REQUEST__INIT;
	struct rpc_call *call = rpc_open(f->peer, &control_logs, DEADLINE_MS, NULL);

	request.id = (char *)(uintptr_t)id;
	request.has_follow = true;
	request.follow = follow;
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
	return call;
}

/* Until the end, or until stdout holds that text. */
static void read_logs(struct rpc_call *call, const char *until, struct logs *logs)
{
	ProtobufCMessage *message;
	struct error *err = NULL;
	int r = 1;

	while (!(until && strstr(logs->out, until)) &&
		(r = rpc_recv(call, DEADLINE_MS, &message, &err)) == 1) {
		take_reply(logs, (Control__V1__LogsReply *)message);
		rpc_message_free(message);
	}
	if (r < 0)
		fail_msg("logs: %s", err->text);
}

/* The record of a job that runs tells of its output, soon. */
static void expect_stdout_bytes(struct fixture *f, const char *id, uint64_t bytes)
{
	uint64_t seen = 0;

	for (int i = 0; i < DEADLINE_MS / 5 && seen != bytes; i++) {
		Control__V1__JobInfo *info = fixture_get(f, id, NULL);

		assert_non_null(info);
		seen = info->stdout_bytes;
		rpc_message_free(&info->base);
		if (seen != bytes)
			sleep_ms(5);
	}
	assert_int_equal(seen, bytes);
}

static void logs_are_followed(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *boot = fixture_word(f, "boot", "boot");
	_cleanup_free_ char *go = fixture_word(f, "wait", "go");
	struct logs logs = {0}, late = {0}, history = {0};
	char id[32];

	fixture_submit_ok(f, id, boot, "out:one", "err:oops", go, "out:two", "exit:5", NULL);
	struct rpc_call *call = open_logs(f, id, true);
	fixture_touch(f, "boot");
	read_logs(call, "one\n", &logs);
	assert_null(strstr(logs.out, "two"));
	expect_stdout_bytes(f, id, 4);
	fixture_touch(f, "go");
	read_logs(call, NULL, &logs);
	rpc_close(call);
	assert_string_equal(logs.out, "one\ntwo\n");
	assert_string_equal(logs.err, "oops\n");
	assert_string_equal(logs.end, "failed");
	assert_non_null(strstr(logs.states, "3"));
	assert_string_equal(logs.states + strlen(logs.states) - 1, "5");

	/* One that comes when all is over gets the same; without follow, only what there is. */
	call = open_logs(f, id, true);
	read_logs(call, NULL, &late);
	rpc_close(call);
	assert_string_equal(late.out, logs.out);
	assert_string_equal(late.end, "failed");
	call = open_logs(f, id, false);
	read_logs(call, NULL, &history);
	rpc_close(call);
	assert_string_equal(history.out, logs.out);
	assert_string_equal(history.end, "");
}

static void much_output_comes_whole(void **state)
{
	struct fixture *f = *state;
	struct logs logs = {0};
	char id[32];

	fixture_submit_ok(f, id, "outn:3000001", NULL);
	struct rpc_call *call = open_logs(f, id, true);
	read_logs(call, NULL, &logs);
	rpc_close(call);
	assert_int_equal(logs.total, 3000001);
}

static void a_follower_may_leave(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *go = fixture_word(f, "wait", "go");
	struct logs logs = {0};
	char id[32];

	fixture_submit_ok(f, id, "out:one", go, NULL);
	struct rpc_call *call = open_logs(f, id, true);
	read_logs(call, "one", &logs);
	rpc_close(call);
	fixture_touch(f, "go");
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
}

/* Many watchers on one job: no more than there are seats for, each from the beginning, and the
 * daemon answers others all the while. */
static void watchers_have_so_many_seats(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *go = fixture_word(f, "wait", "go");
	struct rpc_call *calls[208];
	_cleanup_error_ struct error *err = NULL;
	ProtobufCMessage *message;
	char id[32];

	fixture_submit_ok(f, id, "outn:300000", "out:begun", go, "outn:300000", "out:done", NULL);
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		calls[i] = open_logs(f, id, true);
		/* It sits there. */
		assert_int_equal(rpc_recv(calls[i], DEADLINE_MS, &message, NULL), 1);
		rpc_message_free(message);
	}
	struct rpc_call *more = open_logs(f, id, true);
	assert_int_equal(rpc_recv(more, DEADLINE_MS, &message, &err), -1);
	assert_int_equal(err->code, ERR_LIMIT);
	assert_non_null(strstr(err->text, "208 clients follow a job or wait for one already"));
	rpc_close(more);
	/* Nobody reads, and neither the job nor others are held up. */
	fixture_touch(f, "go");
	expect_stdout_bytes(f, id, 600011);
	for (size_t i = 1; i < 5; i++) {
		struct logs logs = {0};

		read_logs(calls[i], NULL, &logs);
		assert_true(logs.total >= 600011 - 65536); /* some came with the first message */
		assert_string_equal(logs.end, "succeeded");
	}
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		rpc_close(calls[i]);
	struct logs late = {0};
	for (int i = 0; i < DEADLINE_MS / 20 && !late.total; i++) {
		ProtobufCMessage *reply = NULL;

		more = open_logs(f, id, true);
		if (rpc_recv(more, DEADLINE_MS, &reply, NULL) == 1) {
			take_reply(&late, (Control__V1__LogsReply *)reply);
			rpc_message_free(reply);
			read_logs(more, NULL, &late);
		} else {
			sleep_ms(20); /* those who left have not risen yet */
		}
		rpc_close(more);
	}
	assert_int_equal(late.total, 600011);
}

static void results_come_as_files(void **state)
{
	struct fixture *f = *state;
	Control__V1__JobRequest request = CONTROL__V1__JOB_REQUEST__INIT;
	_cleanup_free_ char *go = fixture_word(f, "wait", "go");
	struct error *err = NULL;
	ProtobufCMessage *message;
	char id[32], names[1024] = "";

	fixture_submit_ok(f, id, "out:x", "artifact:made.txt", go, NULL);
	request.id = id;
	struct rpc_call *call = rpc_open(f->peer, &control_result, DEADLINE_MS, NULL);
	rpc_send(call, &request.base, NULL);
	assert_int_equal(rpc_recv(call, DEADLINE_MS, &message, &err), -1);
	assert_int_equal(err->code, ERR_STATE);
	error_free(err);
	rpc_close(call);

	fixture_touch(f, "go");
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
	call = rpc_open(f->peer, &control_result, DEADLINE_MS, NULL);
	rpc_send(call, &request.base, NULL);
	while (rpc_recv(call, DEADLINE_MS, &message, NULL) == 1) {
		const Job__V1__FileRecord *record = (Job__V1__FileRecord *)message;

		if (record->part_case == JOB__V1__FILE_RECORD__PART_HEAD)
			sprintf(names + strlen(names), "%s ", record->head->path);
		rpc_message_free(message);
	}
	rpc_close(call);
	assert_string_equal(names, "result.json stdout artifacts artifacts/made.txt ");
	_cleanup_free_ char *path = str_printf("%s/jobs/%s/result.json", f->config.state_dir, id);
	_cleanup_free_ char *json = read_file(path, MIB, NULL, NULL);
	assert_non_null(strstr(json, "\"outcome\": \"succeeded\""));
	assert_non_null(strstr(json, "made.txt"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(logs_are_followed),
		TEST(much_output_comes_whole),
		TEST(a_follower_may_leave),
		TEST(watchers_have_so_many_seats),
		TEST(results_come_as_files),
	};

	fixture_daemon_main(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
