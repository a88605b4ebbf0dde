/* The control socket's calls, of a real daemon whose attempts are fake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/util.h"
#include "orchestrator/control_api.h"
#include "orchestrator/job.h"
#include "tests/unit/control_fixture.h"

#define DEADLINE_MS 30000

static void a_job_runs_and_is_recorded(void **state)
{
	struct fixture *f = *state;
	char id[32];

	fixture_submit_ok(f, id, "out:hello", "exit:3", NULL);
	fixture_expect(f, id, JOB__V1__OUTCOME__FAILED);
	Control__V1__JobInfo *info = fixture_get(f, id, NULL);
	assert_non_null(info);
	assert_string_equal(info->id, id);
	assert_int_equal(info->exit_code, 3);
	assert_string_equal(info->error, "exited with 3");
	assert_int_equal(info->stdout_bytes, 6);
	assert_int_equal(info->attempt, 1);
	assert_string_equal(info->wall->accelerator, "fake");
	assert_int_equal(info->spec->resources->memory_bytes, 128 * MIB);
	assert_true(info->times->submitted && info->times->started >= info->times->submitted);
	assert_true(info->times->recorded >= info->times->program_ended);
	rpc_message_free(&info->base);
}

/* --- submit ---------------------------------------------------------------------------------- */

static void inputs_are_on_the_disk(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *file = fixture_path(f, "data.txt");
	_cleanup_free_ char *dir = fixture_path(f, "tree");
	_cleanup_free_ char *below = fixture_path(f, "tree/a/b");
	_cleanup_free_ char *leaf = fixture_path(f, "tree/a/b/leaf");
	const char *inputs[] = {file, dir, NULL}, *argv[] = {"fake", NULL};
	char id[32];

	assert_int_equal(write_file(file, "12345", 5, 0640, false, NULL), 0);
	assert_int_equal(make_dirs(below, 0755, NULL), 0);
	assert_int_equal(write_file(leaf, "leaf", 4, 0755, false, NULL), 0);
	assert_int_equal(fixture_submit(f, argv, NULL, inputs, id, NULL), 0);

	_cleanup_free_ char *in0 = str_printf("%s/jobs/%s/inputs/0", f->config.state_dir, id);
	_cleanup_free_ char *in1 =
		str_printf("%s/jobs/%s/inputs/1/a/b/leaf", f->config.state_dir, id);
	_cleanup_free_ char *data = read_file(in0, 100, NULL, NULL);
	struct stat st;
	assert_string_equal(data, "12345");
	assert_int_equal(stat(in1, &st), 0);
	assert_int_equal(st.st_mode & 0111, 0111);
	fixture_expect(f, id, JOB__V1__OUTCOME__SUCCEEDED);
}

static size_t count_job_dirs(const struct fixture *f)
{
	_cleanup_free_ char *jobs = str_printf("%s/jobs", f->config.state_dir);
	struct stat st;

	assert_int_equal(stat(jobs, &st), 0);
	return st.st_nlink - 2;
}

static void expect_refused(struct fixture *f, const char *const *argv, const char *const *inputs,
	enum err_code code, const char *text)
{
	struct error *err = NULL;
	char id[32];

	assert_int_equal(fixture_submit(f, argv, NULL, inputs, id, &err), -1);
	if (err->code != code || !strstr(err->text, text))
		fail_msg("%s: %s", err_code_name(err->code), err->text);
	error_free(err);
	assert_int_equal(count_job_dirs(f), 0);
}

static void a_bad_submit_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *gone = fixture_path(f, "not-there");
	const char *no_argv[] = {NULL}, *argv[] = {"fake", NULL};
	const char *inputs[] = {gone, NULL};

	expect_refused(f, no_argv, NULL, ERR_INVALID, "");
	expect_refused(f, argv, inputs, ERR_NOT_FOUND, "not-there");
}

/* Speak the upload by hand: first a spec with one input, then this head. */
static enum err_code upload_with_head(struct fixture *f, const char *path)
{
	Control__V1__SubmitRequest request = CONTROL__V1__SUBMIT_REQUEST__INIT;
	Job__V1__Spec spec = JOB__V1__SPEC__INIT;
	Job__V1__Input input = JOB__V1__INPUT__INIT, *inputs[] = {&input};
	Job__V1__FileRecord record = JOB__V1__FILE_RECORD__INIT;
	Job__V1__FileHead head = JOB__V1__FILE_HEAD__INIT;
	char image[] = "fake", word[] = "fake", src[] = "s", dest[] = "/d", *argv[] = {word};
	struct rpc_call *call = rpc_open(f->peer, &control_submit, DEADLINE_MS, NULL);
	_cleanup_error_ struct error *err = NULL;
	ProtobufCMessage *reply = NULL;

	spec.image = image;
	spec.n_argv = 1;
	spec.argv = argv;
	input.src = src;
	input.dest = dest;
	spec.n_inputs = 1;
	spec.inputs = inputs;
	request.spec = &spec;
	rpc_send(call, &request.base, NULL);
	if (path) {
		head.path = (char *)(uintptr_t)path;
		head.type = JOB__V1__FILE_HEAD__TYPE__REGULAR;
		head.mode = 0644;
		head.size = 4;
		record.part_case = JOB__V1__FILE_RECORD__PART_HEAD;
		record.head = &head;
		request.spec = NULL;
		request.record = &record;
		rpc_send(call, &request.base, NULL);
	}
	rpc_close_send(call, NULL);
	assert_int_equal(rpc_recv(call, DEADLINE_MS, &reply, &err), -1);
	rpc_close(call);
	assert_int_equal(count_job_dirs(f), 0);
	return err->code;
}

static void hostile_uploads_are_refused(void **state)
{
	struct fixture *f = *state;
	static const char *const paths[] = {
		"1", "00", "0x", "-1", "../../escape", "/etc/passwd", "x", "", "999999999999"};

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		assert_int_equal(upload_with_head(f, paths[i]), ERR_INVALID);
	assert_int_equal(upload_with_head(f, "0/../../escape"), ERR_INVALID);
	assert_int_equal(upload_with_head(f, "0"), ERR_DATA_LOSS); /* its bytes do not come */
	assert_int_equal(upload_with_head(f, NULL), ERR_DATA_LOSS);
}

static void a_key_names_one_job(void **state)
{
	struct fixture *f = *state;
	const char *argv[] = {"fake", NULL};
	char first[32], second[32], other[32];

	assert_int_equal(fixture_submit(f, argv, "k1", NULL, first, NULL), 0);
	assert_int_equal(fixture_submit(f, argv, "k1", NULL, second, NULL), 0);
	assert_int_equal(fixture_submit(f, argv, "k2", NULL, other, NULL), 0);
	assert_string_equal(first, second);
	assert_string_not_equal(first, other);
	fixture_expect(f, first, JOB__V1__OUTCOME__SUCCEEDED);
	fixture_expect(f, other, JOB__V1__OUTCOME__SUCCEEDED);
	assert_int_equal(count_job_dirs(f), 2);
}

static void a_full_disk_refuses_jobs(void **state)
{
	struct fixture *f = *state;
	const char *argv[] = {"fake", NULL};

	f->config.min_free_disk = UINT64_C(1) << 60;
	_cleanup_free_ char *line = fixture_start(f);
	assert_string_equal(line, "ready");
	expect_refused(f, argv, NULL, ERR_LIMIT, "min_free_disk");
}

/* --- finding and listing --------------------------------------------------------------------- */

static void jobs_are_found_by_prefix(void **state)
{
	struct fixture *f = *state;
	struct error *err = NULL;
	char a[32], b[32], prefix[32];

	fixture_submit_ok(f, a, "exit:0", NULL);
	fixture_submit_ok(f, b, "exit:0", NULL);
	size_t common = 0;
	while (a[common] == b[common])
		common++;
	snprintf(prefix, sizeof(prefix), "%.*s", (int)common + 1, a);
	Control__V1__JobInfo *info = fixture_get(f, prefix, NULL);
	assert_non_null(info);
	assert_string_equal(info->id, a);
	rpc_message_free(&info->base);

	prefix[common] = '\0';
	assert_null(fixture_get(f, prefix, &err));
	assert_int_equal(err->code, ERR_INVALID);
	assert_non_null(strstr(err->text, a));
	assert_non_null(strstr(err->text, b));
	error_free(steal_ptr(err));
	static const char *const none[] = {"", "zzz", "../x", "0%", "this-is-longer-than-an-id"};
	for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
		assert_null(fixture_get(f, none[i], &err));
		assert_int_equal(err->code, ERR_NOT_FOUND);
		error_free(steal_ptr(err));
	}
}

/* The ids, newest first; at most n. */
static size_t list(struct fixture *f, int only_state, uint32_t limit, char ids[][32], size_t n)
{
	Control__V1__ListJobsRequest request = CONTROL__V1__LIST_JOBS_REQUEST__INIT;
	Control__V1__State states[] = {(Control__V1__State)only_state};
	struct rpc_call *call = rpc_open(f->peer, &control_list_jobs, DEADLINE_MS, NULL);
	ProtobufCMessage *message;
	size_t got = 0;

	request.n_states = only_state ? 1 : 0;
	request.states = states;
	request.has_limit = limit != 0;
	request.limit = limit;
	assert_int_equal(rpc_send(call, &request.base, NULL), 0);
	while (rpc_recv(call, DEADLINE_MS, &message, NULL) == 1) {
		assert_true(got < n);
		strcpy(ids[got++], ((Control__V1__JobInfo *)message)->id);
		rpc_message_free(message);
	}
	rpc_close(call);
	return got;
}

static void jobs_are_listed_newest_first(void **state)
{
	struct fixture *f = *state;
	char ids[140][32], listed[150][32];
	size_t n = ARRAY_SIZE(ids);

	for (size_t i = 0; i < n; i++)
		fixture_submit_ok(f, ids[i], "exit:0", NULL);
	assert_int_equal(list(f, 0, 0, listed, 150), n); /* several pages */
	for (size_t i = 0; i < n; i++)
		assert_string_equal(listed[i], ids[n - 1 - i]);
	assert_int_equal(list(f, 0, 3, listed, 150), 3);
	assert_string_equal(listed[0], ids[n - 1]);
	fixture_expect(f, ids[n - 1], JOB__V1__OUTCOME__SUCCEEDED);
	assert_int_equal(list(f, JOB_QUEUED, 0, listed, 150), 0);
}

/* --- the queue ------------------------------------------------------------------------------- */

static void ten_jobs_share_two_slots(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *go = fixture_word(f, "wait", "go");
	char ids[10][32];
	int now = 0, started = 0;

	for (size_t i = 0; i < 10; i++)
		fixture_submit_ok(f, ids[i], go, NULL);
	fixture_until(f, ids[1], CONTROL__V1__STATE__RUNNING);
	Control__V1__JobInfo *info = fixture_get(f, ids[5], NULL);
	assert_int_equal(info->state, CONTROL__V1__STATE__QUEUED);
	assert_int_equal(info->queue_position, 4);
	rpc_message_free(&info->base);
	fixture_touch(f, "go");
	for (size_t i = 0; i < 10; i++)
		fixture_expect(f, ids[i], JOB__V1__OUTCOME__SUCCEEDED);

	_cleanup_free_ char *log = fixture_log(f);
	char *save = NULL;
	for (char *line = strtok_r(log, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (str_starts(line, "start ")) {
			started++;
			now++;
		} else if (str_starts(line, "gone ")) {
			now--;
		}
		assert_in_range(now, 0, 2);
	}
	assert_int_equal(started, 10);
	/* In order by the daemon's own word: the threads may note their starts in another one. */
	uint64_t last = 0;
	for (size_t i = 0; i < 10; i++) {
		info = fixture_get(f, ids[i], NULL);
		assert_true(info->times->started >= last);
		last = info->times->started;
		rpc_message_free(&info->base);
	}
}

static void a_slot_is_held_until_its_vm_is_gone(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *end = fixture_word(f, "gone", "end");
	char a[32], b[32], c[32];

	fixture_submit_ok(f, a, end, NULL);
	fixture_submit_ok(f, b, end, NULL);
	fixture_submit_ok(f, c, "exit:0", NULL);
	/* The outcome does not wait for the VM; the next job does. */
	fixture_expect(f, a, JOB__V1__OUTCOME__SUCCEEDED);
	fixture_expect(f, b, JOB__V1__OUTCOME__SUCCEEDED);
	Control__V1__JobInfo *info = fixture_get(f, c, NULL);
	assert_int_equal(info->state, CONTROL__V1__STATE__QUEUED);
	rpc_message_free(&info->base);
	fixture_touch(f, "end");
	fixture_expect(f, c, JOB__V1__OUTCOME__SUCCEEDED);
}

static void an_attempt_that_cannot_start_is_infra(void **state)
{
	struct fixture *f = *state;
	char ids[3][32];

	for (size_t i = 0; i < 3; i++) /* more than slots: none is lost */
		fixture_submit_ok(f, ids[i], "nothread", NULL);
	for (size_t i = 0; i < 3; i++)
		fixture_expect(f, ids[i], JOB__V1__OUTCOME__INFRA);
}

/* --- wait and cancel ------------------------------------------------------------------------- */

static void waiting_has_an_end(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *go = fixture_word(f, "wait", "end");
	struct error *err = NULL;
	char id[32];

	fixture_submit_ok(f, id, go, NULL);
	static const int timeouts_ms[] = {0, 30};
	for (size_t i = 0; i < 2; i++) {
		assert_null(fixture_wait(f, id, timeouts_ms[i], &err));
		assert_int_equal(err->code, ERR_TIMEOUT);
		assert_non_null(strstr(err->text, "still "));
		error_free(steal_ptr(err));
	}
}

static void cancel_works_in_each_state(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *boot = fixture_word(f, "boot", "never");
	_cleanup_free_ char *go = fixture_word(f, "wait", "never");
	_cleanup_free_ char *collect = fixture_word(f, "collect", "never");
	static const Control__V1__State states[] = {CONTROL__V1__STATE__STARTING,
		CONTROL__V1__STATE__RUNNING, CONTROL__V1__STATE__COLLECTING};
	const char *words[] = {boot, go, collect};
	char id[32];

	for (size_t i = 0; i < ARRAY_SIZE(states); i++) {
		fixture_submit_ok(f, id, words[i], NULL);
		fixture_until(f, id, states[i]);
		Control__V1__JobInfo *info = fixture_cancel(f, id, NULL);
		assert_non_null(info);
		rpc_message_free(&info->base);
		fixture_expect(f, id, JOB__V1__OUTCOME__CANCELLED);
	}
	fixture_expect_not_cancellable(f, id, "already ended (cancelled)");
}

static void a_queued_job_is_cancelled_at_once(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *go = fixture_word(f, "wait", "end");
	char running[2][32], id[32];

	fixture_submit_ok(f, running[0], go, NULL);
	fixture_submit_ok(f, running[1], go, NULL);
	fixture_submit_ok(f, id, "exit:0", NULL);
	Control__V1__JobInfo *info = fixture_cancel(f, id, NULL);
	assert_non_null(info);
	assert_int_equal(info->state, CONTROL__V1__STATE__FINISHED);
	assert_int_equal(info->outcome, JOB__V1__OUTCOME__CANCELLED);
	assert_int_equal(info->exit_code, EXIT_CANCELLED);
	rpc_message_free(&info->base);
	fixture_expect_not_cancellable(f, id, "already ended");
}

static void cancelling_twice_is_an_error(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *collect = fixture_word(f, "gone", "end");
	_cleanup_free_ char *boot = fixture_word(f, "boot", "never");
	char id[32];

	fixture_submit_ok(f, id, boot, collect, NULL);
	fixture_until(f, id, CONTROL__V1__STATE__STARTING);
	Control__V1__JobInfo *info = fixture_cancel(f, id, NULL);
	assert_non_null(info);
	rpc_message_free(&info->base);
	fixture_expect_not_cancellable(f, id, "already");
	fixture_expect(f, id, JOB__V1__OUTCOME__CANCELLED);
}

static void vms_are_listed(void **state)
{
	struct fixture *f = *state;
	Control__V1__ListVmsRequest request = CONTROL__V1__LIST_VMS_REQUEST__INIT;
	Control__V1__InfoRequest info_request = CONTROL__V1__INFO_REQUEST__INIT;
	_cleanup_free_ char *go = fixture_word(f, "wait", "end");
	ProtobufCMessage *message;
	char id[32];

	fixture_submit_ok(f, id, go, NULL);
	fixture_until(f, id, CONTROL__V1__STATE__RUNNING);
	struct rpc_call *call = rpc_open(f->peer, &control_list_vms, DEADLINE_MS, NULL);
	rpc_send(call, &request.base, NULL);
	assert_int_equal(rpc_recv(call, DEADLINE_MS, &message, NULL), 1);
	const Control__V1__VmInfo *vm = (Control__V1__VmInfo *)message;
	assert_string_equal(vm->job, id);
	assert_int_equal(vm->cid, 77);
	rpc_message_free(message);
	assert_int_equal(rpc_recv(call, DEADLINE_MS, &message, NULL), 0);
	rpc_close(call);

	assert_int_equal(
		rpc_unary(f->peer, &control_info, &info_request.base, DEADLINE_MS, &message, NULL),
		0);
	const Control__V1__InfoReply *info = (Control__V1__InfoReply *)message;
	assert_int_equal(info->vms, 1);
	assert_int_equal(info->pid, f->daemon);
	rpc_message_free(message);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(a_job_runs_and_is_recorded),
		TEST(inputs_are_on_the_disk),
		TEST(a_bad_submit_leaves_nothing),
		TEST(hostile_uploads_are_refused),
		TEST(a_key_names_one_job),
		TEST_STOPPED(a_full_disk_refuses_jobs),
		TEST(jobs_are_found_by_prefix),
		TEST(jobs_are_listed_newest_first),
		TEST(ten_jobs_share_two_slots),
		TEST(a_slot_is_held_until_its_vm_is_gone),
		TEST(an_attempt_that_cannot_start_is_infra),
		TEST(waiting_has_an_end),
		TEST(cancel_works_in_each_state),
		TEST(a_queued_job_is_cancelled_at_once),
		TEST(cancelling_twice_is_an_error),
		TEST(vms_are_listed),
	};

	fixture_daemon_main(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
