/* The store's operations as SQL. */
#include "orchestrator/store_sqlite.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/failpoint.h"
#include "common/util.h"

/* Every record is read through these columns, in this order. */
#define COLUMNS                                                                                    \
	"jobs.id, jobs.key, jobs.epoch, jobs.state, jobs.attempt, jobs.vm, jobs.destroyed,"        \
	" jobs.spec, jobs.result, jobs.seq, jobs.inputs"
enum {
	COL_ID,
	COL_KEY,
	COL_EPOCH,
	COL_STATE,
	COL_ATTEMPT,
	COL_VM,
	COL_DESTROYED,
	COL_SPEC,
	COL_RESULT,
	COL_SEQ,
	COL_INPUTS
};

enum statement {
	SUBMIT,
	LABEL,
	CLAIM,
	TAKE_OVER,
	UPDATE,
	FINISH,
	KEEP_ATTEMPT,
	REQUEUE,
	DESTROYED,
	DESTROYED_EARLIER,
	ATTEMPTS,
	REMOVE,
	GET,
	FIND,
	BY_KEY,
	UNFINISHED,
	EXPIRED,
	BEGIN,
	COMMIT,
	STATEMENTS
};

const char store_sqlite_expired_text[] =
	"SELECT " COLUMNS " FROM jobs WHERE expires < ?1 AND finished < ?5 UNION ALL"
	" SELECT " COLUMNS " FROM jobs WHERE finished < min(?2, ?5) AND expires IS NULL"
	" LIMIT ?3 OFFSET ?4";

static const char *const statement_text[STATEMENTS] = {
	[EXPIRED] = store_sqlite_expired_text,
	[SUBMIT] = "INSERT INTO jobs (id, key, epoch, state, attempt, vm, spec, result, inputs)"
		   " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?11)",
	[LABEL] = "INSERT OR IGNORE INTO labels (name, value, seq) VALUES (?1, ?2, ?3)",
	[CLAIM] = "UPDATE jobs SET epoch = ?3, state = ?4, attempt = ?5, vm = ?6, result = ?8"
		  " WHERE id = ?1 AND epoch = ?3 - 1 AND state = 1",
	[TAKE_OVER] = "UPDATE jobs SET epoch = ?3, vm = ?6, result = ?8"
		      " WHERE id = ?1 AND epoch = ?3 - 1 AND state IN (2, 3, 4) AND state = ?4",
	[UPDATE] = "UPDATE jobs SET state = ?4, vm = ?6, result = ?8"
		   " WHERE id = ?1 AND epoch = ?3 AND state <> 5 AND state <= ?4",
	[FINISH] = "UPDATE jobs SET state = 5, vm = ?6, result = ?8, finished = ?9, expires = ?10"
		   " WHERE id = ?1 AND epoch = ?3 AND state <> 5",
	[KEEP_ATTEMPT] = "INSERT INTO attempts (job, number, epoch, vm, destroyed, result)"
			 " SELECT seq, attempt, epoch, ?6, destroyed, ?8 FROM jobs"
			 " WHERE id = ?1 AND epoch = ?3 AND attempt = ?5 AND state IN (2, 3, 4)",
	[REQUEUE] = "UPDATE jobs SET epoch = ?3, state = 1, vm = ?6, result = ?8, destroyed = NULL"
		    " WHERE id = ?1 AND epoch = ?3 - 1 AND attempt = ?5 AND state IN (2, 3, 4)",
	[DESTROYED] = "UPDATE jobs SET destroyed = ?2"
		      " WHERE id = ?1 AND attempt = ?3 AND destroyed IS NULL",
	[DESTROYED_EARLIER] = "UPDATE attempts SET destroyed = ?2"
			      " WHERE job = (SELECT seq FROM jobs WHERE id = ?1) AND number = ?3"
			      " AND destroyed IS NULL",
	[ATTEMPTS] =
		"SELECT number, attempts.epoch, attempts.vm, attempts.destroyed, attempts.result"
		" FROM jobs JOIN attempts ON attempts.job = jobs.seq WHERE jobs.id = ?1"
		" ORDER BY number",
	[REMOVE] = "DELETE FROM jobs WHERE id = ?1 AND state = 5",
	[GET] = "SELECT " COLUMNS " FROM jobs WHERE id = ?1",
	[FIND] = "SELECT id FROM jobs WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 4",
	[BY_KEY] = "SELECT id FROM jobs WHERE key = ?1",
	[UNFINISHED] = "SELECT " COLUMNS " FROM jobs WHERE state IN (1, 2, 3, 4) ORDER BY seq",
	[BEGIN] = "BEGIN IMMEDIATE",
	[COMMIT] = "COMMIT",
};

_Static_assert(STATEMENTS <= STORE_SQLITE_STATEMENTS, "there is room");
_Static_assert(JOB_QUEUED == 1 && JOB_FINISHED == 5, "the statements name states by number");

static struct store_sqlite *self(struct store *store)
{
	return (struct store_sqlite *)store;
}

static sqlite3_stmt *statement(struct store_sqlite *s, enum statement which, struct error **err)
{
	sqlite3_stmt **slot = &s->statements[which];

	if (!*slot && sqlite3_prepare_v3(s->db, statement_text[which], -1,
			      SQLITE_PREPARE_PERSISTENT, slot, NULL) != SQLITE_OK) {
		store_sqlite_error(s, err);
		return NULL;
	}
	return *slot;
}

/* Run to the end; the number of rows changed, or -1. */
static int run(struct store_sqlite *s, sqlite3_stmt *st, struct error **err)
{
	int rc = sqlite3_step(st);
	int changed = rc == SQLITE_DONE ? sqlite3_changes(s->db) : store_sqlite_error(s, err);

	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
	return changed;
}

static void bind_text(sqlite3_stmt *st, int i, const char *text)
{
	if (i <= sqlite3_bind_parameter_count(st))
		sqlite3_bind_text(st, i, text, -1, SQLITE_TRANSIENT);
}

static int begin(struct store *store, struct error **err)
{
	sqlite3_stmt *st = statement(self(store), BEGIN, err);

	return !st || run(self(store), st, err) < 0 ? -1 : 0;
}

static int commit(struct store *store, struct error **err)
{
	sqlite3_stmt *st = statement(self(store), COMMIT, err);

	return !st || run(self(store), st, err) < 0 ? -1 : 0;
}

static bool in_transaction(struct store *store)
{
	return !sqlite3_get_autocommit(self(store)->db);
}

static void rollback(struct store *store)
{
	if (in_transaction(store))
		sqlite3_exec(self(store)->db, "ROLLBACK", NULL, NULL, NULL);
}

/* Bind all of a record under the numbers the statements above share. */
static void bind_record(sqlite3_stmt *st, const struct job_record *record)
{
	Control__V1__JobInfo *info = record_to_info(record, NULL, RECORD_STORE);
	size_t size = control__v1__job_info__get_packed_size(info);
	uint8_t *blob = xmalloc(size);

	control__v1__job_info__pack(info, blob);
	control__v1__job_info__free_unpacked(info, NULL);
	sqlite3_bind_blob64(st, 8, blob, size, free);
	bind_text(st, 1, record->id);
	sqlite3_bind_int64(st, 3, (sqlite3_int64)record->epoch);
	sqlite3_bind_int(st, 4, (int)record->state);
	sqlite3_bind_int64(st, 5, record->attempt);
	bind_text(st, 6, record->vm);
}

static void bind_inputs(sqlite3_stmt *st, const struct input_list *inputs)
{
	Control__V1__InputList *list = record_inputs_to_list(inputs);

	if (!list)
		return;
	size_t size = control__v1__input_list__get_packed_size(list);
	uint8_t *blob = xmalloc(size);
	control__v1__input_list__pack(list, blob);
	control__v1__input_list__free_unpacked(list, NULL);
	sqlite3_bind_blob64(st, 11, blob, size, free);
}

static void bind_spec(sqlite3_stmt *st, const Job__V1__Spec *spec)
{
	size_t size = job__v1__spec__get_packed_size(spec);
	uint8_t *blob = xmalloc(size);

	job__v1__spec__pack(spec, blob);
	sqlite3_bind_blob64(st, 7, blob, size, free);
}

/* One id by a statement of one text parameter: 1 found, 0 not, -1. */
static int find_one(struct store_sqlite *s, enum statement which, const char *text,
	char ret_id[JOB_ID_SIZE], struct error **err)
{
	sqlite3_stmt *st = statement(s, which, err);

	if (!st)
		return -1;
	bind_text(st, 1, text);
	int rc = sqlite3_step(st);
	int found = rc == SQLITE_ROW ? 1 : rc == SQLITE_DONE ? 0 : store_sqlite_error(s, err);
	if (found == 1)
		snprintf(ret_id, JOB_ID_SIZE, "%s", (const char *)sqlite3_column_text(st, 0));
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
	return found;
}

static int submit_labels(struct store_sqlite *s, const Job__V1__Spec *spec, struct error **err)
{
	sqlite3_int64 seq = sqlite3_last_insert_rowid(s->db);

	for (size_t i = 0; i < spec->n_labels; i++) {
		sqlite3_stmt *st = statement(s, LABEL, err);

		if (!st)
			return -1;
		bind_text(st, 1, spec->labels[i]->name);
		bind_text(st, 2, spec->labels[i]->value);
		sqlite3_bind_int64(st, 3, seq);
		if (run(s, st, err) < 0)
			return -1;
	}
	return 0;
}

/* Several statements of one operation, which fails as a whole and leaves the transaction alone. */
static int save(struct store_sqlite *s, struct error **err)
{
	return sqlite3_exec(s->db, "SAVEPOINT job", NULL, NULL, NULL) == SQLITE_OK
		       ? 0
		       : store_sqlite_error(s, err);
}

static int saved(struct store_sqlite *s, int r)
{
	if (r < 0 && in_transaction(&s->base))
		sqlite3_exec(s->db, "ROLLBACK TO job", NULL, NULL, NULL);
	if (in_transaction(&s->base))
		sqlite3_exec(s->db, "RELEASE job", NULL, NULL, NULL);
	return r;
}

static int get(struct store *store, const char *id, struct job_record **ret, struct error **err);

/* The key is another job's: the same one, sent twice, or a mistake. */
static int refuse_key(struct store *store, const struct job_record *record,
	char ret_other[JOB_ID_SIZE], struct error **err)
{
	_cleanup_job_record_ struct job_record *other = NULL;

	if (get(store, ret_other, &other, err) == 0 &&
		record_check_same(other, record->key, record->request_sha256, err) == 0)
		return error_set(err, ERR_EXISTS, "the key %s is job %s's", record->key, other->id);
	ret_other[0] = '\0';
	return -1;
}

static int submit(struct store *store, const struct job_record *record, char ret_other[JOB_ID_SIZE],
	struct error **err)
{
	struct store_sqlite *s = self(store);

	if (record->key) {
		int found = find_one(s, BY_KEY, record->key, ret_other, err);

		if (found < 0)
			return -1;
		if (found)
			return refuse_key(store, record, ret_other, err);
	}
	sqlite3_stmt *st = statement(s, SUBMIT, err);
	if (!st)
		return -1;
	bind_record(st, record);
	bind_spec(st, record->spec);
	bind_inputs(st, record->inputs);
	bind_text(st, 2, record->key);
	FAILPOINT("store.submit");
	if (!record->spec->n_labels)
		return run(s, st, err) < 0 ? -1 : 0;
	/* A job is its row and its labels, or nothing. */
	if (save(s, err) < 0)
		return -1;
	int r = run(s, st, err) < 0 || submit_labels(s, record->spec, err) < 0 ? -1 : 0;
	return saved(s, r);
}

static void bind_end(sqlite3_stmt *st, const struct job_record *record)
{
	uint64_t finished = record->result.times[STAGE_RECORDED];

	sqlite3_bind_int64(st, 9, (sqlite3_int64)finished);
	if (record->spec->has_ttl_after_finished_ms)
		sqlite3_bind_int64(st, 10,
			(sqlite3_int64)(finished + record->spec->ttl_after_finished_ms * 1000));
}

/* A change of one job that must find it as the caller believes it to be. */
static int change(struct store *store, enum statement which, const struct job_record *record,
	struct error **err)
{
	struct store_sqlite *s = self(store);
	sqlite3_stmt *st = statement(s, which, err);

	if (!st)
		return -1;
	bind_record(st, record);
	if (which == FINISH)
		bind_end(st, record);
	int changed = run(s, st, err);
	if (changed < 0)
		return -1;
	if (changed == 0)
		return error_set(err, ERR_ABORTED,
			"job %s is no longer held in epoch %llu, or has moved on", record->id,
			(unsigned long long)record->epoch);
	return 0;
}

static int claim(struct store *store, const struct job_record *record, struct error **err)
{
	int r = change(store, CLAIM, record, err);
	FAILPOINT("store.claim");
	return r;
}

static int take_over(struct store *store, const struct job_record *record, struct error **err)
{
	int r = change(store, TAKE_OVER, record, err);
	FAILPOINT("store.take-over");
	return r;
}

static int update(struct store *store, const struct job_record *record, struct error **err)
{
	int r = change(store, UPDATE, record, err);
	FAILPOINT("store.update");
	return r;
}

static int finish(struct store *store, const struct job_record *record, struct error **err)
{
	int r = change(store, FINISH, record, err);
	FAILPOINT("store.finish");
	return r;
}

static int requeue(struct store *store, const struct job_record *ended,
	const struct job_record *queued, struct error **err)
{
	if (save(self(store), err) < 0)
		return -1;
	int r = change(store, KEEP_ATTEMPT, ended, err);
	if (r == 0)
		r = change(store, REQUEUE, queued, err);
	saved(self(store), r);
	FAILPOINT("store.requeue");
	return r;
}

static int destroyed(
	struct store *store, const char *id, unsigned attempt, uint64_t at_usec, struct error **err)
{
	static const enum statement either[] = {DESTROYED_EARLIER, DESTROYED};
	int changed = 0;

	FAILPOINT("store.destroyed");
	for (size_t i = 0; i < ARRAY_SIZE(either) && changed == 0; i++) {
		sqlite3_stmt *st = statement(self(store), either[i], err);

		if (!st)
			return -1;
		bind_text(st, 1, id);
		sqlite3_bind_int64(st, 2, (sqlite3_int64)at_usec);
		sqlite3_bind_int64(st, 3, attempt);
		changed = run(self(store), st, err);
	}
	return changed < 0 ? -1 : 0;
}

static int remove_job(struct store *store, const char *id, struct error **err)
{
	sqlite3_stmt *st = statement(self(store), REMOVE, err);

	if (!st)
		return -1;
	bind_text(st, 1, id);
	int changed = run(self(store), st, err);
	if (changed < 0)
		return -1;
	return changed ? 0 : error_set(err, ERR_STATE, "job %s is not there or not finished", id);
}

static int read_blobs(sqlite3_stmt *st, struct job_record *record)
{
	Job__V1__Spec *spec = job__v1__spec__unpack(NULL,
		(size_t)sqlite3_column_bytes(st, COL_SPEC), sqlite3_column_blob(st, COL_SPEC));
	Control__V1__JobInfo *info = control__v1__job_info__unpack(NULL,
		(size_t)sqlite3_column_bytes(st, COL_RESULT), sqlite3_column_blob(st, COL_RESULT));

	record->spec = spec;
	if (info) {
		record_result_from_info(info, &record->result);
		record_rest_from_info(info, record);
		control__v1__job_info__free_unpacked(info, NULL);
	}
	return spec && info ? 0 : -1;
}

static int read_inputs(sqlite3_stmt *st, struct job_record *record)
{
	size_t size = (size_t)sqlite3_column_bytes(st, COL_INPUTS);

	if (!size)
		return 0;
	Control__V1__InputList *list =
		control__v1__input_list__unpack(NULL, size, sqlite3_column_blob(st, COL_INPUTS));
	if (!list)
		return -1;
	record->inputs = record_inputs_from_list(list);
	control__v1__input_list__free_unpacked(list, NULL);
	return 0;
}

static struct job_record *read_record(
	struct store_sqlite *s, sqlite3_stmt *st, bool inputs, struct error **err)
{
	_cleanup_job_record_ struct job_record *record = job_record_new();

	snprintf(record->id, sizeof(record->id), "%s",
		(const char *)sqlite3_column_text(st, COL_ID));
	record->key = xstrdup((const char *)sqlite3_column_text(st, COL_KEY));
	record->seq = (uint64_t)sqlite3_column_int64(st, COL_SEQ);
	record->epoch = (uint64_t)sqlite3_column_int64(st, COL_EPOCH);
	record->state = (enum job_state)sqlite3_column_int(st, COL_STATE);
	record->attempt = (unsigned)sqlite3_column_int(st, COL_ATTEMPT);
	snprintf(record->vm, sizeof(record->vm), "%s",
		(const char *)sqlite3_column_text(st, COL_VM));
	if (read_blobs(st, record) < 0 || (inputs && read_inputs(st, record) < 0)) {
		error_set(err, ERR_DATA_LOSS, "the job store %s: job %s cannot be read", s->path,
			record->id);
		return NULL;
	}
	if (sqlite3_column_type(st, COL_DESTROYED) != SQLITE_NULL)
		record->result.times[STAGE_DESTROYED] =
			(uint64_t)sqlite3_column_int64(st, COL_DESTROYED);
	return steal_ptr(record);
}

/* Visit each row of a bound statement. inputs: with their files, which may be many. */
static int walk(struct store_sqlite *s, sqlite3_stmt *st, bool inputs, store_visit visit, void *arg,
	struct error **err)
{
	int rc, r = 0;

	while (r == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		_cleanup_job_record_ struct job_record *record = read_record(s, st, inputs, err);

		r = record ? visit(arg, record, err) : -1;
	}
	if (r == 0 && rc != SQLITE_DONE)
		r = store_sqlite_error(s, err);
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
	return r;
}

static int keep(void *arg, const struct job_record *record, struct error **err)
{
	(void)err;
	*(struct job_record **)arg = job_record_copy(record);
	return 0;
}

static int get(struct store *store, const char *id, struct job_record **ret, struct error **err)
{
	sqlite3_stmt *st = statement(self(store), GET, err);
	_cleanup_job_record_ struct job_record *record = NULL;

	if (!st)
		return -1;
	bind_text(st, 1, id);
	if (walk(self(store), st, true, keep, &record, err) < 0)
		return -1;
	if (!record)
		return error_set(err, ERR_NOT_FOUND, "no job %s", id);
	*ret = steal_ptr(record);
	return 0;
}

static int find(
	struct store *store, const char *prefix, char ret_id[JOB_ID_SIZE], struct error **err)
{
	struct store_sqlite *s = self(store);
	char names[4 * JOB_ID_SIZE + 16] = "";
	size_t n = 0, used = 0;

	if (!job_id_prefix_valid(prefix))
		return error_set(err, ERR_NOT_FOUND, "no job %s", prefix);
	sqlite3_stmt *st = statement(s, FIND, err);
	if (!st)
		return -1;
	_cleanup_free_ char *end = str_printf("%s~", prefix); /* behind every digit of an id */
	bind_text(st, 1, prefix);
	bind_text(st, 2, end);
	int rc;
	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		const char *id = (const char *)sqlite3_column_text(st, 0);

		if (n++ == 0)
			snprintf(ret_id, JOB_ID_SIZE, "%s", id);
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s",
			n == 1 ? "" : ", ", n == 4 ? "..." : id);
	}
	int r = rc == SQLITE_DONE ? 0 : store_sqlite_error(s, err);
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
	if (r < 0)
		return -1;
	if (n == 0)
		return error_set(err, ERR_NOT_FOUND, "no job %s", prefix);
	if (n > 1)
		return error_set(
			err, ERR_INVALID, "%s is the beginning of several jobs: %s", prefix, names);
	return 0;
}

static int by_key(
	struct store *store, const char *key, char ret_id[JOB_ID_SIZE], struct error **err)
{
	int found = find_one(self(store), BY_KEY, key, ret_id, err);

	if (found == 0)
		return error_set(err, ERR_NOT_FOUND, "no job has the key %s", key);
	return found < 0 ? -1 : 0;
}

static struct job_record *read_attempt(
	struct store_sqlite *s, const char *id, sqlite3_stmt *st, struct error **err)
{
	_cleanup_job_record_ struct job_record *record = job_record_new();
	Control__V1__JobInfo *info = control__v1__job_info__unpack(
		NULL, (size_t)sqlite3_column_bytes(st, 4), sqlite3_column_blob(st, 4));

	snprintf(record->id, sizeof(record->id), "%s", id);
	record->state = JOB_FINISHED;
	record->attempt = (unsigned)sqlite3_column_int64(st, 0);
	record->epoch = (uint64_t)sqlite3_column_int64(st, 1);
	snprintf(record->vm, sizeof(record->vm), "%s", (const char *)sqlite3_column_text(st, 2));
	if (!info) {
		error_set(err, ERR_DATA_LOSS,
			"the job store %s: attempt %u of job %s cannot be read", s->path,
			record->attempt, id);
		return NULL;
	}
	record_result_from_info(info, &record->result);
	record_rest_from_info(info, record);
	control__v1__job_info__free_unpacked(info, NULL);
	if (sqlite3_column_type(st, 3) != SQLITE_NULL)
		record->result.times[STAGE_DESTROYED] = (uint64_t)sqlite3_column_int64(st, 3);
	return steal_ptr(record);
}

static int attempts(
	struct store *store, const char *id, store_visit visit, void *arg, struct error **err)
{
	struct store_sqlite *s = self(store);
	sqlite3_stmt *st = statement(s, ATTEMPTS, err);
	int rc = SQLITE_DONE, r = 0;

	if (!st)
		return -1;
	bind_text(st, 1, id);
	while (r == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		_cleanup_job_record_ struct job_record *record = read_attempt(s, id, st, err);

		r = record ? visit(arg, record, err) : -1;
	}
	if (r == 0 && rc != SQLITE_DONE)
		r = store_sqlite_error(s, err);
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
	return r;
}

static void append(char **text, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void append(char **text, const char *fmt, ...)
{
	_cleanup_free_ char *before = *text, *more = NULL;
	va_list args;

	va_start(args, fmt);
	if (vasprintf(&more, fmt, args) < 0)
		abort(); /* out of memory */
	va_end(args);
	*text = str_printf("%s%s", before, more);
}

/* Newest first from an index in each case, so that a page costs what it shows: by the first label,
 * by (state, seq) for each state and merged, or by the table itself. */
char *store_sqlite_list_text(const struct store_filter *filter)
{
	char *text = xstrdup("");

	if (filter->n_labels) {
		append(&text,
			"SELECT " COLUMNS " FROM labels CROSS JOIN jobs ON jobs.seq = labels.seq"
			" WHERE labels.name = ?4 AND labels.value = ?5 AND labels.seq < ?3");
		for (size_t i = 1; i < filter->n_labels; i++)
			append(&text,
				" AND EXISTS (SELECT 1 FROM labels AS l WHERE l.name = ?%zu"
				" AND l.value = ?%zu AND l.seq = jobs.seq)",
				4 + 2 * i, 5 + 2 * i);
		if (filter->states)
			append(&text, " AND (%u >> jobs.state) & 1", filter->states);
		append(&text, " ORDER BY labels.seq DESC LIMIT ?2");
		return text;
	}
	for (int state = JOB_QUEUED; state <= JOB_FINISHED; state++) {
		if (filter->states & 1u << state)
			append(&text,
				"%sSELECT " COLUMNS " FROM jobs WHERE state = %d AND jobs.seq < ?3",
				*text ? " UNION ALL " : "", state);
	}
	if (!*text)
		append(&text, "SELECT " COLUMNS " FROM jobs WHERE jobs.seq < ?3");
	append(&text, " ORDER BY %d DESC LIMIT ?2", COL_SEQ + 1);
	return text;
}

static int list(struct store *store, const struct store_filter *filter, store_visit visit,
	void *arg, struct error **err)
{
	struct store_sqlite *s = self(store);
	_cleanup_free_ char *text = store_sqlite_list_text(filter);
	sqlite3_stmt *st = NULL;

	if (sqlite3_prepare_v2(s->db, text, -1, &st, NULL) != SQLITE_OK)
		return store_sqlite_error(s, err);
	sqlite3_bind_int64(
		st, 3, filter->before_seq ? (sqlite3_int64)filter->before_seq : INT64_MAX);
	sqlite3_bind_int64(st, 2, filter->limit ? (sqlite3_int64)filter->limit : -1);
	for (size_t i = 0; i < filter->n_labels; i++) {
		bind_text(st, (int)(4 + 2 * i), filter->labels[i]->name);
		bind_text(st, (int)(5 + 2 * i), filter->labels[i]->value);
	}
	int r = walk(s, st, false, visit, arg, err);
	sqlite3_finalize(st);
	return r;
}

static int unfinished(struct store *store, store_visit visit, void *arg, struct error **err)
{
	sqlite3_stmt *st = statement(self(store), UNFINISHED, err);

	return st ? walk(self(store), st, true, visit, arg, err) : -1;
}

static int expired(struct store *store, const struct store_expiry *expiry, store_visit visit,
	void *arg, struct error **err)
{
	sqlite3_stmt *st = statement(self(store), EXPIRED, err);

	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, (sqlite3_int64)expiry->now_usec);
	sqlite3_bind_int64(st, 2, (sqlite3_int64)expiry->before_usec);
	sqlite3_bind_int64(st, 3, expiry->limit);
	sqlite3_bind_int64(st, 4, expiry->skip);
	sqlite3_bind_int64(st, 5, (sqlite3_int64)expiry->settled_usec);
	return walk(self(store), st, false, visit, arg, err);
}

static void close_store(struct store *store)
{
	struct store_sqlite *s = self(store);

	for (size_t i = 0; i < STATEMENTS; i++)
		sqlite3_finalize(s->statements[i]);
	sqlite3_close(s->db);
	free(s->path);
	free(s);
}

const struct store_ops store_sqlite_ops = {
	.begin = begin,
	.commit = commit,
	.rollback = rollback,
	.in_transaction = in_transaction,
	.submit = submit,
	.claim = claim,
	.take_over = take_over,
	.update = update,
	.finish = finish,
	.requeue = requeue,
	.destroyed = destroyed,
	.remove = remove_job,
	.get = get,
	.find = find,
	.by_key = by_key,
	.attempts = attempts,
	.list = list,
	.unfinished = unfinished,
	.expired = expired,
	.close = close_store,
};
