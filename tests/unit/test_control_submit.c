/* Submitting twice, on purpose and by accident, of a real daemon whose attempts are fake: keys,
 * what is known of the inputs, and jobs that are submitted again when they have ended. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"
#include "orchestrator/control_api.h"
#include "orchestrator/job.h"
#include "tests/unit/control_fixture.h"

#define DEADLINE_MS 30000

static size_t count_job_dirs(const struct fixture *f)
{
	_cleanup_free_ char *jobs = str_printf("%s/jobs", f->config.state_dir);
	struct stat st;

	return stat(jobs, &st) < 0 ? 0 : st.st_nlink - 2;
}

static size_t count_jobs(struct fixture *f)
{
	Control__V1__ListJobsRequest request = CONTROL__V1__LIST_JOBS_REQUEST__INIT;
	struct rpc_call *call = rpc_open(f->peer, &control_list_jobs, DEADLINE_MS, NULL);
	ProtobufCMessage *message;
	size_t n = 0;

	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
	for (; rpc_recv(call, DEADLINE_MS, &message, NULL) == 1; n++)
		rpc_message_free(message);
	rpc_close(call);
	return n;
}

/* --- keys ------------------------------------------------------------------------------------ */

static const char *const one_argv[] = {"fake", "out:one", NULL};
static const char *const two_argv[] = {"fake", "out:two", NULL};

static void expect_conflict(struct fixture *f, const char *const *argv, const char *key,
	const char *const *inputs, const char *owner)
{
	struct error *err = NULL;
	char id[32];

	assert_int_equal(fixture_submit(f, argv, key, inputs, id, &err), -1);
	if (err->code != ERR_EXISTS || !strstr(err->text, owner) || !strstr(err->text, key))
		fail_msg("%s: %s", err_code_name(err->code), err->text);
	error_free(err);
}

static void a_key_is_for_one_spec(void **state)
{
	struct fixture *f = *state;
	char first[32], again[32];

	assert_int_equal(fixture_submit(f, one_argv, "k", NULL, first, NULL), 0);
	expect_conflict(f, two_argv, "k", NULL, first);
	fixture_expect(f, first, JOB__V1__OUTCOME__SUCCEEDED);
	expect_conflict(f, two_argv, "k", NULL, first);
	/* Another retry is another spec, too. */
	Job__V1__Retry retry = JOB__V1__RETRY__INIT;
	retry.has_max_attempts = true;
	retry.max_attempts = 2;
	f->retry = &retry;
	expect_conflict(f, one_argv, "k", NULL, first);
	f->retry = NULL;
	/* The same again is the same job, also for the next daemon. */
	fixture_end(f, SIGKILL);
	_cleanup_free_ char *line = fixture_start(f);
	assert_string_equal(line, "ready");
	assert_int_equal(fixture_submit(f, one_argv, "k", NULL, again, NULL), 0);
	assert_string_equal(first, again);
	expect_conflict(f, two_argv, "k", NULL, first);
	assert_int_equal(count_jobs(f), 1);
	assert_int_equal(count_job_dirs(f), 1);
}

enum { CLIENTS = 8 };

struct client {
	struct fixture f; /* its own connection */
	const char *const *argv;
	const char *const *inputs;
	pthread_t thread;
	int r;
	char id[32];
	enum err_code code;
};

static void *submit_once(void *arg)
{
	struct client *client = arg;
	struct error *err = NULL;

	client->r = fixture_submit(&client->f, client->argv, "k", client->inputs, client->id, &err);
	client->code = err ? err->code : 0;
	error_free(err);
	return NULL;
}

/* All at once with one key, half of them with another spec: one job, and each of the others is told
 * that it is the same, or that it is not. */
static void many_come_with_one_key(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *file = fixture_path(f, "data");
	const char *inputs[] = {file, NULL};
	struct client clients[CLIENTS];
	const char *const *won = NULL;
	char id[32] = "";

	assert_int_equal(write_file(file, "12345", 5, 0600, false, NULL), 0);
	for (size_t i = 0; i < CLIENTS; i++) {
		clients[i] = (struct client){.f = *f, .argv = i % 2 ? one_argv : two_argv};
		clients[i].inputs = inputs;
		clients[i].f.peer = fixture_connect(f);
	}
	for (size_t i = 0; i < CLIENTS; i++)
		assert_int_equal(
			pthread_create(&clients[i].thread, NULL, submit_once, &clients[i]), 0);
	for (size_t i = 0; i < CLIENTS; i++) {
		pthread_join(clients[i].thread, NULL);
		rpc_peer_free(clients[i].f.peer);
		if (clients[i].r < 0)
			continue;
		assert_true(!won || won == clients[i].argv);
		assert_true(!id[0] || str_eq(id, clients[i].id));
		won = clients[i].argv;
		strcpy(id, clients[i].id);
	}
	assert_non_null(won);
	for (size_t i = 0; i < CLIENTS; i++)
		assert_int_equal(clients[i].code, clients[i].argv == won ? 0 : ERR_EXISTS);
	assert_int_equal(count_jobs(f), 1);
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
	assert_int_equal(count_job_dirs(f), 1);
}

/* --- inputs ---------------------------------------------------------------------------------- */

struct inputs {
	char *file, *tree, *leaf, *empty;
	const char *paths[3];
};

static void inputs_clear(struct inputs *in)
{
	free(in->file);
	free(in->tree);
	free(in->leaf);
	free(in->empty);
}

static struct inputs make_inputs(struct fixture *f)
{
	struct inputs in = {fixture_path(f, "data.txt"), fixture_path(f, "tree"),
		fixture_path(f, "tree/a/leaf"), fixture_path(f, "tree/none"), {NULL}};
	_cleanup_free_ char *below = fixture_path(f, "tree/a");

	assert_int_equal(write_file(in.file, "12345", 5, 0640, false, NULL), 0);
	assert_int_equal(make_dirs(below, 0755, NULL), 0);
	assert_int_equal(write_file(in.leaf, "leaf", 4, 0755, false, NULL), 0);
	assert_int_equal(write_file(in.empty, "", 0, 0600, false, NULL), 0);
	in.paths[0] = in.file;
	in.paths[1] = in.tree;
	return in;
}

static void expect_input(const Control__V1__JobInfo *info, const char *path, const char *text)
{
	uint8_t sha256[32];

	crypto_hash_sha256(sha256, (const uint8_t *)text, strlen(text));
	for (size_t i = 0; i < info->n_inputs; i++) {
		if (!str_eq(info->inputs[i]->path, path))
			continue;
		assert_int_equal(info->inputs[i]->size, strlen(text));
		assert_int_equal(info->inputs[i]->sha256.len, 32);
		assert_memory_equal(info->inputs[i]->sha256.data, sha256, 32);
		return;
	}
	fail_msg("no input %s", path);
}

static void expect_inputs(struct fixture *f, const char *id)
{
	Control__V1__JobInfo *info = fixture_get(f, id, NULL);

	assert_non_null(info);
	assert_int_equal(info->n_inputs, 3);
	expect_input(info, "/in/0", "12345");
	expect_input(info, "/in/1/a/leaf", "leaf");
	expect_input(info, "/in/1/none", "");
	rpc_message_free(&info->base);
}

static void inputs_are_known_by_their_digests(void **state)
{
	struct fixture *f = *state;
	struct inputs in = make_inputs(f);
	char id[32];

	assert_int_equal(fixture_submit(f, one_argv, NULL, in.paths, id, NULL), 0);
	expect_inputs(f, id);
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
	expect_inputs(f, id);
	_cleanup_free_ char *path = str_printf("%s/jobs/%s/result.json", f->config.state_dir, id);
	_cleanup_free_ char *json = read_file(path, MIB, NULL, NULL);
	assert_non_null(strstr(json, "\"path\": \"/in/1/a/leaf\""));
	/* sha256 of "12345" */
	assert_non_null(
		strstr(json, "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"));
	inputs_clear(&in);
}

/* --- once more ------------------------------------------------------------------------------- */

static int again(struct fixture *f, const char *id, char ret_id[32], struct error **err)
{
	Control__V1__JobRequest request = CONTROL__V1__JOB_REQUEST__INIT;
	ProtobufCMessage *message = NULL;

	request.id = (char *)(uintptr_t)id;
	if (rpc_unary(f->peer, &control_retry, &request.base, DEADLINE_MS, &message, err) < 0)
		return -1;
	snprintf(ret_id, 32, "%s", ((Control__V1__SubmitReply *)message)->id);
	rpc_message_free(message);
	return 0;
}

static void expect_refused(struct fixture *f, const char *id, enum err_code code, const char *text)
{
	size_t jobs = count_jobs(f);
	struct error *err = NULL;
	char none[32];

	assert_int_equal(again(f, id, none, &err), -1);
	if (err->code != code || !strstr(err->text, text))
		fail_msg("%s: %s", err_code_name(err->code), err->text);
	error_free(err);
	assert_int_equal(count_jobs(f), jobs);
	/* Some of those that wait may have none yet. */
	assert_true(count_job_dirs(f) <= jobs);
}

static void a_job_is_submitted_again(void **state)
{
	struct fixture *f = *state;
	struct inputs in = make_inputs(f);
	const char *argv[] = {"fake", "out:x", "exit:4", NULL};
	char first[32], second[32], third[32];
	struct stat a, b;

	assert_int_equal(fixture_submit(f, argv, "key", in.paths, first, NULL), 0);
	fixture_expect(f, first, JOB__V1__OUTCOME__FAILED);
	/* What the submitter did to its files since is of no interest. */
	assert_int_equal(unlink(in.file), 0);
	assert_int_equal(again(f, first, second, NULL), 0);
	assert_string_not_equal(first, second);
	fixture_expect(f, second, JOB__V1__OUTCOME__FAILED);
	expect_inputs(f, second);
	Control__V1__JobInfo *info = fixture_get(f, second, NULL);
	assert_string_equal(info->retried_from, first);
	assert_int_equal(info->attempt, 1);
	assert_int_equal(info->exit_code, 4);
	assert_int_equal(info->spec->n_argv, 3);
	rpc_message_free(&info->base);
	/* The same files. */
	static const char *const names[] = {"0", "1/a/leaf", "1/none"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *old =
			str_printf("%s/jobs/%s/inputs/%s", f->config.state_dir, first, names[i]);
		_cleanup_free_ char *new =
			str_printf("%s/jobs/%s/inputs/%s", f->config.state_dir, second, names[i]);
		assert_int_equal(stat(old, &a), 0);
		assert_int_equal(stat(new, &b), 0);
		assert_int_equal(a.st_ino, b.st_ino);
		assert_int_equal(b.st_nlink, 2);
	}
	/* When the first is gone, the second is whole, and can be had again itself. */
	_cleanup_free_ char *old = str_printf("%s/jobs/%s", f->config.state_dir, first);
	assert_int_equal(remove_tree(old, NULL), 0);
	assert_int_equal(again(f, second, third, NULL), 0);
	fixture_expect(f, third, JOB__V1__OUTCOME__FAILED);
	expect_inputs(f, third);
	inputs_clear(&in);
}

static void only_one_that_ended_is_submitted_again(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *boot = fixture_word(f, "boot", "boot");
	_cleanup_free_ char *go = fixture_word(f, "wait", "go");
	_cleanup_free_ char *collect = fixture_word(f, "collect", "end");
	char id[32], other[32], queued[32], fresh[32];

	fixture_submit_ok(f, id, boot, go, collect, NULL);
	fixture_submit_ok(f, other, boot, NULL);
	fixture_submit_ok(f, queued, "exit:0", NULL);
	fixture_until(f, id, CONTROL__V1__STATE__STARTING);
	expect_refused(f, queued, ERR_STATE, "still queued");
	expect_refused(f, id, ERR_STATE, "still starting");
	fixture_touch(f, "boot");
	fixture_until(f, id, CONTROL__V1__STATE__RUNNING);
	expect_refused(f, id, ERR_STATE, "still running");
	fixture_touch(f, "go");
	fixture_until(f, id, CONTROL__V1__STATE__COLLECTING);
	expect_refused(f, id, ERR_STATE, "orchestrator cancel");
	fixture_touch(f, "end");
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
	assert_int_equal(again(f, id, fresh, NULL), 0);
	fixture_expect(f, fresh, JOB__V1__OUTCOME__SUCCEEDED);
	expect_refused(f, "zzzz", ERR_NOT_FOUND, "no job zzzz");
	expect_refused(f, "../x", ERR_NOT_FOUND, "no job");
	expect_refused(f, "6", ERR_INVALID, "the beginning of several jobs");
}

static void without_its_inputs_none_is_submitted(void **state)
{
	struct fixture *f = *state;
	struct inputs in = make_inputs(f);
	static const char *const parts[] = {"1/a/leaf", "1/none", "0", ""};
	char id[32];

	assert_int_equal(fixture_submit(f, one_argv, NULL, in.paths, id, NULL), 0);
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		_cleanup_free_ char *path =
			str_printf("%s/jobs/%s/inputs/%s", f->config.state_dir, id, parts[i]);

		assert_int_equal(remove_tree(path, NULL), 0);
		expect_refused(f, id, ERR_NOT_FOUND,
			i < 2	 ? "are left"
			: i == 2 ? "/in/0 is no longer there"
				 : "no longer there");
	}
	inputs_clear(&in);
}

/* --- ids that are none ----------------------------------------------------------------------- */

static enum err_code call_with(
	struct fixture *f, const struct rpc_method *method, const char *id, char text[256])
{
	Control__V1__JobRequest by_id = CONTROL__V1__JOB_REQUEST__INIT;
	Control__V1__WaitRequest wait = CONTROL__V1__WAIT_REQUEST__INIT;
	Control__V1__LogsRequest logs = CONTROL__V1__LOGS_REQUEST__INIT;
	const ProtobufCMessage *request = method == &control_wait   ? &wait.base
					  : method == &control_logs ? &logs.base
								    : &by_id.base;
	struct rpc_call *call = rpc_open(f->peer, method, DEADLINE_MS, NULL);
	_cleanup_error_ struct error *err = NULL;
	ProtobufCMessage *message = NULL;

	by_id.id = wait.id = logs.id = (char *)(uintptr_t)id;
	assert_int_equal(rpc_send(call, request, NULL), 0);
	assert_int_equal(rpc_recv(call, DEADLINE_MS, &message, &err), -1);
	rpc_close(call);
	snprintf(text, 256, "%s", err->text);
	return err->code;
}

static void an_id_that_is_none_is_refused_by_all(void **state)
{
	struct fixture *f = *state;
	const struct rpc_method *methods[] = {&control_get_job, &control_wait, &control_cancel,
		&control_retry, &control_logs, &control_result};
	char a[32], b[32], ambiguous[32], text[256];
	size_t common = 0;

	fixture_submit_ok(f, a, "exit:0", NULL);
	fixture_submit_ok(f, b, "exit:0", NULL);
	fixture_expect(f, a, JOB__V1__OUTCOME__SUCCEEDED);
	fixture_expect(f, b, JOB__V1__OUTCOME__SUCCEEDED);
	while (a[common] == b[common])
		common++;
	snprintf(ambiguous, sizeof(ambiguous), "%.*s", (int)common, a);
	const struct {
		const char *id;
		enum err_code code;
		const char *says;
	} table[] = {
		{"zzz", ERR_NOT_FOUND, "no job zzz"},
		{"", ERR_NOT_FOUND, "no job"},
		{"../../etc", ERR_NOT_FOUND, "no job"},
		{"0%' OR 1 --", ERR_NOT_FOUND, "no job"},
		{ambiguous, ERR_INVALID, "the beginning of several jobs"},
	};
	for (size_t m = 0; m < ARRAY_SIZE(methods); m++) {
		for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
			enum err_code code = call_with(f, methods[m], table[i].id, text);

			if (code != table[i].code || !strstr(text, table[i].says))
				fail_msg("%s %s: %s: %s", methods[m]->path, table[i].id,
					err_code_name(code), text);
		}
	}
	assert_int_equal(count_jobs(f), 2);
}

#define HALVES 100

static size_t count_threads(const struct fixture *f)
{
	_cleanup_free_ char *path = str_printf("/proc/%d/task", (int)f->daemon);
	DIR *dir = opendir(path);
	size_t n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* The spec of a job without inputs, and not yet the end of the call. */
static struct rpc_call *submit_half(struct fixture *f)
{
	Control__V1__SubmitRequest request = CONTROL__V1__SUBMIT_REQUEST__INIT;
	Job__V1__Spec spec = JOB__V1__SPEC__INIT;
	char image[] = "fake", word[] = "fake", *argv[] = {word};
	struct rpc_call *call = rpc_open(f->peer, &control_submit, DEADLINE_MS, NULL);

	spec.image = image;
	spec.n_argv = 1;
	spec.argv = argv;
	request.spec = &spec;
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
	return call;
}

static void jobs_without_inputs_hold_no_threads(void **state)
{
	struct fixture *f = *state;
	struct rpc_call *calls[HALVES];
	char id[32];

	/* The image is known from then on. */
	fixture_submit_ok(f, id, "exit:0", NULL);
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
	size_t threads = count_threads(f);
	for (size_t i = 0; i < HALVES; i++)
		calls[i] = submit_half(f);
	/* One that comes behind them. */
	fixture_submit_ok(f, id, "exit:0", NULL);
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
	/* Attempts have theirs, and a call of the last lines may. */
	assert_in_range(count_threads(f), 1, threads + 8);
	assert_int_equal(count_jobs(f), 2);
	for (size_t i = 0; i < HALVES; i++) {
		ProtobufCMessage *reply = NULL;
		struct error *err = NULL;

		if (i % 2 == 0) {
			assert_int_equal(rpc_close_send(calls[i], NULL), 0);
			if (rpc_recv(calls[i], DEADLINE_MS, &reply, &err) != 1)
				fail_msg("%s", err ? err->text : "no reply");
			rpc_message_free(reply);
		} /* else the caller goes away, and there is no such job */
		rpc_close(calls[i]);
	}
	assert_int_equal(count_jobs(f), 2 + HALVES / 2);
}

static void no_file_comes_behind_a_job_without_inputs(void **state)
{
	struct fixture *f = *state;
	Control__V1__SubmitRequest request = CONTROL__V1__SUBMIT_REQUEST__INIT;
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;
	char id[32];

	fixture_submit_ok(f, id, "exit:0", NULL);
	struct rpc_call *call = submit_half(f);
	_cleanup_error_ struct error *err = NULL;
	ProtobufCMessage *reply = NULL;
	request.record = &record;
	rpc_send(call, &request.base, NULL);
	assert_int_equal(rpc_recv(call, DEADLINE_MS, &reply, &err), -1);
	assert_int_equal(err->code, ERR_INVALID);
	assert_non_null(strstr(err->text, "the job has no inputs"));
	rpc_close(call);
	assert_int_equal(count_jobs(f), 1);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(jobs_without_inputs_hold_no_threads),
		TEST(no_file_comes_behind_a_job_without_inputs),
		TEST(a_key_is_for_one_spec),
		TEST(many_come_with_one_key),
		TEST(inputs_are_known_by_their_digests),
		TEST(a_job_is_submitted_again),
		TEST(only_one_that_ended_is_submitted_again),
		TEST(without_its_inputs_none_is_submitted),
		TEST(an_id_that_is_none_is_refused_by_all),
	};

	fixture_daemon_main(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
