/* What is asked of the store, as SQL, and records made from its rows. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"
#include "orchestrator/store_sqlite_private.h"

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

const char store_sqlite_expired_text[] =
	"SELECT " COLUMNS " FROM jobs WHERE expires < ?1 AND finished < ?5 UNION ALL"
	" SELECT " COLUMNS " FROM jobs WHERE finished < min(?2, ?5) AND expires IS NULL"
	" LIMIT ?3 OFFSET ?4";

int store_sqlite_find_one(struct store_sqlite *s, enum statement which, const char *text,
	char ret_id[JOB_ID_SIZE], struct error **err)
{
	sqlite3_stmt *st = store_sqlite_statement(s, which, err);

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

int store_sqlite_get(
	struct store *store, const char *id, struct job_record **ret, struct error **err)
{
	sqlite3_stmt *st = store_sqlite_statement(self(store), GET, err);
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

int store_sqlite_find(
	struct store *store, const char *prefix, char ret_id[JOB_ID_SIZE], struct error **err)
{
	struct store_sqlite *s = self(store);
	char names[4 * JOB_ID_SIZE + 16] = "";
	size_t n = 0, used = 0;

	if (!job_id_prefix_valid(prefix))
		return error_set(err, ERR_NOT_FOUND, "no job %s", prefix);
	sqlite3_stmt *st = store_sqlite_statement(s, FIND, err);
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

int store_sqlite_by_key(
	struct store *store, const char *key, char ret_id[JOB_ID_SIZE], struct error **err)
{
	int found = store_sqlite_find_one(self(store), BY_KEY, key, ret_id, err);

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

int store_sqlite_attempts(
	struct store *store, const char *id, store_visit visit, void *arg, struct error **err)
{
	struct store_sqlite *s = self(store);
	sqlite3_stmt *st = store_sqlite_statement(s, ATTEMPTS, err);
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

int store_sqlite_list(struct store *store, const struct store_filter *filter, store_visit visit,
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

int store_sqlite_unfinished(struct store *store, store_visit visit, void *arg, struct error **err)
{
	sqlite3_stmt *st = store_sqlite_statement(self(store), UNFINISHED, err);

	return st ? walk(self(store), st, true, visit, arg, err) : -1;
}

int store_sqlite_expired(struct store *store, const struct store_expiry *expiry, store_visit visit,
	void *arg, struct error **err)
{
	sqlite3_stmt *st = store_sqlite_statement(self(store), EXPIRED, err);

	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, (sqlite3_int64)expiry->now_usec);
	sqlite3_bind_int64(st, 2, (sqlite3_int64)expiry->before_usec);
	sqlite3_bind_int64(st, 3, expiry->limit);
	sqlite3_bind_int64(st, 4, expiry->skip);
	sqlite3_bind_int64(st, 5, (sqlite3_int64)expiry->settled_usec);
	return walk(self(store), st, false, visit, arg, err);
}
