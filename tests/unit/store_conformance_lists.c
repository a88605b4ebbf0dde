/* What the store promises of many jobs: lists, their pages, prefixes of ids, and whose time is
 * over. */
#include "tests/unit/store_conformance.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/util.h"

static int append_id(void *arg, const struct job_record *record, struct error **err)
{
	(void)err;
	assert_non_null(record->spec);
	strcat(strcat(arg, record->id + 12), " ");
	return 0;
}

static void lists_are_filtered(void **state)
{
	struct fixture *f = *state;
	Job__V1__Label label = JOB__V1__LABEL__INIT, *labels[] = {&label};
	char name[] = "team", red[] = "red";

	fixture_submit_new(f->store, "0000000000001", NULL, "red");
	fixture_submit_new(f->store, "0000000000003", NULL, "blue");
	fixture_submit_new(f->store, "0000000000002", NULL, "red");
	fixture_finish(f->store, "0000000000001", 500);
	label.name = name;
	label.value = red;
	_cleanup_job_record_ struct job_record *third = fixture_get(f->store, "0000000000002");
	const struct {
		struct store_filter filter;
		const char *found;
	} table[] = {
		{{0}, "2 3 1 "}, /* the order of submission counts, not the ids' */
		{{.limit = 2}, "2 3 "},
		{{.states = 1u << JOB_QUEUED}, "2 3 "},
		{{.states = 1u << JOB_FINISHED}, "1 "},
		{{.states = 1u << JOB_FINISHED | 1u << JOB_QUEUED}, "2 3 1 "},
		{{.states = 1u << JOB_RUNNING}, ""},
		{{.labels = labels, .n_labels = 1}, "2 1 "},
		{{.labels = labels, .n_labels = 1, .states = 1u << JOB_QUEUED}, "2 "},
		{{.before_seq = third->seq}, "3 1 "},
		{{.before_seq = third->seq, .limit = 1}, "3 "},
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		char found[64] = "";

		assert_int_equal(
			f->store->ops->list(f->store, &table[i].filter, append_id, found, NULL), 0);
		assert_string_equal(found, table[i].found);
	}
	char found[64] = "";
	assert_int_equal(f->store->ops->unfinished(f->store, append_id, found, NULL), 0);
	assert_string_equal(found, "3 2 ");
}

static void prefixes_are_resolved(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *prefix, *id;
		enum err_code code;
		const char *text;
	} table[] = {
		{"0000000000001", "0000000000001", 0, NULL},
		{"1", "1v00000000000", 0, NULL},
		{"1v", "1v00000000000", 0, NULL},
		{"0", NULL, ERR_INVALID, "0000000000001, 0000000000002"},
		{"2", NULL, ERR_NOT_FOUND, "no job 2"},
		{"", NULL, ERR_NOT_FOUND, ""},
		{"%", NULL, ERR_NOT_FOUND, ""},
		{"0000000000001' OR 1", NULL, ERR_NOT_FOUND, ""},
	};

	fixture_submit_new(f->store, "0000000000001", NULL, NULL);
	fixture_submit_new(f->store, "0000000000002", NULL, NULL);
	fixture_submit_new(f->store, "1v00000000000", NULL, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		_cleanup_error_ struct error *err = NULL;
		char id[JOB_ID_SIZE] = "";
		int r = f->store->ops->find(f->store, table[i].prefix, id, &err);

		assert_int_equal(r == 0 ? 0 : err->code, table[i].code);
		if (r == 0)
			assert_string_equal(id, table[i].id);
		else
			assert_non_null(strstr(err->text, table[i].text));
	}
}

static void old_jobs_can_go(void **state)
{
	struct fixture *f = *state;
	char found[64] = "", left[64] = "";

	fixture_submit_new(f->store, "0000000000001", "k", "red");
	fixture_submit_new(f->store, "0000000000002", NULL, NULL);
	fixture_submit_new(f->store, "0000000000003", NULL, NULL);
	fixture_finish(f->store, "0000000000003", 100);
	fixture_finish(f->store, "0000000000001", 200);
	struct store_expiry expiry = {.before_usec = 1000, .settled_usec = 1000, .limit = 10};
	assert_int_equal(f->store->ops->expired(f->store, &expiry, append_id, found, NULL), 0);
	assert_string_equal(found, "3 1 ");
	found[0] = '\0';
	expiry.before_usec = 200;
	assert_int_equal(f->store->ops->expired(f->store, &expiry, append_id, found, NULL), 0);
	assert_string_equal(found, "3 ");
	assert_int_equal(f->store->ops->remove(f->store, "0000000000001", NULL), 0);
	assert_int_equal(f->store->ops->remove(f->store, "0000000000002", NULL), -1); /* queued */
	struct store_filter all = {0};
	assert_int_equal(f->store->ops->list(f->store, &all, append_id, left, NULL), 0);
	assert_string_equal(left, "3 2 ");
	fixture_submit_new(f->store, "0000000000004", "k", "red"); /* the key is free again */
}

static void a_job_may_have_a_time_of_its_own(void **state)
{
	struct fixture *f = *state;
	char found[64] = "";
	static const struct {
		struct store_expiry expiry;
		const char *found;
	} table[] = {
		/* 1 ended at 100 with 5 ms; 2 and 3 at 200 and 300 without; 4 at 400 with 0. */
		{{.now_usec = 5100, .settled_usec = 9999, .limit = 9}, "4 "},
		{{.now_usec = 5101, .settled_usec = 9999, .limit = 9}, "4 1 "},
		{{.now_usec = 5101, .settled_usec = 400, .limit = 9}, "1 "},
		{{.now_usec = 1, .settled_usec = 9999, .before_usec = 300, .limit = 9}, "2 "},
		{{.now_usec = 1, .settled_usec = 300, .before_usec = 999, .limit = 9}, "2 "},
		{{.now_usec = 9999, .settled_usec = 9999, .before_usec = 999, .limit = 9},
			"4 1 2 3 "},
		{{.now_usec = 9999, .settled_usec = 9999, .before_usec = 999, .limit = 2}, "4 1 "},
		{{.now_usec = 9999,
			 .settled_usec = 9999,
			 .before_usec = 999,
			 .limit = 9,
			 .skip = 3},
			"3 "},
	};

	for (int i = 1; i <= 4; i++) {
		char id[JOB_ID_SIZE];

		snprintf(id, sizeof(id), "%013d", i);
		_cleanup_job_record_ struct job_record *record = fixture_make(id, NULL, NULL);
		record->spec->has_ttl_after_finished_ms = i == 1 || i == 4;
		record->spec->ttl_after_finished_ms = i == 1 ? 5 : 0;
		assert_int_equal(fixture_submit(f->store, record, NULL), 0);
		fixture_finish(f->store, id, (uint64_t)i * 100);
	}
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		found[0] = '\0';
		assert_int_equal(
			f->store->ops->expired(f->store, &table[i].expiry, append_id, found, NULL),
			0);
		assert_string_equal(found, table[i].found);
	}
}

static uint64_t last_seq;

static int append_id_and_seq(void *arg, const struct job_record *record, struct error **err)
{
	last_seq = record->seq;
	return append_id(arg, record, err);
}

static void pages_are_the_list(void **state)
{
	struct fixture *f = *state;
	Job__V1__Label red = JOB__V1__LABEL__INIT, *labels[] = {&red};
	char whole[512], pages[512];

	red.name = (char[]){"team"};
	red.value = (char[]){"red"};
	for (int i = 1; i <= 40; i++) {
		char id[JOB_ID_SIZE];

		snprintf(id, sizeof(id), "%013d", i);
		fixture_submit_new(f->store, id, NULL, i % 3 ? "red" : "blue");
		if (i % 4 == 0)
			fixture_finish(f->store, id, 100);
	}
	for (int kind = 0; kind < 8; kind++) {
		struct store_filter filter = {0};

		if (kind & 1)
			filter.states |= 1u << JOB_FINISHED;
		if (kind & 2)
			filter.states |= 1u << JOB_QUEUED;
		if (kind & 4) {
			filter.labels = labels;
			filter.n_labels = 1;
		}
		whole[0] = pages[0] = '\0';
		assert_int_equal(f->store->ops->list(f->store, &filter, append_id, whole, NULL), 0);
		filter.limit = 3;
		do {
			filter.before_seq = last_seq;
			last_seq = 0;
			assert_int_equal(f->store->ops->list(
						 f->store, &filter, append_id_and_seq, pages, NULL),
				0);
		} while (last_seq);
		assert_string_equal(whole, pages);
		assert_true(whole[0] != '\0');
	}
}

int store_conformance_lists(void)
{
	const struct CMUnitTest tests[] = {
		TEST(lists_are_filtered),
		TEST(prefixes_are_resolved),
		TEST(old_jobs_can_go),
		TEST(a_job_may_have_a_time_of_its_own),
		TEST(pages_are_the_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
