/* How the daemon comes and goes: restarts, kill -9, a second one, idleness, signals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"
#include "orchestrator/control_api.h"
#include "tests/unit/control_fixture.h"
#include "tests/unit/fake_attempt.h"

#define DEADLINE_MS 30000
/* Long enough for a client to come before a daemon leaves that has just said that it is ready. */
#define IDLE_MS 2000

static void restart(struct fixture *f)
{
	_cleanup_free_ char *line = fixture_start(f);

	assert_string_equal(line, "ready");
}

static void what_was_acknowledged_survives_a_kill(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *file = fixture_path(f, "input");
	_cleanup_free_ char *go = fixture_word(f, "wait", "go");
	const char *inputs[] = {file, NULL}, *argv[] = {"fake", go, NULL};
	char running[32], other[32], queued[3][32], done[32];

	fixture_submit_ok(f, done, "exit:7", NULL);
	fixture_expect(f, done, JOB__V1__OUTCOME__FAILED);
	fixture_submit_ok(f, running, go, NULL);
	fixture_submit_ok(f, other, go, NULL);
	fixture_until(f, running, CONTROL__V1__STATE__RUNNING);
	fixture_until(f, other, CONTROL__V1__STATE__RUNNING);
	assert_int_equal(write_file(file, "data", 4, 0600, false, NULL), 0);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(fixture_submit(f, argv, i == 2 ? "key" : NULL,
					 i == 1 ? inputs : NULL, queued[i], NULL),
			0);
	/* Acknowledged an instant ago; nothing is closed, nothing is flushed. */
	assert_int_equal(fixture_end(f, SIGKILL), 128 + SIGKILL);
	fixture_touch(f, "go");
	restart(f);

	fixture_expect(f, done, JOB__V1__OUTCOME__FAILED);
	fixture_expect(f, running, JOB__V1__OUTCOME__INFRA);
	fixture_expect(f, other, JOB__V1__OUTCOME__INFRA);
	Control__V1__JobInfo *info = fixture_get(f, running, NULL);
	assert_string_equal(info->error, "the daemon ended while the job ran, and its VM with it");
	assert_int_equal(info->exit_code, 125);
	rpc_message_free(&info->base);
	for (size_t i = 0; i < 3; i++)
		fixture_expect(f, queued[i], JOB__V1__OUTCOME__SUCCEEDED);
	char again[32];
	assert_int_equal(fixture_submit(f, argv, "key", NULL, again, NULL), 0);
	assert_string_equal(again, queued[2]);
	_cleanup_free_ char *input =
		str_printf("%s/jobs/%s/inputs/0", f->config.state_dir, queued[1]);
	_cleanup_free_ char *data = read_file(input, 100, NULL, NULL);
	assert_string_equal(data, "data");
}

static void vms_are_swept_before_anything_starts(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *go = fixture_word(f, "wait", "go");
	char ids[3][32];

	for (size_t i = 0; i < 3; i++)
		fixture_submit_ok(f, ids[i], go, NULL);
	fixture_until(f, ids[0], CONTROL__V1__STATE__RUNNING);
	fixture_until(f, ids[1], CONTROL__V1__STATE__RUNNING);
	fixture_end(f, SIGKILL);
	fixture_touch(f, "go");
	restart(f);
	fixture_expect(f, ids[2], JOB__V1__OUTCOME__SUCCEEDED);
	_cleanup_free_ char *log = fixture_log(f);
	const char *second = strstr(strstr(log, "sweep") + 1, "sweep");
	assert_non_null(second);
	assert_non_null(strstr(second, ids[2]));
	assert_null(strstr(second, ids[0]));
}

static void an_unfinished_upload_is_swept(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *left = str_printf("%s/jobs/0123456789abc", f->config.state_dir);
	_cleanup_free_ char *below = str_printf("%s/inputs/0", left);

	assert_int_equal(make_dirs(below, 0700, NULL), 0);
	restart(f);
	assert_int_equal(access(left, F_OK), -1);
}

static void a_second_daemon_names_the_first(void **state)
{
	struct fixture *f = *state, second = *f;
	char pid[32];

	second.daemon = 0;
	_cleanup_free_ char *line = fixture_start(&second);
	snprintf(pid, sizeof(pid), "(pid %d)", f->daemon);
	assert_non_null(strstr(line, "error: "));
	assert_non_null(strstr(line, pid));
	assert_non_null(strstr(line, f->config.state_dir));
	/* And the first one goes on. */
	char id[32];
	fixture_submit_ok(f, id, "exit:0", NULL);
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
}

static void a_signal_ends_it_in_good_order(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *go = fixture_word(f, "wait", "go");
	char running[2][32], queued[32];

	fixture_submit_ok(f, running[0], go, NULL);
	fixture_submit_ok(f, running[1], go, NULL);
	fixture_submit_ok(f, queued, go, NULL);
	fixture_until(f, running[1], CONTROL__V1__STATE__RUNNING);
	assert_int_equal(fixture_end(f, SIGTERM), 0);
	_cleanup_free_ char *log = fixture_log(f);
	assert_non_null(strstr(strstr(log, "gone ") + 1, "gone ")); /* both VMs */
	fixture_touch(f, "go");
	restart(f);
	for (size_t i = 0; i < 2; i++) {
		fixture_expect(f, running[i], JOB__V1__OUTCOME__CANCELLED);
		Control__V1__JobInfo *info = fixture_get(f, running[i], NULL);
		assert_string_equal(info->error, "the daemon was stopped");
		rpc_message_free(&info->base);
	}
	fixture_expect(f, queued, JOB__V1__OUTCOME__SUCCEEDED);
}

static struct rpc_call *follow(struct fixture *f, const char *id)
{
	Control__V1__LogsRequest request = CONTROL__V1__LOGS_REQUEST__INIT;
	struct rpc_call *call = rpc_open(f->peer, &control_logs, DEADLINE_MS, NULL);

	request.id = (char *)(uintptr_t)id;
	request.has_follow = request.follow = true;
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
	return call;
}

/* How the following ended: "" with an end of the job, else the error. */
static char *outcome_of(struct rpc_call *call)
{
	ProtobufCMessage *message;
	_cleanup_error_ struct error *err = NULL;
	bool ended = false;
	int r;

	while ((r = rpc_recv(call, DEADLINE_MS, &message, &err)) == 1) {
		ended |= ((Control__V1__LogsReply *)message)->ended != NULL;
		rpc_message_free(message);
	}
	rpc_close(call);
	return xstrdup(r < 0 ? err->text : ended ? "" : "no end");
}

static void followers_hear_of_a_stop(void **state)
{
	struct fixture *f = *state;
	Control__V1__StopRequest request = CONTROL__V1__STOP_REQUEST__INIT;
	_cleanup_free_ char *go = fixture_word(f, "wait", "never");
	ProtobufCMessage *reply;
	char running[2][32], queued[32];

	fixture_submit_ok(f, running[0], go, NULL);
	fixture_submit_ok(f, running[1], go, NULL);
	fixture_submit_ok(f, queued, go, NULL);
	fixture_until(f, running[1], CONTROL__V1__STATE__RUNNING);
	struct rpc_call *of_running = follow(f, running[0]), *of_queued = follow(f, queued);
	assert_int_equal(
		rpc_unary(f->peer, &control_stop, &request.base, DEADLINE_MS, &reply, NULL), 0);
	rpc_message_free(reply);
	_cleanup_free_ char *end = outcome_of(of_running);
	_cleanup_free_ char *why = outcome_of(of_queued);
	assert_string_equal(end, "");
	assert_non_null(strstr(why, "the daemon is stopping"));
	rpc_peer_free(steal_ptr(f->peer));
	assert_int_equal(fixture_wait_end(f), 0);
}

static void an_idle_daemon_leaves(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *go = fixture_word(f, "wait", "go");
	char id[32];

	f->idle_exit = true;
	f->config.idle_timeout_ms = IDLE_MS;
	restart(f);
	fixture_submit_ok(f, id, go, NULL);
	/* Without clients it stays as long as there is a job; that it does cannot be waited for,
	 * but the job's record says whether it ran to its own end. */
	rpc_peer_free(steal_ptr(f->peer));
	sleep_ms(IDLE_MS * 3 / 2);
	fixture_touch(f, "go");
	assert_int_equal(fixture_wait_end(f), 0);
	f->idle_exit = false;
	restart(f);
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
}

static void a_client_keeps_it(void **state)
{
	struct fixture *f = *state;
	Control__V1__InfoRequest request = CONTROL__V1__INFO_REQUEST__INIT;
	ProtobufCMessage *reply;

	f->idle_exit = true;
	f->config.idle_timeout_ms = IDLE_MS;
	restart(f);
	assert_int_equal(
		rpc_unary(f->peer, &control_info, &request.base, DEADLINE_MS, &reply, NULL), 0);
	rpc_message_free(reply);
	sleep_ms(IDLE_MS * 3 / 2);
	assert_int_equal(
		rpc_unary(f->peer, &control_info, &request.base, DEADLINE_MS, &reply, NULL), 0);
	rpc_message_free(reply);
	rpc_peer_free(steal_ptr(f->peer));
	assert_int_equal(fixture_wait_end(f), 0);
}

static void an_unusable_state_directory_is_said(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *db = str_printf("%s/jobs.db", f->config.state_dir);

	assert_int_equal(make_dirs(f->config.state_dir, 0700, NULL), 0);
	assert_int_equal(write_file(db, "this is no database, whatever its name says", 43, 0600,
				 false, NULL),
		0);
	_cleanup_free_ char *line = fixture_start(f);
	assert_non_null(strstr(line, "error: "));
	assert_non_null(strstr(line, "jobs.db"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(what_was_acknowledged_survives_a_kill),
		TEST(vms_are_swept_before_anything_starts),
		TEST_STOPPED(an_unfinished_upload_is_swept),
		TEST(a_second_daemon_names_the_first),
		TEST(a_signal_ends_it_in_good_order),
		TEST(followers_hear_of_a_stop),
		TEST_STOPPED(an_idle_daemon_leaves),
		TEST_STOPPED(a_client_keeps_it),
		TEST_STOPPED(an_unusable_state_directory_is_said),
	};

	fixture_daemon_main(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
