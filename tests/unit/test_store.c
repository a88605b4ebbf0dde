/* SQLite behind the store's interface: the suite that every backend runs, and what is SQLite's own:
 * versions, plans of queries, damage, a second opener. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/store_sqlite.h"
#include "tests/unit/store_conformance.h"

static char *path_in(const char *dir)
{
	return str_printf("%s/jobs.db", dir);
}

static struct store *open_in(const char *dir, struct error **err)
{
	_cleanup_free_ char *path = path_in(dir);

	return store_sqlite_open(path, err);
}

static int count(void *arg, const struct job_record *record, struct error **err)
{
	(void)record;
	(void)err;
	++*(size_t *)arg;
	return 0;
}

static void sql(const struct fixture *f, const char *text)
{
	_cleanup_free_ char *path = path_in(f->dir);
	sqlite3 *db;

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

static void expect_refused(const struct fixture *f, enum err_code code, const char *text)
{
	_cleanup_error_ struct error *err = NULL;

	assert_null(open_in(f->dir, &err));
	if (err->code != code || !strstr(err->text, text))
		fail_msg("%s: %s", err_code_name(err->code), err->text);
}

static void a_newer_version_is_refused(void **state)
{
	struct fixture *f = *state;

	fixture_submit_new(f->store, "0000000000001", "k", NULL);
	f->store->ops->close(steal_ptr(f->store));
	sql(f, "PRAGMA user_version = 999");
	expect_refused(f, ERR_UNSUPPORTED, "version 999");
	sql(f, "PRAGMA user_version = 3");
	f->store = open_in(f->dir, NULL);
	assert_non_null(f->store); /* nothing was changed */
	_cleanup_job_record_ struct job_record *back = fixture_get(f->store, "0000000000001");
	assert_string_equal(back->key, "k");
}

/* In the place of the fixture's store, one that these words make. */
static void open_old(struct fixture *f, const char *text)
{
	_cleanup_free_ char *path = path_in(f->dir);

	f->store->ops->close(steal_ptr(f->store));
	assert_int_equal(unlink(path), 0);
	sql(f, text);
	f->store = open_in(f->dir, NULL);
	assert_non_null(f->store);
}

/* A store as version 1 made it, word for word, with a job of each kind. */
static void a_store_of_version_1_keeps_its_jobs(void **state)
{
	static const char version_1[] =
		"CREATE TABLE jobs ("
		"  seq INTEGER PRIMARY KEY,"
		"  id TEXT NOT NULL UNIQUE,"
		"  key TEXT UNIQUE,"
		"  epoch INTEGER NOT NULL,"
		"  state INTEGER NOT NULL,"
		"  attempt INTEGER NOT NULL,"
		"  vm TEXT NOT NULL,"
		"  finished INTEGER,"
		"  destroyed INTEGER,"
		"  spec BLOB NOT NULL,"
		"  result BLOB NOT NULL);"
		"CREATE INDEX jobs_by_state ON jobs (state, seq);"
		"CREATE INDEX jobs_by_end ON jobs (finished) WHERE finished IS NOT NULL;"
		"CREATE TABLE labels ("
		"  name TEXT NOT NULL,"
		"  value TEXT NOT NULL,"
		"  seq INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,"
		"  PRIMARY KEY (name, value, seq)) WITHOUT ROWID;"
		"CREATE INDEX labels_by_job ON labels (seq);"
		/* image: \"a\"; id: \"1\", spec: {image: \"\"}, state: 1 */
		"INSERT INTO jobs VALUES (1, '0000000000001', 'k', 0, 1, 0, '', NULL, NULL,"
		"  x'120161', x'0a0131120212001801');"
		"INSERT INTO jobs VALUES (2, '0000000000002', NULL, 1, 5, 1, '', 700, 800,"
		"  x'120161', x'0a0132120212001805');"
		"INSERT INTO labels VALUES ('team', 'red', 1);"
		"PRAGMA user_version = 1;";
	struct fixture *f = *state;

	open_old(f, version_1);
	_cleanup_job_record_ struct job_record *first = fixture_get(f->store, "0000000000001");
	assert_string_equal(first->spec->image, "a");
	assert_string_equal(first->key, "k");
	assert_null(first->share);
	_cleanup_job_record_ struct job_record *second = fixture_get(f->store, "0000000000002");
	assert_int_equal(second->state, JOB_FINISHED);
	struct store_expiry expiry = {.before_usec = 701, .settled_usec = 701, .limit = 9};
	size_t n = 0;
	assert_int_equal(f->store->ops->expired(f->store, &expiry, count, &n, NULL), 0);
	assert_int_equal(n, 1);
	fixture_submit_new(f->store, "0000000000003", NULL, NULL);
}

/* A store as version 2 made it, word for word: one that waits with a key, one whose attempt was
 * under way, one that ended and has a time of its own. */
static void a_store_of_version_2_keeps_its_jobs(void **state)
{
	static const char version_2[] =
		"CREATE TABLE jobs ("
		"  seq INTEGER PRIMARY KEY,"
		"  id TEXT NOT NULL UNIQUE,"
		"  key TEXT UNIQUE,"
		"  epoch INTEGER NOT NULL,"
		"  state INTEGER NOT NULL,"
		"  attempt INTEGER NOT NULL,"
		"  vm TEXT NOT NULL,"
		"  finished INTEGER,"
		"  destroyed INTEGER,"
		"  spec BLOB NOT NULL,"
		"  result BLOB NOT NULL);"
		"CREATE INDEX jobs_by_state ON jobs (state, seq);"
		"CREATE TABLE labels ("
		"  name TEXT NOT NULL,"
		"  value TEXT NOT NULL,"
		"  seq INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,"
		"  PRIMARY KEY (name, value, seq)) WITHOUT ROWID;"
		"CREATE INDEX labels_by_job ON labels (seq);"
		"ALTER TABLE jobs ADD COLUMN expires INTEGER;"
		"CREATE INDEX jobs_by_end ON jobs (finished) WHERE finished IS NOT NULL AND "
		"expires IS NULL;"
		"CREATE INDEX jobs_by_expiry ON jobs (expires) WHERE expires IS NOT NULL;"
		/* image: \"a\"; id, spec: {image: \"\"}, state, share: \"uid:7\" */
		"INSERT INTO jobs VALUES (1, '0000000000001', 'k', 0, 1, 0, '', NULL, NULL,"
		"  x'120161', x'0a0131120212001801fa01057569643a37', NULL);"
		"INSERT INTO jobs VALUES (2, '0000000000002', NULL, 3, 3, 2, 'vm-1', NULL, NULL,"
		"  x'120161', x'0a0132120212001803fa01057569643a37', NULL);"
		"INSERT INTO jobs VALUES (3, '0000000000003', NULL, 1, 5, 1, '', 700, 800,"
		"  x'120161', x'0a0133120212001805fa01057569643a37', 900);"
		"INSERT INTO labels VALUES ('team', 'red', 1);"
		"PRAGMA user_version = 2;";
	struct fixture *f = *state;

	open_old(f, version_2);
	_cleanup_job_record_ struct job_record *first = fixture_get(f->store, "0000000000001");
	assert_string_equal(first->key, "k");
	assert_string_equal(first->share, "uid:7");
	assert_null(first->inputs);
	assert_int_equal(first->not_before, 0);
	/* The attempt under way ends, and another may follow. */
	_cleanup_job_record_ struct job_record *second = fixture_get(f->store, "0000000000002");
	_cleanup_job_record_ struct job_record *queued = record_back_in_queue(second, 5);
	assert_int_equal(f->store->ops->begin(f->store, NULL), 0);
	assert_int_equal(f->store->ops->requeue(f->store, second, queued, NULL), 0);
	assert_int_equal(f->store->ops->commit(f->store, NULL), 0);
	size_t n = 0;
	assert_int_equal(f->store->ops->attempts(f->store, "0000000000002", count, &n, NULL), 0);
	assert_int_equal(n, 1);
	_cleanup_job_record_ struct job_record *third = fixture_get(f->store, "0000000000003");
	assert_int_equal(third->result.times[STAGE_DESTROYED], 800);
	struct store_expiry expiry = {.now_usec = 901, .settled_usec = 901, .limit = 9};
	n = 0;
	assert_int_equal(f->store->ops->expired(f->store, &expiry, count, &n, NULL), 0);
	assert_int_equal(n, 1);
	fixture_submit_new(f->store, "0000000000004", NULL, NULL);
}

/* All lines of the plan, each behind a "|". */
static void plan(sqlite3 *db, const char *text, char *ret, size_t size)
{
	_cleanup_free_ char *explain = str_printf("EXPLAIN QUERY PLAN %s", text);
	sqlite3_stmt *st = NULL;
	size_t used = 0;

	assert_int_equal(sqlite3_prepare_v2(db, explain, -1, &st, NULL), SQLITE_OK);
	while (sqlite3_step(st) == SQLITE_ROW)
		used += (size_t)snprintf(
			ret + used, size - used, "|%s", (const char *)sqlite3_column_text(st, 3));
	sqlite3_finalize(st);
	assert_true(used && used < size);
}

static void lists_come_from_an_index(void **state)
{
	struct fixture *f = *state;
	Job__V1__Label a = JOB__V1__LABEL__INIT, b = JOB__V1__LABEL__INIT, *labels[] = {&a, &b};
	static const struct {
		unsigned states;
		size_t n_labels;
		const char *uses;
	} table[] = {
		{0, 0, "SEARCH jobs USING INTEGER PRIMARY KEY (rowid<?)"},
		{1u << JOB_QUEUED, 0, "SEARCH jobs USING INDEX jobs_by_state (state=? AND seq<?)"},
		{1u << JOB_QUEUED | 1u << JOB_FINISHED, 0,
			"SEARCH jobs USING INDEX jobs_by_state (state=? AND seq<?)"},
		{0, 1, "SEARCH labels USING PRIMARY KEY (name=? AND value=? AND seq<?)"},
		{1u << JOB_QUEUED, 2,
			"SEARCH labels USING PRIMARY KEY (name=? AND value=? AND seq<?)"},
	};
	sqlite3 *db = ((struct store_sqlite *)f->store)->db;
	char text[2048];

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct store_filter filter = {
			.states = table[i].states, .labels = labels, .n_labels = table[i].n_labels};
		_cleanup_free_ char *query = store_sqlite_list_text(&filter);

		plan(db, query, text, sizeof(text));
		/* No whole table, and nothing sorted. */
		if (!strstr(text, table[i].uses) || strstr(text, "SCAN") ||
			strstr(text, "TEMP B-TREE"))
			fail_msg("%s: %s", query, text);
	}
	plan(db, store_sqlite_expired_text, text, sizeof(text));
	if (!strstr(text, "jobs_by_expiry") || !strstr(text, "jobs_by_end") || strstr(text, "SCAN"))
		fail_msg("%s", text);
}

static void a_second_opener_is_refused(void **state)
{
	struct fixture *f = *state;

	fixture_submit_new(f->store, "0000000000001", NULL, NULL);
	expect_refused(f, ERR_EXISTS, "locked");
}

static void damage_is_seen_at_the_start(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 50; i++) {
		char id[JOB_ID_SIZE];

		snprintf(id, sizeof(id), "%013d", i);
		fixture_submit_new(f->store, id, NULL, NULL);
	}
	f->store->ops->close(steal_ptr(f->store));
	_cleanup_free_ char *path = path_in(f->dir);
	FILE *file = fopen(path, "r+");
	assert_non_null(file);
	/* The second page on: the file still looks like a database of ours. */
	fseek(file, 4096, SEEK_SET);
	for (int i = 0; i < 8192; i++)
		fputc(0x5a, file);
	fclose(file);
	expect_refused(f, ERR_DATA_LOSS, path);
}

int main(void)
{
	static const struct store_backend sqlite = {"sqlite", open_in};
	const struct CMUnitTest tests[] = {
		TEST(a_newer_version_is_refused),
		TEST(a_store_of_version_1_keeps_its_jobs),
		TEST(a_store_of_version_2_keeps_its_jobs),
		TEST(lists_come_from_an_index),
		TEST(a_second_opener_is_refused),
		TEST(damage_is_seen_at_the_start),
	};

	fixture_use_store(&sqlite);
	return store_conformance_jobs() + store_conformance_lists() +
	       cmocka_run_group_tests(tests, NULL, NULL);
}
