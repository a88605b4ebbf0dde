#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <string.h>

#include "common/limits.h"
#include "orchestrator/record.h"

static void states_follow_the_table(void **state)
{
	static const char *const allowed[] = {
		/* to: queued, starting, running, collecting, finished */
		[JOB_QUEUED] = "01001",
		[JOB_STARTING] = "10101",
		[JOB_RUNNING] = "10011",
		[JOB_COLLECTING] = "10001",
		[JOB_FINISHED] = "00000",
	};

	(void)state;
	for (int from = JOB_QUEUED; from <= JOB_FINISHED; from++) {
		for (int to = JOB_QUEUED; to <= JOB_FINISHED; to++)
			assert_int_equal(job_state_may_follow(from, to),
				allowed[from][to - JOB_QUEUED] == '1');
	}
	assert_false(job_state_may_follow(0, JOB_QUEUED));
	assert_false(job_state_may_follow(JOB_QUEUED, 6));
}

static void everything_has_a_name(void **state)
{
	(void)state;
	for (int i = 0; i < STAGES; i++)
		assert_string_not_equal(job_stage_name(i), "unknown");
	for (int i = 0; i < OUTCOMES; i++)
		assert_string_not_equal(job_outcome_name(i), "unknown");
	assert_string_equal(job_state_name(JOB_COLLECTING), "collecting");
	assert_string_equal(job_state_name(9), "unknown");
	assert_string_equal(job_outcome_name(OUTCOMES), "unknown");
	/* Ours are the wire's. */
	assert_int_equal(OUTCOME_INFRA, JOB__V1__OUTCOME__INFRA);
	assert_int_equal(OUTCOME_OOM_HOST, JOB__V1__OUTCOME__OOM_HOST);
	assert_int_equal(JOB_FINISHED, CONTROL__V1__STATE__FINISHED);
}

static struct job_record *full_record(void)
{
	struct job_record *record = job_record_new();
	struct job_result *result = &record->result;

	job_id_make(UINT64_C(1790000000000000), record->id);
	record->key = xstrdup("key");
	record->epoch = 3;
	record->state = JOB_FINISHED;
	record->attempt = 2;
	strcpy(record->vm, "vm-1");
	record->spec = xmalloc(sizeof(*record->spec));
	job__v1__spec__init(record->spec);
	record->spec->image = xstrdup("debian");
	result->outcome = OUTCOME_FAILED;
	result->exit_code = 139;
	result->signal = 11;
	result->error = xstrdup("killed by signal 11");
	result->left_out = xstrdup("out/l: is a symbolic link");
	for (size_t i = 0; i < STAGES; i++)
		result->times[i] = 1000 + i;
	result->stdout_bytes = 5;
	result->stderr_truncated = true;
	result->max_rss_bytes = 77;
	result->n_artifacts = 1;
	result->artifacts = xcalloc(1, sizeof(*result->artifacts));
	result->artifacts[0].path = xstrdup("bad-\xff-name");
	result->artifacts[0].size = 9;
	memset(result->artifacts[0].sha256, 0xab, 32);
	result->wall.accelerator = xstrdup("tcg");
	result->wall.cid = 5;
	result->wall.n_devices = 1;
	result->wall.devices = xcalloc(1, sizeof(char *));
	result->wall.devices[0] = xstrdup("vsock");
	return record;
}

static void expect_same(const struct job_result *a, const struct job_result *b)
{
	assert_int_equal(a->outcome, b->outcome);
	assert_int_equal(a->exit_code, b->exit_code);
	assert_int_equal(a->signal, b->signal);
	assert_string_equal(a->error, b->error);
	assert_string_equal(a->left_out, b->left_out);
	assert_memory_equal(a->times, b->times, sizeof(a->times));
	assert_int_equal(a->stdout_bytes, b->stdout_bytes);
	assert_int_equal(a->stderr_truncated, b->stderr_truncated);
	assert_int_equal(a->max_rss_bytes, b->max_rss_bytes);
	assert_int_equal(a->n_artifacts, b->n_artifacts);
	assert_string_equal(a->artifacts[0].path, b->artifacts[0].path);
	assert_memory_equal(a->artifacts[0].sha256, b->artifacts[0].sha256, 32);
	assert_string_equal(a->wall.accelerator, b->wall.accelerator);
	assert_int_equal(a->wall.n_devices, b->wall.n_devices);
	assert_string_equal(a->wall.devices[0], b->wall.devices[0]);
}

static void a_result_survives_its_copies(void **state)
{
	_cleanup_job_record_ struct job_record *record = full_record();
	_cleanup_job_record_ struct job_record *copy = job_record_copy(record);
	struct job_result back;

	(void)state;
	expect_same(&copy->result, &record->result);
	assert_ptr_not_equal(copy->result.artifacts[0].path, record->result.artifacts[0].path);

	Control__V1__JobInfo *info = record_to_info(record, NULL, RECORD_STORE);
	record_result_from_info(info, &back);
	control__v1__job_info__free_unpacked(info, NULL);
	expect_same(&back, &record->result);
	job_result_clear(&back);
	assert_null(back.error);
}

static void a_message_has_room_for_itself(void **state)
{
	_cleanup_job_record_ struct job_record *record = full_record();
	struct job_result *result = &record->result;

	(void)state;
	result->artifacts = xreallocarray(result->artifacts, 5000, sizeof(*result->artifacts));
	for (; result->n_artifacts < 5000; result->n_artifacts++) {
		struct job_artifact *artifact = &result->artifacts[result->n_artifacts];

		memset(artifact, 0, sizeof(*artifact));
		artifact->path = xmalloc(1001);
		memset(artifact->path, 'a', 1000);
		artifact->path[1000] = '\0';
	}
	Control__V1__JobInfo *info = record_to_info(record, "/dir", RECORD_FULL);
	assert_in_range(
		control__v1__job_info__get_packed_size(info), 1000000, LIMIT_CONTROL_MESSAGE - 1);
	control__v1__job_info__free_unpacked(info, NULL);
	info = record_to_info(record, "/dir", RECORD_BRIEF);
	assert_int_equal(info->n_artifacts, 0);
	control__v1__job_info__free_unpacked(info, NULL);
}

static void result_json_is_json(void **state)
{
	_cleanup_job_record_ struct job_record *record = full_record();
	_cleanup_free_ char *text = record_result_json(record);
	json_t *json = json_loads(text, 0, NULL);

	(void)state;
	assert_non_null(json);
	assert_string_equal(json_string_value(json_object_get(json, "outcome")), "failed");
	assert_int_equal(json_integer_value(json_object_get(json, "signal")), 11);
	json_t *artifact = json_array_get(json_object_get(json, "artifacts"), 0);
	assert_string_equal(json_string_value(json_object_get(artifact, "path")), "bad-\\xff-name");
	assert_int_equal(strlen(json_string_value(json_object_get(artifact, "sha256"))), 64);
	json_decref(json);
}

static void ids_sort_by_age(void **state)
{
	char a[JOB_ID_SIZE], b[JOB_ID_SIZE], c[JOB_ID_SIZE];

	(void)state;
	job_id_make(UINT64_C(1790000000000000), a);
	job_id_make(UINT64_C(1790000000000256), b);
	job_id_make(UINT64_C(4000000000000000), c);
	assert_int_equal(strlen(a), 13);
	assert_true(strcmp(a, b) < 0);
	assert_true(strcmp(b, c) < 0);
	assert_true(job_id_prefix_valid(a));
	assert_true(job_id_prefix_valid("0"));
	assert_false(job_id_prefix_valid(""));
	assert_false(job_id_prefix_valid("../x"));
	assert_false(job_id_prefix_valid("0123456789abcd"));
}

static int by_id(const void *a, const void *b)
{
	return strcmp(a, b);
}

static void ids_of_one_moment_differ(void **state)
{
	enum { N = 50000 };
	char(*ids)[JOB_ID_SIZE] = xcalloc(N, sizeof(*ids));

	(void)state;
	for (size_t i = 0; i < N; i++)
		job_id_make(UINT64_C(1790000000000000), ids[i]);
	qsort(ids, N, sizeof(*ids), by_id);
	for (size_t i = 1; i < N; i++)
		assert_string_not_equal(ids[i - 1], ids[i]);
	free(ids);
}

static void defaults_fill_what_is_left_out(void **state)
{
	_cleanup_job_record_ struct job_record *record = full_record();
	struct job_defaults defaults = {.timeout_ms = 11, .memory_bytes = 22, .cpus = 3};
	Job__V1__Spec *spec = record->spec;

	(void)state;
	spec->has_timeout_ms = true;
	spec->timeout_ms = 99;
	record_fill_defaults(spec, &defaults);
	assert_int_equal(spec->timeout_ms, 99);
	assert_int_equal(spec->resources->cpus, 3);
	assert_int_equal(spec->resources->memory_bytes, 22);
	assert_false(spec->resources->has_disk_bytes);
	assert_int_equal(spec->limits->output_bytes, DEFAULT_OUTPUT);
	assert_int_equal(spec->stop_grace_period_ms, DEFAULT_GRACE_MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(states_follow_the_table),
		cmocka_unit_test(everything_has_a_name),
		cmocka_unit_test(a_result_survives_its_copies),
		cmocka_unit_test(a_message_has_room_for_itself),
		cmocka_unit_test(result_json_is_json),
		cmocka_unit_test(ids_sort_by_age),
		cmocka_unit_test(ids_of_one_moment_differ),
		cmocka_unit_test(defaults_fill_what_is_left_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
