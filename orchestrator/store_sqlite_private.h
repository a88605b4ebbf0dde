/* What the two halves of the SQLite store share: the changes (store_sqlite.c) and the questions
 * (store_sqlite_read.c). */
#pragma once

#include "orchestrator/store_sqlite.h"

/* Every record is read through these columns, in this order. */
#define COLUMNS                                                                                    \
	"jobs.id, jobs.key, jobs.epoch, jobs.state, jobs.attempt, jobs.vm, jobs.destroyed,"        \
	" jobs.spec, jobs.result, jobs.seq, jobs.inputs"

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

static inline struct store_sqlite *self(struct store *store)
{
	return (struct store_sqlite *)store;
}

static inline void bind_text(sqlite3_stmt *st, int i, const char *text)
{
	if (i <= sqlite3_bind_parameter_count(st))
		sqlite3_bind_text(st, i, text, -1, SQLITE_TRANSIENT);
}

/* Prepared at its first use; unbound and at its beginning. NULL with *err. */
sqlite3_stmt *store_sqlite_statement(
	struct store_sqlite *s, enum statement which, struct error **err);

/* One id by a statement of one text parameter: 1 found, 0 not, -1. */
int store_sqlite_find_one(struct store_sqlite *s, enum statement which, const char *text,
	char ret_id[JOB_ID_SIZE], struct error **err);

/* As in struct store_ops. */
int store_sqlite_get(
	struct store *store, const char *id, struct job_record **ret, struct error **err);
int store_sqlite_find(
	struct store *store, const char *prefix, char ret_id[JOB_ID_SIZE], struct error **err);
int store_sqlite_by_key(
	struct store *store, const char *key, char ret_id[JOB_ID_SIZE], struct error **err);
int store_sqlite_attempts(
	struct store *store, const char *id, store_visit visit, void *arg, struct error **err);
int store_sqlite_list(struct store *store, const struct store_filter *filter, store_visit visit,
	void *arg, struct error **err);
int store_sqlite_unfinished(struct store *store, store_visit visit, void *arg, struct error **err);
int store_sqlite_expired(struct store *store, const struct store_expiry *expiry, store_visit visit,
	void *arg, struct error **err);
