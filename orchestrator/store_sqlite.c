/* The changes of the store, as SQL. */
#include "orchestrator/store_sqlite_private.h"

#include <stdio.h>
#include <string.h>

#include "common/failpoint.h"
#include "common/util.h"

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

sqlite3_stmt *store_sqlite_statement(
	struct store_sqlite *s, enum statement which, struct error **err)
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

static int begin(struct store *store, struct error **err)
{
	sqlite3_stmt *st = store_sqlite_statement(self(store), BEGIN, err);

	return !st || run(self(store), st, err) < 0 ? -1 : 0;
}

static int commit(struct store *store, struct error **err)
{
	sqlite3_stmt *st = store_sqlite_statement(self(store), COMMIT, err);

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

static int submit_labels(struct store_sqlite *s, const Job__V1__Spec *spec, struct error **err)
{
	sqlite3_int64 seq = sqlite3_last_insert_rowid(s->db);

	for (size_t i = 0; i < spec->n_labels; i++) {
		sqlite3_stmt *st = store_sqlite_statement(s, LABEL, err);

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

/* The key is another job's: the same one, sent twice, or a mistake. */
static int refuse_key(struct store *store, const struct job_record *record,
	char ret_other[JOB_ID_SIZE], struct error **err)
{
	_cleanup_job_record_ struct job_record *other = NULL;

	if (store_sqlite_get(store, ret_other, &other, err) == 0 &&
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
		int found = store_sqlite_find_one(s, BY_KEY, record->key, ret_other, err);

		if (found < 0)
			return -1;
		if (found)
			return refuse_key(store, record, ret_other, err);
	}
	sqlite3_stmt *st = store_sqlite_statement(s, SUBMIT, err);
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
	sqlite3_stmt *st = store_sqlite_statement(s, which, err);

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
		sqlite3_stmt *st = store_sqlite_statement(self(store), either[i], err);

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
	sqlite3_stmt *st = store_sqlite_statement(self(store), REMOVE, err);

	if (!st)
		return -1;
	bind_text(st, 1, id);
	int changed = run(self(store), st, err);
	if (changed < 0)
		return -1;
	return changed ? 0 : error_set(err, ERR_STATE, "job %s is not there or not finished", id);
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
	.get = store_sqlite_get,
	.find = store_sqlite_find,
	.by_key = store_sqlite_by_key,
	.attempts = store_sqlite_attempts,
	.list = store_sqlite_list,
	.unfinished = store_sqlite_unfinished,
	.expired = store_sqlite_expired,
	.close = close_store,
};
